"""Usage tables: one set of rows, many faces."""

import csv
import io
import json
from decimal import Decimal
from itertools import permutations

from tenantry.billing_shown import usage_csv
from tenantry.core.billing.statement import as_json, plain, remarks, usage_table
from tenantry_testing.billing import SECOND, month, operators, tally

TALLIES = month()[0]


def test_rows_are_by_what_was_asked_for_and_by_who_pays_and_how_it_was_measured() -> None:
    table = usage_table(TALLIES, ["tenant", "kind"])  # type: ignore[list-item]  # said twice, shown once
    keys = [tuple(row.values())[:4] for row in table.records()]
    assert keys == [
        ("", "request", "unstamped", "engine"),
        ("acme", "request", "failed", "engine"),
        ("acme", "request", "mirror", "engine"),
        ("acme", "request", "tenant", "engine"),
        ("acme", "request", "unfinished", "engine"),
        ("acme", "training", "tenant", ""),
        ("globex", "request", "tenant", "engine"),
    ]


def test_figures_are_exact_sums() -> None:
    row = usage_table(TALLIES, ["tenant"]).records()[3]
    assert (row["requests"], row["input_tokens"], row["cached_tokens"], row["output_tokens"]) == (
        100, 10_000, 1_000, 5_000,
    )  # fmt: skip
    assert (str(row["gpu_seconds"]), str(row["compute_units"])) == ("66.000000000", "25.100000")
    (tiny,) = usage_table([operators("failed", 1)], []).records()
    assert str(plain(tiny["gpu_seconds"])) == "0.000000001"


def test_a_peak_is_the_highest_and_no_sum() -> None:
    (row,) = usage_table([tally(peak_kv_bytes=7), tally(peak_kv_bytes=9), tally(peak_kv_bytes=8)], ["tenant"]).records()
    assert row["peak_kv_bytes"] == 9


def test_the_order_of_tallies_changes_nothing() -> None:
    few = TALLIES[:5]
    assert len({usage_csv(usage_table(order, ["model", "tenant"])) for order in permutations(few)}) == 1


def test_hours_are_moments() -> None:
    table = usage_table([tally(hour=1_800_000_000, requests=1)], ["hour"])
    assert usage_csv(table).splitlines()[1].startswith("2027-01-15T08:00:00Z,request,tenant,engine,1,")


def test_csv_is_read_back_as_it_was_also_with_odd_names() -> None:
    table = usage_table([tally(adapter='a,"b"\nc', requests=3, decode_gpu_ns=SECOND)], ["adapter"])
    (row,) = csv.DictReader(io.StringIO(usage_csv(table), newline=""))
    assert (row["adapter"], row["requests"], row["gpu_seconds"]) == ('a,"b"\nc', "3", "1.000000000")


def test_json_has_numbers_that_lose_nothing() -> None:
    table = usage_table([tally(decode_gpu_ns=2**62 + 1, compute_units_micro=1)], ["tenant"])
    (row,) = json.loads(as_json(table), parse_float=Decimal)
    assert row["gpu_seconds"] == Decimal("4611686018.427387905")
    assert row["compute_units"] == Decimal("0.000001")


def test_what_no_engine_measured_is_told() -> None:
    mixed = [tally(requests=5), tally(measured="estimate", requests=2), tally(measured="response", requests=1)]
    assert remarks(usage_table(mixed, ["tenant"])) == [
        "2 of 8 requests are estimated from the sizes of bodies (measured: estimate)",
        "1 of 8 requests are read from responses, without GPU time (measured: response)",
    ]
    assert remarks(usage_table(TALLIES, ["tenant"])) == []


def test_no_usage_is_a_table_without_rows() -> None:
    table = usage_table([], ["tenant"])
    assert usage_csv(table).count("\n") == 1
    assert json.loads(as_json(table)) == []
