"""What the console shows, from snapshots alone: tenants by pages, shares and evidence, refusals in bounded rows."""

import re
from typing import Any

import pytest
from tenantry.adapters.console.tables import PAGE_ROWS, Ask, ask_of
from tenantry.adapters.console.tenants import COLUMNS, Index, Orders, World, index_of, ordered, page_of, row_of
from tenantry.adapters.console.traffic import MAX_TENANTS, Traffic
from tenantry.adapters.console.versions import versions_of
from tenantry.adapters.quotas.accounts import Last
from tenantry.adapters.refusals import Refusals
from tenantry.core.apikeys import digest_text
from tenantry.core.quota.account import Limits, Standing, month_of
from tenantry.core.rollout.standing import FLEET, Event
from tenantry.core.routing import Live
from tenantry.core.session import Session
from tenantry_testing.documents import JWT, KEYS, NOW, book, rules, snapshot
from tenantry_testing.exchanges import headers
from tenantry_testing.rollouts import MODEL, House, outcome

MONTH = month_of(round(NOW * 1e3))
NOBODY = World(traffic={}, accounts={}, live=Live(), month=MONTH, now_s=NOW)


def crowd(count: int) -> Index:
    """So many tenants, of whom every tenth is gold."""
    tenants = {f"tenant-{number:05}": {"tier": "bronze" if number % 10 else "gold"} for number in range(count)}
    return index_of(book({"tenants": tenants}))


def names(index: Index, world: World = NOBODY, **ask: Any) -> list[str]:
    return ordered(index, world, Ask(**{"sort": "name", **ask}))


def test_ten_thousand_tenants_come_a_page_at_a_time() -> None:
    index = crowd(10_000)
    page = page_of(names(index), index, NOBODY, Ask(sort="name", page=2))
    assert [row.name for row in page.rows] == [f"tenant-{number:05}" for number in range(50, 75)]  # type: ignore[attr-defined]
    assert (len(page.rows), page.found, page.of, page.pages) == (PAGE_ROWS, 10_000, 10_000, 400)
    beyond = page_of(names(index), index, NOBODY, Ask(sort="name", page=99_999))
    assert (beyond.page, len(beyond.rows)) == (399, PAGE_ROWS)
    assert names(index, word="9999") == ["tenant-09999"]
    assert len(names(index, word="gold")) == 1_000
    assert names(index, word="nobody") == []


def test_orders_by_what_is_busy_and_equals_by_their_names() -> None:
    index = crowd(4)
    busy = World(
        traffic={"tenant-00002": (7, 1), "tenant-00001": (7, 0)}, accounts={}, live=Live(), month=MONTH, now_s=NOW
    )
    assert [name[-1] for name in names(index, busy, sort="requests", descending=True)] == ["1", "2", "0", "3"]
    assert [name[-1] for name in names(index, busy, sort="failed", descending=True)] == ["2", "0", "1", "3"]
    assert [name[-1] for name in names(index, sort="tier")] == ["1", "2", "3", "0"]


def test_an_order_is_kept_for_a_moment_and_made_anew_for_other_rules() -> None:
    now_s = 0.0
    orders = Orders(lambda: now_s)
    index, ask = crowd(2), Ask(sort="requests", descending=True)
    busy = World(traffic={"tenant-00001": (1, 0)}, accounts={}, live=Live(), month=MONTH, now_s=NOW)
    assert orders.order(index, NOBODY, ask)[0] == "tenant-00000"
    assert orders.order(index, busy, ask)[0] == "tenant-00000"
    now_s = 2.0
    assert orders.order(index, busy, ask)[0] == "tenant-00001"
    assert len(orders.order(crowd(3), busy, ask)) == 3


def test_a_tenants_row_says_how_it_comes_and_what_it_has_spent() -> None:
    made = book(
        {
            "tenants.acme.keys": [
                digest_text(KEYS["acme"]),
                {"digest": digest_text(KEYS["nobody"]), "notAfter": "2020-01-01T00:00:00Z"},
            ],
            "tenants.acme.quota": {"computeUnitsPerPeriod": 1_000, "computeUnitsPerMinute": 60},
        },
        identity={"jwt": JWT},
    )
    standing = Standing(granted=True, content=0, used=250_000, reserved=1_000, month=MONTH, now_ms=round(NOW * 1e3))
    account = Last(limits=Limits(period=1_000_000), standing=standing, at_s=NOW)
    world = World(traffic={"acme": (3, 1)}, accounts={"acme": account}, live=Live(), month=MONTH, now_s=NOW)
    row = row_of("acme", made, world)
    assert (row.tier, row.keys, row.token, row.certificate, row.beta) == ("gold", 1, True, False, False)
    assert (dict(row.pins), row.requests, row.failed) == ({"chat-8b": "1.4.0"}, 3, 1)
    assert row.quota is not None
    assert (row.quota.per_period, row.quota.per_minute, row.quota.used, row.quota.ratio) == (1_000, 60, 250.0, 0.25)
    later = row_of("acme", made, World(**{**_fields(world), "month": MONTH + 1})).quota
    assert later is not None
    assert (later.used, later.ratio) == (None, None)
    assert row_of("globex", made, world).beta
    assert row_of("globex", made, world).quota is None


def _fields(world: World) -> dict[str, Any]:
    return {name: getattr(world, name) for name in world.__struct_fields__}


def test_whom_only_a_token_names_is_shown_once_it_asked() -> None:
    index = index_of(book({"defaultTier": "bronze"}, identity={"jwt": JWT}))
    world = World(traffic={"stranger": (2, 0), "acme": (1, 0)}, accounts={}, live=Live(), month=MONTH, now_s=NOW)
    assert names(index, world) == ["acme", "globex", "initech", "stranger"]
    row = row_of("stranger", index.book, world)
    assert (row.in_rules, row.tier, row.keys, row.token) == (False, "bronze", 0, True)
    assert page_of(names(index, world), index, world, Ask(sort="name")).of == 4


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"tenants_sort": "secrets"}, "tenants_sort is 'secrets': name, tier"),
        ({"tenants_order": "sideways"}, "up or down"),
        ({"tenants_page": "-1"}, "tenants_page is '-1': 0 to 100000"),
        ({"tenants_page": "1" * 10}, "tenants_page"),
        ({"tenants_word": "x" * 101}, "101 characters: at most 100"),
    ],
)
def test_what_is_not_understood_is_said(query: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        ask_of(query, "tenants", COLUMNS)


async def test_shares_and_evidence_are_those_of_the_gauges() -> None:
    house = House()
    made = house.rules()
    await house.rollouts.start()
    (status,) = house.rollouts.status()
    shown = versions_of(made.rules, [status], {("chat-8b", "1.4.0"): 1}, {("chat-8b", "1.5.0"): 4}, {})
    stable, candidate, embed = shown.rows
    assert (stable.roles, stable.wanted, stable.pinned, stable.realised) == (("stable", "pinned"), 50.0, 1, None)
    assert (candidate.roles, candidate.wanted, candidate.requests) == (("candidate",), 50.0, 4)
    assert (embed.roles, embed.wanted) == (("stable",), 100.0)
    house.rollouts.show()
    (card,) = shown.rollouts
    assert card.percent == house.metric("rollout_percent", model=MODEL)
    assert card.realised_share == house.metric("rollout_realised_share", model=MODEL)

    await house.rollouts.command(MODEL, FLEET, Event.OPERATOR_REVERT, who="ops", why="a test")
    entries = await house.rollouts.history(MODEL, 10)
    reverted = versions_of(made.rules, house.rollouts.status(), {}, {}, {MODEL: entries})
    assert [row.wanted for row in reverted.rows] == [100.0, 0.0, 100.0]
    assert reverted.rollouts[0].state == "reverted"
    assert [(entry.kind, entry.who, entry.why) for entry in reverted.rollouts[0].history] == [
        ("reverted", "ops", "a test")
    ]


def test_a_version_nobody_wants_is_unused() -> None:
    made = rules({"models/chat-8b/versions/1.3.0": {"endpoints": ["127.0.0.1:8009"]}})
    shown = versions_of(made, [], {}, {}, {})
    assert {row.version: row.roles for row in shown.rows if row.model == "chat-8b"}["1.3.0"] == ("unused",)
    assert shown.of == 4


def test_traffic_counts_everybody_within_its_bound() -> None:
    traffic = Traffic()
    for number in range(MAX_TENANTS + 5):
        traffic.outcome(outcome(f"r{number}", f"t{number}", "stable", failed=number == 0))
    assert (traffic.requests, len(traffic.tenants)) == (MAX_TENANTS + 5, MAX_TENANTS)
    assert (traffic.tenants["t0"], traffic.tenants["t1"]) == ((1, 1), (1, 0))
    assert sum(traffic.versions.values()) == MAX_TENANTS + 5


# --- refusals ----------------------------------------------------------------------------------------------------


def refused(key: str | None, path: str = "/v1/chat/completions") -> Session:
    session = Session(snapshot(), lambda: "0" * 32)
    session.on_event(headers(key=key, path=path), NOW)
    assert session.refusal is not None
    return session


def test_equal_refusals_are_one_row_and_nothing_of_the_client_is_in_it() -> None:
    ring = Refusals()
    for number in range(1_000):
        ring.note(refused(KEYS["acme"], f"/v1/secret-{number}"), NOW + number)
    ring.note(refused(KEYS["nobody"]), NOW)
    latest, many = ring.newest(10)
    assert (latest.tenant, latest.status, latest.count) == ("", 401, 1)
    assert (many.tenant, many.code, many.count, many.first_s, many.last_s) == (
        "acme", "unknown_route", 1_000, NOW, NOW + 999
    )  # fmt: skip
    assert ring.total == 1_001
    assert "secret" not in repr(many)


def test_one_tenant_cannot_push_out_the_others() -> None:
    ring = Refusals(max_rows=5, max_rows_of_a_tenant=2)
    ring.note(refused(KEYS["globex"], "/nowhere"), NOW)
    session = refused(KEYS["acme"], "/nowhere")
    assert session.refusal is not None
    for number in range(10):
        session.refusal.code = f"code-{number}"
        ring.note(session, NOW + number)
    assert [(row.tenant, row.code) for row in ring.newest(10)] == [
        ("acme", "code-9"), ("acme", "code-8"), ("globex", "unknown_route"),
    ]  # fmt: skip
