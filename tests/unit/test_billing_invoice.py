"""From tallies to an invoice and the operator's statement, on one month with something of everything."""

from decimal import Decimal

import pytest
from tenantry.core.billing.invoice import Invoice, Line, PriceError, invoice, invoices
from tenantry.core.billing.operator import Statement, statement
from tenantry.core.billing.tallies import EngineTally
from tenantry.core.rules import Rules
from tenantry_testing.billing import HOUR, PERIOD, SECOND, month, operators, rules, tally


def of(tenant: str, priced: Rules | None = None) -> Invoice:
    tallies, engines = month()
    return invoice(PERIOD, tenant, tallies, engines, priced or rules())


def shown(line: Line) -> tuple[str, str, str, str]:
    return line.kind, line.adapter, line.corrects, str(line.amount)


def the_statement(*more: EngineTally) -> Statement:
    tallies, engines = month()
    bills = invoices(PERIOD, tallies, engines, rules())
    return statement(PERIOD, tallies, [*engines, *more], bills, rules().billing)


def test_an_invoice_line_by_line() -> None:
    bill = of("acme")
    assert [shown(line) for line in bill.lines] == [
        ("request", "", "", "0.12"),  # 22.6 units at 0.0042 and 60 s at 1.50 an hour: 0.11992
        ("request", "acme-support", "", "0.01"),  # 2.5 units and 6 s: 0.0130
        ("training", "", "", "1.00"),  # half an hour at 2.00
        ("cold_start", "", "", "0.17"),  # 66 of 99 s of use: 200 s of 300 at 3.00 an hour: 0.1667
    ]
    assert (str(bill.total), bill.currency) == ("1.30", "EUR")
    assert sum(line.amount for line in bill.lines) == bill.total


def test_a_line_says_what_was_used_and_at_which_prices() -> None:
    line = of("acme").lines[0]
    assert (line.model, line.version, line.tier, line.measured) == ("chat-8b", "1.4.0", "gold", "engine")
    assert (line.requests, line.input_tokens, line.cached_tokens, line.output_tokens) == (90, 9_000, 1_000, 4_500)
    assert (line.gpu_ns, line.compute_units_micro) == (60 * SECOND, 22_600_000)
    assert (line.compute_unit_price, line.gpu_hour_price) == (Decimal("0.0042"), Decimal("1.50"))


def test_a_correction_of_a_closed_period_is_a_line_of_its_own_at_its_price() -> None:
    bill = of("globex")
    assert [shown(line) for line in bill.lines] == [
        ("request", "", "", "0.04"),  # 12.5 units at 0.003: 0.0375
        ("request", "", "2026-10", "-0.01"),  # -4 units: -0.0120
        ("cold_start", "", "", "0.08"),  # 33 of 99 s: 100 s of 300: 0.0833
    ]
    assert str(bill.total) == "0.11"


def test_who_used_nothing_has_an_empty_invoice() -> None:
    bill = of("initech")
    assert (bill.lines, str(bill.total)) == ((), "0.00")


def test_all_invoices_come_by_name_and_are_those_of_each_tenant() -> None:
    tallies, engines = month()
    bills = invoices(PERIOD, tallies, engines, rules())
    assert [bill.tenant for bill in bills] == ["acme", "globex"]
    assert list(bills) == [of("acme"), of("globex")]


def test_what_the_operator_pays_for_is_on_no_invoice() -> None:
    bills = invoices(PERIOD, [operators("mirror", HOUR), operators("unstamped", HOUR)], [], rules())
    assert bills == ()


def test_another_periods_tallies_do_not_count() -> None:
    bill = invoice(PERIOD, "acme", [tally(period="2026-12", compute_units_micro=10**9)], [], rules())
    assert bill.lines == ()


def test_cents_are_the_currencys() -> None:
    priced = rules(billing={"currency": "JPY", "currencyDigits": 0})
    assert (str(of("acme", priced).total), of("acme", priced).currency) == ("1", "JPY")


# --- which tier pays ---------------------------------------------------------------------------------------------


def test_a_record_pays_the_price_of_the_tier_that_it_was_stamped_with() -> None:
    bill = invoice(PERIOD, "acme", [tally(tier="bronze", compute_units_micro=10_000_000)], [], rules())
    assert [(line.tier, str(line.amount)) for line in bill.lines] == [("bronze", "0.03")]


def test_without_a_stamped_tier_it_is_the_tenants_and_joins_its_line() -> None:
    tallies = [tally(tier="", compute_units_micro=10_000_000), tally(compute_units_micro=10_000_000)]
    bill = invoice(PERIOD, "acme", tallies, [], rules())
    assert [(line.tier, str(line.amount)) for line in bill.lines] == [("gold", "0.08")]


def test_a_tier_that_the_rules_have_no_more_is_an_error_and_never_free() -> None:
    with pytest.raises(PriceError, match=r'acme has usage in tier "golden".*did you mean "gold"'):
        invoice(PERIOD, "acme", [tally(tier="golden", compute_units_micro=1)], [], rules())


def test_a_tenant_without_any_tier_is_an_error() -> None:
    with pytest.raises(PriceError, match=r"umbrella has usage without a tier.*tenants\.umbrella\.tier"):
        invoices(PERIOD, [tally("umbrella", tier="", compute_units_micro=1)], [], rules())


# --- cold starts -------------------------------------------------------------------------------------------------


def started(model: str, gpu_ns: int) -> EngineTally:
    return EngineTally(period=PERIOD, model=model, cold_start_gpu_ns=gpu_ns, cold_starts=1, wall_gpu_ns=gpu_ns)


def cold_seconds(bill: Invoice) -> dict[str, int]:
    return {f"{line.model} {line.tier}": line.gpu_ns for line in bill.lines if line.kind == "cold_start"}


def test_only_users_of_the_model_share_its_cold_starts() -> None:
    tallies = [tally("acme", decode_gpu_ns=5), tally("globex", model="embed", decode_gpu_ns=7)]
    engines = [started("chat-8b", 300), started("embed", 100), started("idle-model", 50)]
    assert cold_seconds(invoice(PERIOD, "acme", tallies, engines, rules())) == {"chat-8b gold": 300}
    assert cold_seconds(invoice(PERIOD, "globex", tallies, engines, rules())) == {"embed bronze": 100}


def test_where_some_use_was_not_measured_compute_units_divide_for_all() -> None:
    tallies = [
        tally("acme", decode_gpu_ns=10**9, compute_units_micro=3_000_000),
        tally("globex", measured="estimate", compute_units_micro=1_000_000),
    ]
    engines = [started("chat-8b", 400)]
    assert cold_seconds(invoice(PERIOD, "acme", tallies, engines, rules())) == {"chat-8b gold": 300}
    assert cold_seconds(invoice(PERIOD, "globex", tallies, engines, rules())) == {"chat-8b bronze": 100}


def test_a_tenant_that_changed_its_tier_pays_each_part_at_its_own_price() -> None:
    tallies = [tally("acme", decode_gpu_ns=30), tally("acme", tier="bronze", decode_gpu_ns=10)]
    bill = invoice(PERIOD, "acme", tallies, [started("chat-8b", 400)], rules())
    assert cold_seconds(bill) == {"chat-8b gold": 300, "chat-8b bronze": 100}


def test_corrections_training_and_the_operators_work_are_no_use() -> None:
    tallies = [
        tally("acme", decode_gpu_ns=10),
        tally("globex", corrects="2026-10", decode_gpu_ns=10),
        tally("globex", kind="training", prefill_gpu_ns=10),
        operators("mirror", 10),
    ]
    assert cold_seconds(invoice(PERIOD, "acme", tallies, [started("chat-8b", 400)], rules())) == {"chat-8b gold": 400}


# --- quota -------------------------------------------------------------------------------------------------------


def test_a_quota_stands_on_the_invoice_with_what_is_used_of_it() -> None:
    quota = of("acme").quota
    assert quota is not None
    assert (quota.compute_units_per_period, quota.used_micro) == (1000, 25_100_000)
    assert float(quota.share) == 0.0251
    assert of("globex").quota is None


def test_corrections_of_another_period_use_no_quota_of_this_one() -> None:
    tallies = [tally(compute_units_micro=5_000_000), tally(corrects="2026-10", compute_units_micro=7_000_000)]
    quota = invoice(PERIOD, "acme", tallies, [], rules()).quota
    assert quota is not None
    assert quota.used_micro == 5_000_000


def test_a_correction_that_the_kept_terms_have_no_price_for_goes_by_todays_rules() -> None:
    # A tenant of October's last hour whose entry came in November: kept terms cannot be mended, these rules can.
    then = rules(tenants={})
    tallies = [tally(tier="", corrects="2026-10", compute_units_micro=10_000_000)]
    (line,) = invoice(PERIOD, "acme", tallies, [], rules(), terms={"2026-10": then}).lines
    assert (line.corrects, line.tier, str(line.compute_unit_price)) == ("2026-10", "gold", "0.0042")
    with pytest.raises(PriceError, match="give it one in the rules"):
        invoice(PERIOD, "acme", tallies, [], then, terms={"2026-10": then})


def test_a_tenants_own_quota_takes_the_place_of_its_tiers() -> None:
    own = {"acme": {"tier": "gold", "quota": {"computeUnitsPerPeriod": 20}}, "globex": {"tier": "bronze"}}
    quota = of("acme", rules(tenants=own)).quota
    assert quota is not None
    assert quota.share > 1


# --- the operator's statement ------------------------------------------------------------------------------------


def test_every_nanosecond_of_the_wall_has_an_owner() -> None:
    time = the_statement().gpu_time
    assert {what: gpu_ns // SECOND for what, gpu_ns in time.parts.items()} == {
        "tenants": 99, "mirror": 4, "failed": 2, "unstamped": 1, "unfinished": 1, "in_flight": 3, "cold_start": 300,
        "idle": 6_790,
    }  # fmt: skip
    assert sum(time.parts.values()) == time.wall_ns == 2 * HOUR
    assert the_statement().conserved


def test_the_operators_costs_stand_apart_and_add_up() -> None:
    made = the_statement()
    assert {cost.what: (cost.paid_by, str(cost.cost)) for cost in made.costs} == {
        "tenants": ("tenants", "0.02"), "mirror": ("operator", "0.00"), "failed": ("operator", "0.00"),
        "unstamped": ("operator", "0.00"), "unfinished": ("operator", "0.00"), "in_flight": ("operator", "0.00"),
        "cold_start": ("tenants", "0.08"), "cold_start_unused": ("operator", "0.00"), "idle": ("operator", "1.70"),
    }  # fmt: skip
    assert str(made.cost) == "1.80"
    assert sum(cost.cost for cost in made.costs) == made.cost


def test_the_statement_names_what_each_tenant_is_charged() -> None:
    made = the_statement()
    assert [(each.tenant, str(each.amount)) for each in made.tenants] == [("acme", "1.30"), ("globex", "0.11")]
    assert str(made.charged) == "1.41"
    assert made.training_gpu_ns == HOUR // 2


def test_cold_starts_that_nobody_used_are_the_operators() -> None:
    made = the_statement(started("idle-model", 400 * SECOND))
    assert [(one.model, one.starts, one.spread_ns // SECOND, str(one.amount)) for one in made.cold_starts] == [
        ("chat-8b", 2, 300, "0.25"),
        ("idle-model", 1, 0, "0.00"),
    ]
    unused = next(cost for cost in made.costs if cost.what == "cold_start_unused")
    assert (unused.gpu_ns, unused.paid_by, str(unused.cost)) == (400 * SECOND, "operator", "0.10")


def test_a_record_that_the_engine_does_not_account_for_is_told() -> None:
    tallies, engines = month()
    made = statement(PERIOD, [*tallies, operators("failed", 7)], engines, [], rules().billing)
    assert not made.conserved
    assert made.gpu_time.difference_ns == -7
