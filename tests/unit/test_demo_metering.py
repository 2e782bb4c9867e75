"""The demo's bills: what counts as conserved and as billed once, what each figure means, and how the ledger is read.

The small recorded run has two answers for globex, two for hooli and one for umbrella, of 0.25 GPU-seconds each.
"""

import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from msgspec.structs import replace
from tenantry.core.billing.operator import Bills
from tenantry.core.usage import Charge, ColdStart
from tenantry_testing.demo_books import COLD_START_NS, GPU_NS, IDLE_NS, rebilled
from tenantry_testing.demo_run import Figures, call, clean_run
from tenantry_testing.documents import KEYS, document, secret_files
from tenantry_testing.ledger_service import LedgerElsewhere
from tenantry_testing.ledger_world import NOVEMBER, OCTOBER, request, span

from demo.bookkeeping import read_books
from demo.charts import NARROW, WIDE
from demo.measure import build
from demo.observe import RecordLostError
from demo.report_html import page
from demo.run import Books, Run

CONSERVED = "every GPU-nanosecond has an owner: tenants + operator + cold start + idle = wall"
ONCE = "every answer that a client got is billed once, to its tenant, and nothing else is"
TIME = "every tenant that was answered has GPU time and compute units"
SUMS = "the lines of every invoice add up to its total, and the invoices to what tenants are charged"
OWN = "a tenant reads its own invoice with its own key, and nobody else's"
GLOBEX, HOOLI, UMBRELLA = 0, 1, 2
"""Places of the tallies."""


def failed(run: Run) -> list[str]:
    return [expectation.what for expectation in build(run).expectations if not expectation.held]


def with_books(books: Books) -> Run:
    return replace(clean_run(), books=books)


def with_invoice(**fields: Any) -> Books:
    """The books with fields of hooli's invoice changed; globex reads its own."""
    books = clean_run().books
    (bills,) = books.bills
    changed = tuple(replace(bill, **fields) if bill.tenant == "hooli" else bill for bill in bills.invoices)
    return replace(books, bills=(replace(bills, invoices=changed),))


def hoolis_lines(*amounts: str) -> tuple[Any, ...]:
    """Hooli's lines (requests, cold starts) with other amounts."""
    lines = next(bill for bill in clean_run().books.bills[0].invoices if bill.tenant == "hooli").lines
    return tuple(replace(line, amount=Decimal(amount)) for line, amount in zip(lines, amounts, strict=True))


def test_parts_of_the_gpu_time_add_up_to_its_wall_time() -> None:
    metering = build(clean_run()).metering

    assert metering.gpu_ns == {
        "tenants": 5 * GPU_NS, "mirror": 0, "failed": 0, "unstamped": 0, "unfinished": 0, "in_flight": 0,
        "cold_start": 3 * COLD_START_NS, "idle": 3 * IDLE_NS, "operator": 0,
        "wall": 5 * GPU_NS + 3 * COLD_START_NS + 3 * IDLE_NS,
    }  # fmt: skip
    assert (metering.conserved, metering.unexplained_ns) == (True, 0)
    assert (metering.busy, metering.idle, metering.cold_start) == (1.250000005, 15.000000009, 84.000000003)
    assert metering.wall_gpu_seconds == 100.250000017


def test_a_tenants_figures_are_in_report_json_by_name() -> None:
    document = msgspec.json.decode(msgspec.json.encode(build(clean_run())))
    hooli = document["tenants"]["hooli"]
    billed = document["metering"]["billed"]["hooli"]

    assert (hooli["gpu_seconds"], hooli["compute_units"]) == (0.500000002, 0.140014)
    # Two answers of 0.070007 units at 0.00001 EUR, and two fifths of 84 s of cold starts at 2.40 EUR an hour.
    assert hooli["invoice"] == {"amount": "0.022401", "currency": "EUR"}
    assert billed["invoice"] == hooli["invoice"]
    assert (billed["answered"], billed["requests"], billed["cold_start_gpu_seconds"]) == (2, 2, 33.600000001)
    assert [(line["kind"], line["amount"]) for line in billed["lines"]] == [
        ("request", "0.000001"),
        ("cold_start", "0.022400"),
    ]


@pytest.mark.parametrize(
    ("books", "expected"),
    [
        (Books(), [CONSERVED, ONCE, TIME, SUMS, OWN]),
        (rebilled(clean_run().books, busy_ns=1), [CONSERVED]),
        (rebilled(clean_run().books, changes={HOOLI: {"decode_gpu_ns": 2 * GPU_NS + 1}}), [CONSERVED]),
        (rebilled(clean_run().books, changes={HOOLI: {"prefill_gpu_ns": 0, "decode_gpu_ns": 0}}), [CONSERVED, TIME]),
        (rebilled(clean_run().books, changes={HOOLI: {"compute_units_micro": 0}}), [TIME]),
        (rebilled(clean_run().books, changes={HOOLI: {"requests": 1}}), [ONCE]),
        (rebilled(clean_run().books, changes={HOOLI: {"tenant": "globex"}}), [ONCE, TIME]),
        (rebilled(clean_run().books, changes={HOOLI: {"owner": "failed"}}), [ONCE, TIME]),
        (rebilled(clean_run().books, changes={HOOLI: {"tenant": "acme"}}), [ONCE, TIME]),
        (with_invoice(total=Decimal("0.022402")), [SUMS]),
        (with_invoice(lines=hoolis_lines("0.000002", "0.022400")), [SUMS]),
        (with_invoice(lines=hoolis_lines("0.000003", "0.022398")), [SUMS]),  # the same total, not by their prices
        (with_invoice(lines=hoolis_lines("0.000001", "0.022401"), total=Decimal("0.022402")), [SUMS]),
        (with_invoice(lines=(), total=Decimal(0)), [SUMS]),
        (replace(clean_run().books, foreign_status=200), [OWN]),
        (replace(clean_run().books, own=clean_run().books.bills[0]), [OWN]),
        (replace(clean_run().books, own=Bills(invoices=clean_run().books.bills[0].invoices[1:2])), [OWN]),
    ],
)
def test_each_defect_of_the_books_fails_its_own_expectation(books: Books, expected: list[str]) -> None:
    assert failed(with_books(books)) == expected


def test_busy_time_without_a_record_is_told_in_nanoseconds() -> None:
    metering = build(with_books(rebilled(clean_run().books, busy_ns=3))).metering

    assert (metering.unexplained_ns, metering.conserved) == (3, False)


def test_a_request_without_an_answer_is_not_billed() -> None:
    lost = call("hooli", 6, 1008.0, request_id="", status=503, error="InternalServerError: 503")
    run = replace(clean_run(), calls=(*clean_run().calls, lost))

    assert ONCE not in failed(run)
    assert build(run).metering.billed["hooli"].answered == 2


def test_time_that_two_versions_have_mixed_up_is_not_conserved() -> None:
    """The sums of the model agree; those of its versions do not."""
    books = rebilled(
        clean_run().books,
        changes={
            HOOLI: {"decode_gpu_ns": clean_run().books.tallies[HOOLI].decode_gpu_ns - 1},
            GLOBEX: {"decode_gpu_ns": clean_run().books.tallies[GLOBEX].decode_gpu_ns + 1},
        },
    )

    assert failed(with_books(books)) == [CONSERVED]


def test_a_ledger_that_lacks_an_answer_or_has_one_too_many_is_told_with_the_tenants_name() -> None:
    run = replace(clean_run(), calls=(*clean_run().calls, call("hooli", 6, 1008.0)))
    (told,) = [each.detail for each in build(run).expectations if each.what == ONCE]

    assert told == "globex 2, hooli 2, umbrella 1; 5 in all for 6 answers; but hooli got 3"


def test_a_play_while_a_month_ends_is_billed_in_both() -> None:
    books = clean_run().books
    (bills,) = books.bills
    assert bills.statement is not None
    bills = replace(
        bills,
        invoices=tuple(replace(bill, period="2026-12") for bill in bills.invoices),
        statement=replace(bills.statement, period="2026-12"),
    )
    both = replace(
        books, bills=(*books.bills, bills), tallies=books.tallies * 2, engines=books.engines * 2,
        own=replace(books.own, invoices=tuple(bill for bill in bills.invoices if bill.tenant == "globex")),
    )  # fmt: skip
    twice = replace(clean_run(), books=both, calls=clean_run().calls * 2)
    metering = build(twice).metering

    assert metering.period == "2026-11, 2026-12"
    assert metering.gpu_ns["tenants"] == 10 * GPU_NS
    assert metering.billed["hooli"].invoice.amount == "0.044802"
    assert metering.conserved
    assert not {CONSERVED, ONCE, SUMS, OWN} & set(failed(twice))


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_the_parts_of_the_bar_are_as_long_as_their_shares(width: int) -> None:
    bar = next(
        part
        for part in page(build(clean_run())).split("<svg")[1:]
        if f'viewBox="0 0 {width} ' in part and "Wall time of all GPUs" in part
    )
    parts = {
        given["data-of"]: (float(str(given["x"])), float(str(given["width"])))
        for tag, given in Figures(bar).attributes
        if tag == "rect" and "data-of" in given
    }

    assert list(parts) == ["metering/tenants", "metering/cold_start", "metering/idle"]  # of the operator is nothing
    assert parts["metering/tenants"][0] == 0
    assert sum(parts["metering/idle"]) == pytest.approx(width, abs=0.2)
    assert parts["metering/cold_start"][1] / width == pytest.approx(84 / 100.25, abs=0.001)


def test_the_page_has_an_invoice_and_says_that_it_is_simulated() -> None:
    text = page(build(clean_run()))
    paths = {path: shown for path, _, shown in Figures(text).found}

    assert "globex&#x27;s invoice, 2026-11" in text
    assert paths["metering/billed/globex/lines/0/compute_unit_price"] == "0.000011"
    assert paths["metering/billed/globex/invoice/amount"] == "0.022402"
    assert "this GPU time, the cold starts and the amounts are simulated" in text
    assert "none is missing" in text


def test_the_tenants_table_says_of_how_many_answers_its_amounts_are() -> None:
    # The rollouts' load is billed as well, and is not among the `requests` above.
    text = page(build(clean_run()))
    begin = text.index("billed answers, the rollouts")
    row = text[begin : text.index("</tr>", begin)]
    assert 'data-of="metering/billed/hooli/requests"' in row


def test_the_page_does_not_say_that_the_sums_hold_when_they_do_not() -> None:
    text = page(build(with_books(rebilled(clean_run().books, busy_ns=1))))

    assert "none is missing" not in text
    assert "this does not hold" in text


def test_the_page_of_a_play_whose_ledger_says_nothing_says_so() -> None:
    assert "The ledger says nothing." in page(build(with_books(Books())))


async def read(ledger: LedgerElsewhere, *, operator: str | None = None) -> Books:
    token = secret_files()["admin-token"].decode().strip()
    async with aiohttp.ClientSession() as http:
        return await read_books(
            http, f"http://{ledger.address}", operator=operator or token, tenant_key=KEYS["acme"],
            other_tenant="globex",
        )  # fmt: skip


async def test_a_ledger_is_read_over_http_for_both_months_and_by_a_tenant_for_itself(tmp_path: Path) -> None:
    charge = Charge(prefill_gpu_ns=1_000, decode_gpu_ns=2_000, input_tokens=10)
    with LedgerElsewhere(tmp_path, document(), time.time()) as ledger:
        ledger.book(
            [
                ColdStart(engine="e1", model="chat-8b", version="1.4.0", ended_s=OCTOBER - 60, load_ns=7),
                request("r1", charge=charge),
                span(1),
                request("r2", tenant="globex", tier="bronze", ended_s=NOVEMBER, charge=charge),
                span(2, ended_s=NOVEMBER),
            ]
        )
        books = await read(ledger)

    assert [(tally.tenant, tally.requests, tally.gpu_ns) for tally in books.tallies] == [
        ("acme", 1, 3_000),
        ("globex", 1, 3_000),
    ]
    assert sum(engine.wall_gpu_ns for engine in books.engines) == 20_007
    periods = [bills.statement.period for bills in books.bills if bills.statement is not None]
    assert periods[:2] == ["2026-10", "2026-11"]
    assert [bill.tenant for bills in books.bills for bill in bills.invoices] == ["acme", "globex"]
    assert [bill.tenant for bill in books.own.invoices] == ["acme"]
    assert books.own.statement is None
    assert books.foreign_status == 403


async def test_a_ledger_that_refuses_or_is_gone_is_told(tmp_path: Path) -> None:
    with (
        LedgerElsewhere(tmp_path, document(), time.time()) as ledger,
        pytest.raises(RecordLostError, match="the ledger answers 401 to /usage"),
    ):
        await read(ledger, operator="nobody")
    with pytest.raises(RecordLostError, match="the ledger does not answer"):
        await read(ledger)
