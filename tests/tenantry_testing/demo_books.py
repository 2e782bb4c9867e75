"""What a ledger says of a small recorded play: for each answer 0.25 GPU-seconds, 10 tokens in and 20 out.

The bills are made by tenantry's own code from these sums; the tests break them.
"""

from collections import Counter
from collections.abc import Mapping

from msgspec.structs import replace
from tenantry.adapters.rules_file import read_rules
from tenantry.core.billing.invoice import invoices
from tenantry.core.billing.operator import Bills, statement
from tenantry.core.billing.tallies import EngineTally, Owner, Tally

from demo.run import Books, Run

PERIOD = "2026-11"
GPU_NS = 250_000_001
COLD_START_NS = 28_000_000_001
IDLE_NS = 5_000_000_003
RULES = read_rules(
    b"""
version: 1
tiers:
  gold: {price: {computeUnit: "0.000012", coldStartGpuHour: "2.40"}}
  silver: {price: {computeUnit: "0.000011", coldStartGpuHour: "2.40"}}
  bronze: {price: {computeUnit: "0.00001", coldStartGpuHour: "2.40"}}
models: {chat-8b: {stable: "1.4.0", versions: {"1.4.0": {endpoints: ["127.0.0.1:8001"]}}}}
billing: {currency: EUR, currencyDigits: 6, operatorGpuHour: "1.90"}
"""
)


def books_of(run: Run) -> Books:
    """The books of a run: each answer billed once, each copy the operator's, an engine for each model and version."""
    tenants = {plan.name: plan for plan in run.scenario.tenants}
    tiers = {sender.name: sender.tier for plan in run.scenario.rollouts for sender in plan.crowd}
    tiers |= {name: plan.tier for name, plan in tenants.items()}
    answers = Counter((call.tenant, "chat-8b", tenants[call.tenant].expected) for call in run.calls)
    answers.update((call.tenant, call.model, call.version) for call in run.crowd_calls)
    tallies = [
        tally("tenant", model, version, count, tenant=tenant, tier=tiers[tenant])
        for (tenant, model, version), count in sorted(answers.items())
    ]
    tallies += [
        tally("mirror", count.model, count.version, count.copies) for count in run.engine_counts if count.copies
    ]
    return billed(tuple(tallies), engines(tallies), reader=run.scenario.tenants[0].name)


def tally(owner: Owner, model: str, version: str, count: int, *, tenant: str = "", tier: str = "") -> Tally:
    """The sum of so many answers."""
    return Tally(
        period=PERIOD, owner=owner, model=model, version=version, records=count, requests=count, measured="engine",
        prefill_gpu_ns=count * 50_000_000, decode_gpu_ns=count * (GPU_NS - 50_000_000), input_tokens=count * 10,
        output_tokens=count * 20, compute_units_micro=count * 70_007, tenant=tenant, tier=tier,
    )  # fmt: skip


def engines(tallies: list[Tally]) -> tuple[EngineTally, ...]:
    """One engine for each model and version, busy with these sums and nothing else."""
    busy = Counter[tuple[str, str]]()
    for each in tallies:
        busy[each.model, each.version] += each.gpu_ns
    return tuple(
        EngineTally(
            period=PERIOD, model=model, version=version, engines=1, cold_starts=1, busy_gpu_ns=gpu_ns,
            attributed_gpu_ns=gpu_ns, cold_start_gpu_ns=COLD_START_NS, wall_gpu_ns=gpu_ns + COLD_START_NS + IDLE_NS,
        )
        for (model, version), gpu_ns in sorted(busy.items())
    )  # fmt: skip


def billed(tallies: tuple[Tally, ...], spent: tuple[EngineTally, ...], *, reader: str) -> Books:
    """These sums with their bills, as the operator and `reader` get them."""
    bills = invoices(PERIOD, tallies, spent, RULES)
    own = tuple(bill for bill in bills if bill.tenant == reader)
    return Books(
        tallies=tallies,
        engines=spent,
        bills=(Bills(invoices=bills, statement=statement(PERIOD, tallies, spent, bills, RULES.billing)),),
        own=Bills(invoices=own),
        foreign_status=403,
    )


def rebilled(books: Books, *, changes: Mapping[int, Mapping[str, object]] = {}, busy_ns: int = 0) -> Books:
    """The books with fields of some tallies changed, by index, and the first engine busier; billed anew."""
    tallies = tuple(replace(each, **changes.get(index, {})) for index, each in enumerate(books.tallies))
    first, *rest = books.engines
    first = replace(first, busy_gpu_ns=first.busy_gpu_ns + busy_ns)
    return billed(tallies, (first, *rest), reader=books.own.invoices[0].tenant)
