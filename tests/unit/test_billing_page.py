"""The worked example of docs/read-a-bill.md, computed by the code that bills."""

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tenantry import billing_shown
from tenantry.core.billing.compute_units import compute_units_micro
from tenantry.core.billing.invoice import invoices
from tenantry.core.billing.operator import statement
from tenantry.core.billing.tallies import EngineTally, Tally
from tenantry_testing.billing import PERIOD, SECOND, operators, rules, tally

PAGE = (Path(__file__).parents[2] / "docs" / "read-a-bill.md").read_text()

PRICE = {"trainingGpuHour": "3.00", "coldStartGpuHour": "2.40"}
RULES = rules(
    tiers={
        "gold": {"price": PRICE | {"computeUnit": "0.000012"}, "quota": {"computeUnitsPerPeriod": 5_000_000}},
        "bronze": {"price": PRICE | {"computeUnit": "0.00001"}},
    },
    models={
        "chat-8b": {
            "stable": "1.4.0",
            "versions": {"1.4.0": {"endpoints": ["127.0.0.1:8001"]}},
            "profile": {"gigaflopsPerToken": 15.01},
        }
    },
    tenants={"acme": {"tier": "gold"}, "globex": {"tier": "bronze"}},
    billing={"operatorGpuHour": "1.90"},
)
UNITS_MICRO = compute_units_micro(
    RULES.models["chat-8b"].profile, input_tokens=1_200, cached_tokens=800, output_tokens=350
)


def many(count: int, tenant: str, **changes: object) -> Tally:
    """So many of the page's request."""
    return tally(
        tenant, requests=count, input_tokens=1_200 * count, cached_tokens=800 * count, output_tokens=350 * count,
        prefill_gpu_ns=30_000_000 * count, decode_gpu_ns=220_000_000 * count,
        compute_units_micro=UNITS_MICRO * count, **changes,
    )  # fmt: skip


TALLIES = [
    many(48_000, "acme"),
    many(12_000, "acme", adapter="acme-support"),
    many(100, "acme", corrects="2026-10"),
    tally("acme", kind="training", version="", measured="", adapter="acme-support", prefill_gpu_ns=5_400 * SECOND),
    many(20_000, "globex"),
    operators("mirror", 150 * SECOND),
    operators("failed", 10 * SECOND),
]
ENGINES = [
    EngineTally(
        period=PERIOD, model="chat-8b", version="1.4.0", wall_gpu_ns=144_240 * SECOND, busy_gpu_ns=20_187 * SECOND,
        cold_start_gpu_ns=180 * SECOND, cold_starts=2, attributed_gpu_ns=20_185 * SECOND,
    )
]  # fmt: skip


def printed(parts: Iterable[str | Table]) -> list[str]:
    console = Console(width=200, no_color=True, highlight=False, soft_wrap=True)
    with console.capture() as captured:
        for part in parts:
            console.print(part)
    return [line.rstrip() for line in captured.get().splitlines() if line.strip()]


def test_the_pages_request_weighs_what_the_page_says() -> None:
    assert UNITS_MICRO == 34_973_300
    assert "= 34.9733 compute units" in PAGE


def test_the_pages_tables_are_what_the_code_prints() -> None:
    bills = invoices(PERIOD, TALLIES, ENGINES, RULES)
    made = statement(PERIOD, TALLIES, ENGINES, bills, RULES.billing)
    page = {line.strip() for line in PAGE.splitlines()}
    lines = printed(billing_shown.invoice_shown(bills[0])) + printed(billing_shown.statement_shown(made))[:10]
    assert [line for line in lines if line.strip() not in page] == []
    assert (str(bills[0].total), str(bills[1].total)) == ("29.81", "7.02")


def test_the_pages_shares_of_cold_starts() -> None:
    shares = {
        bill.tenant: (line.gpu_ns // SECOND, str(line.amount))
        for bill in invoices(PERIOD, TALLIES, ENGINES, RULES)
        for line in bill.lines
        if line.kind == "cold_start"
    }
    assert shares == {"acme": (135, "0.09"), "globex": (45, "0.03")}
    assert "= 135 s x 2.40 EUR/h = 0.09 EUR" in PAGE
    assert "=  45 s x 2.40 EUR/h = 0.03 EUR" in PAGE
