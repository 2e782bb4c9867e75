"""`tenantry usage`, `invoice`, `usage record` and `profile` as a shell runs them, against a real ledger's service."""

import csv
import io
import json
import signal
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import pytest
from pyarrow import parquet
from tenantry import billing_cli, cli, training_cli
from tenantry.adapters.ledger import training
from tenantry.core.usage import Charge, ColdStart, EngineSpan, UsageRecord
from tenantry_testing.billing import PRICES
from tenantry_testing.documents import document
from tenantry_testing.ledger_service import LedgerElsewhere

NOW = datetime(2026, 11, 25, 12, 30, tzinfo=UTC).timestamp()
SECOND = 10**9
DOCUMENT = document(tiers=PRICES, billing={"operatorGpuHour": "0.90"})

Run = Callable[..., tuple[int, str, str]]


def served(tenant: str, number: int, **changes: object) -> UsageRecord:
    usual: dict[str, object] = {
        "request_id": f"{tenant}-{number}", "engine": "e1", "tenant": tenant, "model": "chat-8b", "version": "1.4.0",
        "tier": "gold" if tenant == "acme" else "bronze", "ended_s": NOW - 600, "finish_reason": "stop",
        "charge": Charge(prefill_gpu_ns=SECOND, decode_gpu_ns=9 * SECOND, input_tokens=500, output_tokens=100),
    }  # fmt: skip
    return UsageRecord(**(usual | changes))  # type: ignore[arg-type]


def start(engine: str, seconds: int) -> ColdStart:
    return ColdStart(engine=engine, model="chat-8b", version="1.4.0", ended_s=NOW - 900, load_ns=seconds * SECOND)


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LedgerElsewhere]:
    for module in (billing_cli, training_cli):
        monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: NOW))
    monkeypatch.setattr(training, "PATIENCE_SECONDS", 0.0)
    with LedgerElsewhere(tmp_path, DOCUMENT, NOW) as made:
        yield made


@pytest.fixture
def run(ledger: LedgerElsewhere, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `tenantry` against the ledger; return its exit code, what it printed, and its errors."""

    def tenantry(
        *arguments: str, token: str = "secrets/admin-token", address: str | None = None
    ) -> tuple[int, str, str]:
        where = ["--ledger", address or ledger.address, "--token-file", str(ledger.folder / token)]
        before, dashes, command = _split(arguments)
        monkeypatch.setattr("sys.argv", ["tenantry", *before, *where, *dashes, *command])
        try:
            cli.main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        printed = capfd.readouterr()
        return code, printed.out, printed.err

    return tenantry


def _split(arguments: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    at = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:at], arguments[at : at + 1], arguments[at + 1 :]


@pytest.fixture
def november(ledger: LedgerElsewhere) -> LedgerElsewhere:
    """A cold start of 300 s, two requests of acme's, one of globex's, one that failed; 10 s of GPU time each."""
    work = [served("acme", 1), served("acme", 2, adapter="acme-support"), served("globex", 1)]
    work += [served("globex", 2, finish_reason="error")]
    span = EngineSpan(
        engine="e1", model="chat-8b", version="1.4.0", part=1, ended_s=NOW, wall_ns=900 * SECOND,
        busy_gpu_ns=40 * SECOND,
    )  # fmt: skip
    ledger.book([start("e1", 300), *work, span], [0, *[1_000_000] * 4, 0])
    return ledger


# --- usage -------------------------------------------------------------------------------------------------------


def test_a_table_of_usage(november: LedgerElsewhere, run: Run) -> None:
    code, shown, err = run("usage")
    assert (code, err) == (0, "")
    assert [" ".join(line.split()) for line in shown.splitlines()] == [
        "tenant model paid by requests in cached out GPU s units",
        "acme chat-8b tenant 2 1,000 0 200 20.000 2.000",
        "globex chat-8b operator (failed) 1 500 0 100 10.000 1.000",
        "globex chat-8b tenant 1 500 0 100 10.000 1.000",
        "all 4 2,000 0 400 40.000 4.000",
    ]


def test_columns_are_chosen_and_rows_are_those_of_one_tenant_or_model(november: LedgerElsewhere, run: Run) -> None:
    _, shown, _ = run("usage", "--by", "hour,adapter", "--tenant", "acme", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(shown, newline="")))
    assert [(row["hour"], row["adapter"], row["gpu_seconds"]) for row in rows] == [
        ("2026-11-25T12:00:00Z", "", "10.000000000"),
        ("2026-11-25T12:00:00Z", "acme-support", "10.000000000"),
    ]
    assert len(json.loads(run("usage", "--model", "chat-8b", "--format", "json")[1])) == 3


def test_a_span_of_hours(november: LedgerElsewhere, run: Run) -> None:
    def requests(begin: str, end: str) -> list[str]:
        _, shown, _ = run("usage", "--from", begin, "--to", end, "--by", "tenant", "--format", "csv")
        return [row["requests"] for row in csv.DictReader(io.StringIO(shown, newline=""))]

    assert requests("2026-11-25T12:00", "2026-11-25T13:00") == ["2", "1", "1"]
    assert requests("2026-11-25T11:00", "2026-11-25T12:00") == []


def test_what_was_estimated_is_marked(november: LedgerElsewhere, run: Run) -> None:
    november.book([served("globex", 9, engine="other", measured="estimate", charge=Charge(input_tokens=40))])
    _, shown, _ = run("usage")
    assert next(line for line in shown.splitlines() if "estimate" in line).split()[:4] == [
        "globex", "chat-8b", "tenant", "estimate",
    ]  # fmt: skip
    assert "1 of 5 requests are estimated from the sizes of bodies" in shown


def test_a_file_has_the_format_of_its_name(november: LedgerElsewhere, run: Run, tmp_path: Path) -> None:
    for name in ("usage.csv", "usage.json", "usage.parquet", "usage.txt"):
        assert run("usage", "--out", str(tmp_path / name)) == (0, "", "")
    with (tmp_path / "usage.csv").open(newline="") as file:
        from_csv = [(row["tenant"], row["gpu_seconds"]) for row in csv.DictReader(file)]
    from_json = json.loads((tmp_path / "usage.json").read_text(), parse_float=str)
    table = parquet.read_table(tmp_path / "usage.parquet")
    from_parquet = table.to_pylist()
    expected = [("acme", "20.000000000"), ("globex", "10.000000000"), ("globex", "10.000000000")]
    assert from_csv == expected
    assert [(row["tenant"], row["gpu_seconds"]) for row in from_json] == expected
    assert [(row["tenant"], str(row["gpu_seconds"])) for row in from_parquet] == expected
    assert (tmp_path / "usage.txt").read_text().startswith("tenant ")


def test_parquet_has_types(november: LedgerElsewhere, run: Run, tmp_path: Path) -> None:
    run("usage", "--by", "hour", "--out", str(tmp_path / "u.parquet"))
    schema = parquet.read_schema(tmp_path / "u.parquet")
    types = {field.name: str(field.type) for field in schema}
    assert types["hour"] == "timestamp[ms, tz=UTC]"
    assert (types["requests"], types["gpu_seconds"], types["owner"]) == ("int64", "decimal128(38, 9)", "string")
    assert types["kv_byte_ms"] == "decimal128(38, 0)"


def test_without_pyarrow_parquet_says_what_to_install(
    november: LedgerElsewhere, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    code, _, err = run("usage", "--out", str(tmp_path / "u.parquet"))
    assert code == 1
    assert "pip install 'tenantry[parquet]'" in err


def test_a_tenant_reads_its_own_with_its_own_key_and_no_others(november: LedgerElsewhere, run: Run) -> None:
    _, shown, _ = run("usage", "--format", "csv", token="globex.key")
    assert [row["owner"] for row in csv.DictReader(io.StringIO(shown, newline=""))] == ["tenant"]
    assert "acme" not in shown
    code, shown, err = run("usage", "--tenant", "acme", token="globex.key")
    assert (code, shown) == (1, "")
    assert "that tenant's usage alone" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--by", "tennant"), '--by tennant: no such column; did you mean "tenant"?'),
        (("--period", "2027-01"), "2027-01 has not begun; the present period is 2026-11"),
        (("--period", "november"), "'november' is no period"),
        (("--tenant", "acmee"), "no usage of tenant 'acmee' in 2026-11; did you mean \"acme\"?"),
        (("--model", "chat8b"), "no usage of model 'chat8b' in 2026-11; did you mean \"chat-8b\"?"),
        (("--format", "parquet"), "give --out FILE"),
        (("--out", "/nowhere/usage.csv"), "--out /nowhere/usage.csv: No such file or directory"),
    ],
)
def test_mistakes_are_named(november: LedgerElsewhere, run: Run, arguments: tuple[str, ...], message: str) -> None:
    code, shown, err = run("usage", *arguments)
    assert (code, shown) == (1, "")
    assert message in err


def test_no_usage_yet_is_no_error(ledger: LedgerElsewhere, run: Run) -> None:
    assert run("usage") == (0, "", "No usage in 2026-11 yet.\n")
    assert run("usage", "--tenant", "acme") == (0, "", "No usage in 2026-11 yet.\n")
    assert run("usage", "--format", "json") == (0, "[]\n", "No usage in 2026-11 yet.\n")


def test_a_ledger_that_is_elsewhere_or_something_else(november: LedgerElsewhere, run: Run) -> None:
    _, _, err = run("usage", address="127.0.0.1:1")
    assert "no ledger answers at 127.0.0.1:1 (Connection refused); give --ledger" in err
    _, _, err = run("usage", token="secrets/usage-token")
    assert "does not take the credential in" in err
    _, _, err = run("usage", token="no-such-file")
    assert "No such file or directory; give --token-file" in err


# --- invoices ----------------------------------------------------------------------------------------------------


def test_all_invoices_and_what_the_operator_pays(november: LedgerElsewhere, run: Run) -> None:
    code, shown, err = run("invoice")
    assert (code, err) == (0, "")
    assert "acme, 2026-11 (not closed: it may still grow)" in shown
    assert "quota: 2.000 of 1,000 compute units are used (0.2%)" in shown
    assert "operator, 2026-11: tenants are charged 0.27 EUR" in shown
    assert "every GPU-nanosecond has an owner: the parts add up to wall time x GPUs" in shown
    assert [line.split()[-1] for line in shown.splitlines() if line.startswith("total")] == ["0.18", "0.09"]


def test_an_invoice_as_json_is_exact_and_its_lines_add_up(november: LedgerElsewhere, run: Run) -> None:
    bills = json.loads(run("invoice", "--format", "json")[1])
    acme = bills["invoices"][0]
    assert [(line["kind"], line["adapter"], line["amount"]) for line in acme["lines"]] == [
        ("request", "", "0.01"),
        ("request", "acme-support", "0.01"),
        ("cold_start", "", "0.16"),  # 0.1667 alone; it gives way, as the exact total is 0.1834
    ]
    assert sum(Decimal(line["amount"]) for line in acme["lines"]) == Decimal(acme["total"]) == Decimal("0.18")
    assert acme["lines"][2]["gpu_ns"] == 200 * SECOND
    time = bills["statement"]["gpu_time"]
    assert time == {
        "tenants_ns": 30 * SECOND, "mirror_ns": 0, "failed_ns": 10 * SECOND, "unstamped_ns": 0, "unfinished_ns": 0,
        "in_flight_ns": 0, "cold_start_ns": 300 * SECOND, "idle_ns": 860 * SECOND, "wall_ns": 1200 * SECOND,
    }  # fmt: skip


def test_one_tenants_invoice_is_the_same_for_it_and_for_the_operator(november: LedgerElsewhere, run: Run) -> None:
    own = json.loads(run("invoice", "--format", "json", token="globex.key")[1])
    assert own == json.loads(run("invoice", "--format", "json", "--tenant", "globex")[1])
    assert own["statement"] is None
    assert [invoice["tenant"] for invoice in own["invoices"]] == ["globex"]
    code, shown, err = run("invoice", "--tenant", "acme", token="globex.key")
    assert (code, shown) == (1, "")
    assert "that tenant's invoice alone" in err


def test_the_invoice_of_a_closed_period_says_so_and_a_late_record_corrects_it(
    november: LedgerElsewhere, run: Run
) -> None:
    november.now_s = NOW + 10 * 86_400
    november.close_period("2026-11")
    november.book([served("acme", 3)], [5_000_000])
    december = datetime(2026, 12, 5, tzinfo=UTC).timestamp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(billing_cli, "time", SimpleNamespace(time=lambda: december))
        assert "acme, 2026-11 (closed)" in run("invoice", "--period", "2026-11", "--tenant", "acme")[1]
        late = run("invoice", "--tenant", "acme")[1]
    assert "correction of 2026-11: chat-8b 1.4.0" in late
    assert "quota: 0.000 of 1,000" in late


def test_a_new_price_changes_no_closed_period_and_no_correction_of_one(november: LedgerElsewhere, run: Run) -> None:
    november.now_s = NOW + 10 * 86_400
    november.close_period("2026-11")
    before = run("invoice", "--period", "2026-11", "--format", "json")[1]
    dearer = {tier: {**rules, "price": {"computeUnit": "900"}} for tier, rules in PRICES.items()}
    november.save_rules(document(tiers=dearer, billing={"operatorGpuHour": "7"}))
    november.book([served("acme", 3), served("acme", 4, ended_s=november.now_s)], [5_000_000, 1_000_000])
    december = datetime(2026, 12, 5, tzinfo=UTC).timestamp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(billing_cli, "time", SimpleNamespace(time=lambda: december))
        assert run("invoice", "--period", "2026-11", "--format", "json")[1] == before
        (bill,) = json.loads(run("invoice", "--tenant", "acme", "--format", "json")[1])["invoices"]
    assert [(line["corrects"], line["compute_unit_price"]) for line in bill["lines"]] == [
        ("", "900"),
        ("2026-11", "0.0042"),
    ]


def test_invoices_as_csv_are_their_lines(november: LedgerElsewhere, run: Run, tmp_path: Path) -> None:
    run("invoice", "--out", str(tmp_path / "invoices.csv"))
    with (tmp_path / "invoices.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["tenant"], row["kind"], row["amount"]) for row in rows] == [
        ("acme", "request", "0.01"), ("acme", "request", "0.01"), ("acme", "cold_start", "0.16"),
        ("globex", "request", "0.00"), ("globex", "cold_start", "0.09"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tenant", "acmee"), "no tenant 'acmee' in the rules or the period; did you mean \"acme\"?"),
        (("--period", "2026-12"), "2026-12 has not begun"),
        (("--out", "invoice.parquet"), "invoices come as table, csv or json"),
    ],
)
def test_invoices_that_cannot_be(november: LedgerElsewhere, run: Run, arguments: tuple[str, ...], message: str) -> None:
    code, _, err = run("invoice", *arguments)
    assert code == 1
    assert message in err


def test_usage_without_a_price_stops_the_invoice_and_names_the_tier(november: LedgerElsewhere, run: Run) -> None:
    november.book([served("acme", 4, tier="golden")], [1])
    code, _, err = run("invoice")
    assert code == 1
    assert 'acme has usage in tier "golden", which the rules do not have' in err
    assert run("invoice", token="globex.key")[0] == 0
    code, _, err = run("invoice", token="acme.key")
    assert (code, err) == (1, "error: Something on this invoice has no price yet.\n")


def test_a_period_without_usage(ledger: LedgerElsewhere, run: Run) -> None:
    assert "No tenant has used anything in 2026-10 yet." in run("invoice", "--period", "2026-10")[1]
    assert "nothing used" in run("invoice", token="initech.key")[1]


# --- training ----------------------------------------------------------------------------------------------------

JOB = ("usage", "record", "--tenant", "acme", "--model", "chat-8b", "--job", "tune-7")
USAGE_TOKEN = "secrets/usage-token"


def trained(run: Run) -> str:
    _, shown, _ = run("usage", "--by", "adapter", "--format", "csv")
    (row,) = [row for row in csv.DictReader(io.StringIO(shown, newline="")) if row["kind"] == "training"]
    return row["gpu_seconds"]


def test_a_job_that_has_ended_is_booked_once(ledger: LedgerElsewhere, run: Run) -> None:
    job = (*JOB, "--gpu-seconds", "123.4", "--adapter", "acme-support")
    assert run(*job, token=USAGE_TOKEN) == (0, "booked: 123.400000000 GPU-seconds of acme, job tune-7 part 1\n", "")
    known = "job tune-7 part 1 is booked already; nothing was added, nor changed"
    assert run(*job, token=USAGE_TOKEN) == (0, f"{known} (what else the job used is another --part)\n", "")
    assert run(*job, "--part", "2", token=USAGE_TOKEN)[0] == 0
    assert trained(run) == "246.800000000"


def test_training_is_priced_by_the_hour(ledger: LedgerElsewhere, run: Run) -> None:
    run(*JOB, "--gpu-seconds", "1800", token=USAGE_TOKEN)
    (invoice,) = json.loads(run("invoice", "--format", "json")[1])["invoices"]
    (line,) = invoice["lines"]
    assert (line["kind"], line["tier"], line["amount"]) == ("training", "gold", "1.00")
    assert "training of chat-8b" in run("invoice")[1]


def test_a_command_is_timed_on_all_its_gpus_and_its_exit_code_passed_on(ledger: LedgerElsewhere, run: Run) -> None:
    sleeps = (sys.executable, "-c", "import time; time.sleep(0.3); print('trained'); raise SystemExit(3)")
    code, shown, err = run(*JOB, "--gpus", "4", "--", *sleeps, token=USAGE_TOKEN)
    assert (code, shown, err) == (3, "trained\n", "")
    assert Decimal("1.2") <= Decimal(trained(run)) < 40


def test_a_command_that_is_killed_has_used_its_gpus_too(ledger: LedgerElsewhere, run: Run) -> None:
    code, _, _ = run(*JOB, "--gpus", "1", "--", "sh", "-c", "kill -9 $$", token=USAGE_TOKEN)
    assert code == 128 + signal.SIGKILL
    assert Decimal(trained(run)) > 0


def test_a_restarted_job_adds_to_what_it_used_before(
    ledger: LedgerElsewhere, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = (*JOB, "--gpus", "1", "--", "true")
    assert run(*job, token=USAGE_TOKEN)[2] == ""
    once = Decimal(trained(run))
    monkeypatch.setattr(training_cli, "time", SimpleNamespace(time=lambda: NOW + 60))
    assert run(*job, token=USAGE_TOKEN)[2] == ""
    assert Decimal(trained(run)) > once


def test_two_jobs_of_one_name_at_the_same_time_are_told(ledger: LedgerElsewhere, run: Run) -> None:
    job = (*JOB, "--gpus", "1", "--", "true")
    run(*job, token=USAGE_TOKEN)
    assert "1 parts of job tune-7 were booked before; is its name used twice?" in run(*job, token=USAGE_TOKEN)[2]


def test_without_a_ledger_the_job_runs_and_its_record_can_be_booked_later(ledger: LedgerElsewhere, run: Run) -> None:
    code, _, err = run(
        *JOB, "--gpus", "2", "--adapter", "a b", "--", "sh", "-c", "exit 5", token=USAGE_TOKEN, address="127.0.0.1:1"
    )
    assert code == 5
    assert "1 parts are not booked: no ledger answers at 127.0.0.1:1" in err
    command = err.splitlines()[-1].split()
    assert command[:3] == ["tenantry", "usage", "record"]
    arguments = " ".join(command[1:]).replace("'a b'", "a_b").split()
    assert run(*arguments, token=USAGE_TOKEN)[1].startswith("booked: ")
    assert trained(run) == command[command.index("--gpu-seconds") + 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --gpu-seconds for a job that has ended, or --gpus N -- COMMAND"),
        (("--gpu-seconds", "1", "--", "true"), "one of both"),
        (("--", "true"), "--gpus N belongs to a command"),
        (("--gpu-seconds", "1", "--gpus", "2"), "--gpus N belongs to a command"),
        (("--gpus", "0", "--", "true"), "must be above 0"),
        (("--gpu-seconds", "many"), "--gpu-seconds 'many': write wall seconds times GPUs"),
        (("--gpu-seconds", "-1"), "--gpu-seconds '-1'"),
        (("--gpu-seconds", "1e30"), "--gpu-seconds 1e30: a record holds 4,611,686,018 at most"),
        (("--gpu-seconds", "1", "--job", ""), "this makes no record"),
        (("--gpu-seconds", "1", "--part", "0"), "this makes no record"),
        (("--gpu-seconds", "1", "--tenant", "a b"), "--tenant 'a b': no tenant can be called so"),
        (("--gpus", "1", "--", "/no/such/program"), "cannot run '/no/such/program': No such file or directory"),
    ],
)
def test_records_that_make_no_sense(
    ledger: LedgerElsewhere, run: Run, arguments: tuple[str, ...], message: str
) -> None:
    given = {name: value for name, value in zip(JOB[2::2], JOB[3::2], strict=True) if name not in arguments}
    code, _, err = run(*JOB[:2], *(word for pair in given.items() for word in pair), *arguments, token=USAGE_TOKEN)
    assert code == 1
    assert message in err
    assert run("usage") == (0, "", "No usage in 2026-11 yet.\n")


def test_training_is_not_booked_with_a_tenants_key(ledger: LedgerElsewhere, run: Run) -> None:
    code, _, err = run(*JOB, "--gpu-seconds", "1", token="acme.key")
    assert code == 1
    assert "does not take the credential in" in err


# --- profile -----------------------------------------------------------------------------------------------------


def profiled(tmp_path: Path, capfd: pytest.CaptureFixture[str], text: str, *more: str) -> tuple[int, str, str]:
    (tmp_path / "config.json").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["tenantry", "profile", str(tmp_path / "config.json"), *more])
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    printed = capfd.readouterr()
    return code, printed.out, printed.err


def test_a_profile_is_yaml_to_paste_with_its_derivation(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
    }  # fmt: skip
    code, shown, err = profiled(tmp_path, capfd, json.dumps(config), "--name", "chat-8b")
    assert (code, err) == (0, "")
    assert shown == (
        "# config.json: llama\n"
        "#   attention     32 x (2 x 4096 x 4096 + 2 x 4096 x 1024) = 1,342,177,280\n"
        "#   feed-forward  32 x (3 x 4096 x 14336) = 5,637,144,576\n"
        "#   output head   4096 x 128256 = 525,336,576\n"
        "# 2 FLOPs for each of 7,504,658,432 parameters that a token meets\n"
        "# (not counted: attention, 0.5243 more with 1,000 tokens of context)\n"
        "models:\n"
        "  chat-8b:\n"
        "    profile: {gigaflopsPerToken: 15.01}\n"
    )


def test_another_file_makes_no_profile(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, shown, err = profiled(tmp_path, capfd, '{"peft_type": "LORA"}')
    assert (code, shown) == (1, "")
    assert "config.json: it is the configuration of an adapter (LoRA)" in err
