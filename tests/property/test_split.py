"""The split: 5 % of each tenant's own units, the same ones everywhere and for ever, and nobody who is pinned."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from itertools import product

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from tenantry.core.events import Header
from tenantry.core.rollout.conduct import identity
from tenantry.core.rollout.standing import FLEET, State, tenant_scope, tier_scope
from tenantry.core.routing import Decision, Live, RolloutView, decide
from tenantry.core.rulebook import RuleBook
from tenantry.core.split import Dice, rollout_id, throw, unit_of
from tenantry_testing.documents import Document, book

KEY = b"k" * 32
ROLLOUT = rollout_id("chat-8b", "1.5.0", "engine:1.5.0")
UNITS = 100_000
REQUEST_ID = "0123456789abcdef0123456789abcdef"


def unit(number: int) -> bytes:
    return b"body.user\0user-%d" % number


@pytest.fixture(scope="module")
def dice() -> list[Dice]:
    """What 100,000 units of one tenant threw."""
    return [throw(KEY, ROLLOUT, "acme", unit(number)) for number in range(UNITS)]


# --- how many ----------------------------------------------------------------------------------------------------


def test_of_a_tenants_units_5_percent_go_to_the_candidate(dice: list[Dice]) -> None:
    """Within 0.3 points of 100,000 units: more than four standard deviations."""
    assert 100.0 * sum(each.split < 5.0 for each in dice) / UNITS == pytest.approx(5.0, abs=0.3)


@pytest.mark.parametrize("percent", [1, 10, 25, 50, 90])
def test_every_percent_is_what_it_says(dice: list[Dice], percent: float) -> None:
    for buckets in ([each.split for each in dice], [each.mirror for each in dice]):
        assert 100.0 * sum(bucket < percent for bucket in buckets) / UNITS == pytest.approx(percent, abs=0.7)


@pytest.mark.parametrize("tenant", ["acme", "globex", "a", "A" * 63, "10", "010"])
def test_it_is_a_share_of_each_tenant_not_of_all_together(tenant: str) -> None:
    hits = sum(throw(KEY, ROLLOUT, tenant, unit(number)).split < 5.0 for number in range(20_000))
    assert 100.0 * hits / 20_000 == pytest.approx(5.0, abs=0.7)


@pytest.mark.parametrize(("hashed", "bucket"), [(b"\x00" * 32, 0.0), (b"\xff" * 32, 100.0)])
def test_0_percent_are_none_and_100_percent_are_all(
    hashed: bytes, bucket: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the one unit in 2^53 whose bucket is the last."""
    monkeypatch.setattr("hmac.digest", lambda *_: hashed)
    thrown = throw(KEY, ROLLOUT, "acme", b"u")
    assert 0.0 <= thrown.split < 100.0
    assert 0.0 <= thrown.mirror < 100.0
    assert thrown.split == pytest.approx(bucket)


# --- always the same way -----------------------------------------------------------------------------------------


def test_a_unit_always_goes_the_same_way_also_in_another_process() -> None:
    """Replicas share the key and nothing else; Python's own hash would differ by process."""
    script = (
        "from tenantry.core.split import throw, rollout_id\n"
        "rollout = rollout_id('chat-8b', '1.5.0', 'engine:1.5.0')\n"
        "for number in range(500):\n"
        "    dice = throw(b'k' * 32, rollout, 'acme', b'body.user\\0user-%d' % number)\n"
        "    print(repr(dice.split), repr(dice.mirror), dice.tag)\n"
    )
    here = [
        f"{each.split!r} {each.mirror!r} {each.tag}"
        for each in (throw(KEY, ROLLOUT, "acme", unit(number)) for number in range(500))
    ]
    for seed in ("1", "4242"):
        done = subprocess.run(
            [sys.executable, "-c", script], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
        )
        assert done.stdout.decode().splitlines() == here


def test_the_hash_is_the_one_that_it_was() -> None:
    """A change of it would send half of all conversations to another version in the middle of an upgrade."""
    thrown = throw(KEY, ROLLOUT, "acme", unit(0))
    assert ROLLOUT == "117bbdf70af1abe2"
    assert (thrown.split, thrown.mirror) == pytest.approx((17.108078707, 2.585108883))
    assert thrown.tag == "dc6087787f080941"


def test_raising_5_to_10_moves_no_unit_back_and_only_the_units_between(dice: list[Dice]) -> None:
    at_5, at_10 = ({number for number, each in enumerate(dice) if each.split < percent} for percent in (5.0, 10.0))
    assert at_5 < at_10
    assert all(5.0 <= dice[number].split < 10.0 for number in at_10 - at_5)


@given(st.floats(0, 100), st.floats(0, 100), st.integers(0, 10**9))
def test_a_larger_percent_never_takes_the_candidate_from_a_unit(one: float, other: float, number: int) -> None:
    bucket = throw(KEY, ROLLOUT, "acme", unit(number)).split
    low, high = sorted((one, other))
    assert (bucket < low) <= (bucket < high)


# --- independent -------------------------------------------------------------------------------------------------


def together(pairs: list[tuple[float, float]]) -> float:
    """Of pairs of buckets, how often both are below 50, in percent; 25 if they are independent."""
    return 100.0 * sum(one < 50.0 and other < 50.0 for one, other in pairs) / len(pairs)


def test_who_is_mirrored_has_nothing_to_do_with_who_sees_the_candidate(dice: list[Dice]) -> None:
    assert together([(each.split, each.mirror) for each in dice]) == pytest.approx(25.0, abs=0.7)


@pytest.mark.parametrize(
    ("rollout", "tenant", "source"),
    [
        (rollout_id("chat-8b", "1.6.0", "engine:1.5.0"), "acme", b"body.user"),  # the next candidate
        (rollout_id("chat-8b", "1.5.0", "engine:1.5.1"), "acme", b"body.user"),  # or the next image of this one
        (rollout_id("chat-70b", "1.5.0", "engine:1.5.0"), "acme", b"body.user"),
        (ROLLOUT, "globex", b"body.user"),
        (ROLLOUT, "acme", b"header.x-session-id"),
    ],
)
def test_units_of_other_rollouts_tenants_and_sources_are_others(
    dice: list[Dice], rollout: str, tenant: str, source: bytes
) -> None:
    """The same users are not the first to meet every new version."""
    theirs = [throw(KEY, rollout, tenant, source + b"\0user-%d" % number) for number in range(20_000)]
    pairs = list(zip(dice, theirs, strict=False))
    assert together([(one.split, other.split) for one, other in pairs]) == pytest.approx(25.0, abs=1.5)
    assert all(one.tag != other.tag for one, other in pairs)


def test_without_the_key_nobody_computes_which_units_see_the_candidate(dice: list[Dice]) -> None:
    guessed = [throw(b"g" * 32, ROLLOUT, "acme", unit(number)) for number in range(20_000)]
    pairs = [(one.split, other.split) for one, other in zip(dice, guessed, strict=False)]
    assert together(pairs) == pytest.approx(25.0, abs=1.5)


def test_another_model_candidate_or_image_is_another_rollout() -> None:
    names = ["chat", "chat-8b", "1.5.0", "1.5", ".0", ""]
    ids = {rollout_id(*triple) for triple in product(names, repeat=3)}
    assert len(ids) == len(names) ** 3
    assert all(len(each) == 16 and set(each) <= set("0123456789abcdef") for each in ids)


# --- which unit --------------------------------------------------------------------------------------------------

STICKY = ("body.user", "body.prompt_cache_key", "header.x-session-id")


def named(body: str = "{}", headers: tuple[Header, ...] = (), sticky: tuple[str, ...] = STICKY) -> bytes:
    members: Mapping[str, Raw] = msgspec.json.decode(body, type=dict[str, Raw])
    return unit_of(sticky, members, headers, REQUEST_ID)


SESSION = (("x-session-id", b"s1"),)
ITSELF = b"request\0" + REQUEST_ID.encode()


@pytest.mark.parametrize(
    ("body", "headers", "unit"),
    [
        ('{"user":"u1","prompt_cache_key":"k1"}', SESSION, b"body.user\0u1"),
        ('{"prompt_cache_key":"k1","user":""}', SESSION, b"body.prompt_cache_key\0k1"),
        ('{"user":7,"prompt_cache_key":["k1"]}', SESSION, b"header.x-session-id\0s1"),
        ('{"user":{"id":"u1"}}', SESSION, b"header.x-session-id\0s1"),
        ('{"user":null}', SESSION, b"header.x-session-id\0s1"),
        ('{"user":true}', (), ITSELF),
        ('{"User":"u1"}', (("x-session", b"s1"),), ITSELF),
        ("{}", (("x-session-id", b""),), ITSELF),
        ("{}", (("x-session-id", b""), ("x-session-id", b"s2")), b"header.x-session-id\0s2"),
        ("{}", (), ITSELF),
    ],
)
def test_the_first_source_that_a_request_fills_names_its_unit(
    body: str, headers: tuple[Header, ...], unit: bytes
) -> None:
    assert named(body, headers) == unit


def test_the_operator_orders_the_sources() -> None:
    assert named('{"user":"u1"}', SESSION, sticky=STICKY[::-1]) == b"header.x-session-id\0s1"
    assert named('{"user":"u1"}', SESSION, sticky=()) == ITSELF


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.data())
def test_two_spellings_of_one_text_are_one_unit(text: str, data: st.DataObject) -> None:
    plain = json.dumps({"user": text}, ensure_ascii=False)
    escaped = "".join(
        "".join(f"\\u{unit.encode('utf-16-be')[at : at + 2].hex()}" for at in range(0, 2 * (1 + (unit > "\uffff")), 2))
        if data.draw(st.booleans())
        else json.dumps(unit, ensure_ascii=data.draw(st.booleans()))[1:-1]
        for unit in text
    )
    assert named(plain) == named(f'{{ "user" :\n"{escaped}" }}') == b"body.user\0" + text.encode()


sources = st.sampled_from(STICKY)
contents = st.text("ab\0.:", min_size=1, max_size=4)


@given(st.tuples(sources, contents), st.tuples(sources, contents))
def test_a_user_called_like_a_conversation_is_not_that_conversation(
    one: tuple[str, str], other: tuple[str, str]
) -> None:
    def of(source: str, text: str) -> bytes:
        kind, _, name = source.partition(".")
        if kind == "header":
            return named(headers=((name, text.encode()),))
        return named(json.dumps({name: text}))

    assert (of(*one) == of(*other)) is (one == other)


@given(st.text("0123456789abcdefghij", min_size=5, max_size=16))
def test_nothing_that_the_client_sends_is_in_the_tag(text: str) -> None:
    tag = throw(KEY, ROLLOUT, "acme", named(json.dumps({"user": text}))).tag
    assert len(tag) == 16
    assert set(tag) <= set("0123456789abcdef")
    assert text not in tag
    assert text.encode().hex() not in tag


# --- pinned ------------------------------------------------------------------------------------------------------

percents = st.sampled_from([0, 0.5, 5, 10, 50, 100])
rollouts = st.fixed_dictionaries(
    {"candidate": st.sampled_from(["1.4.0", "1.5.0", "1.6.0"])},
    optional={
        "percent": percents,
        "percentByTier": st.dictionaries(st.sampled_from(["gold", "bronze"]), percents),
        "percentByTenant": st.dictionaries(st.sampled_from(["acme", "globex"]), percents),
        "mirrorPercent": percents,
        "sticky": st.sampled_from([[], ["body.user"], ["header.x-session-id"]]),
        "steps": st.sampled_from([{}, {"percents": [1, 100]}, {"minUnits": 1, "minSeconds": 1}]),
        "guard": st.sampled_from([{}, {"alpha": 0.5}, {"warmupRequests": 0}]),
    },
)
scopes = st.sampled_from([FLEET, tier_scope("gold"), tenant_scope("acme")])


@st.composite
def changed(draw: st.DrawFn, pin: str) -> RuleBook:
    """Rules after any change that keeps acme's pin: its tier, its flag, the stable version, the rollout, all of it."""
    stable = draw(st.sampled_from(["1.4.0", "1.5.0", "1.6.0"]))
    versions: Document = {
        name: {"endpoints": [f"127.0.0.1:{port}"], "image": draw(st.sampled_from(["", "engine:1", "engine:2"]))}
        for port, name in enumerate(("1.4.0", "1.5.0", "1.6.0"), 8001)
    }
    model: Document = {"stable": stable, "versions": versions}
    rollout = draw(st.none() | rollouts.filter(lambda each: each["candidate"] != stable))
    if rollout is not None:
        model["rollout"] = rollout
    tenant: Document = {
        "tier": draw(st.sampled_from(["gold", "bronze"])),
        "pins": {"chat-8b": pin},
        "beta": draw(st.booleans()),
        "betaSelfService": draw(st.booleans()),
    }
    return book(models={"chat-8b": model}, tenants={"acme": tenant})


@st.composite
def known(draw: st.DrawFn, of: RuleBook) -> Live:
    """Anything that may be known of rollouts: unreadable, of other rules, moved in any scope, at any step."""
    beta = draw(st.dictionaries(st.just("acme"), st.booleans()))
    model = of.rules.models["chat-8b"]
    if model.rollout is None or draw(st.booleans()):
        return Live(beta=beta)
    candidate = model.rollout.candidate
    view = RolloutView(
        id=identity("chat-8b", model),
        candidate=candidate,
        image=draw(st.sampled_from([model.versions[candidate].image, "engine:3"])),
        states=draw(st.dictionaries(scopes, st.sampled_from(State))),
        percent=draw(st.none() | percents),
    )
    return Live(rollouts={"chat-8b": view}, beta=beta)


@given(st.data(), st.sampled_from(["1.4.0", "1.5.0"]), st.floats(0, 99.99), st.floats(0, 99.99), st.booleans())
def test_a_pinned_tenant_never_moves(data: st.DataObject, pin: str, split: float, mirror: float, streams: bool) -> None:
    """Invariant 8: whatever becomes of the rules, the rollout and the unit, as long as the pin stands."""

    def decided() -> Decision:
        of = data.draw(changed(pin))
        profile = of.profile("acme")
        assert profile is not None
        dice = Dice(split=split, mirror=mirror, tag="0" * 16)
        told = data.draw(known(of))
        return decide(profile, "chat-8b", of.rules.models["chat-8b"], told, lambda _: dice, streams=streams)

    for decision in (decided(), decided()):
        assert (decision.version, decision.reason, decision.cluster) == (pin, "pin", f"chat-8b@{pin}")
        assert (decision.trial, decision.mirror_cluster, decision.rescued) == (None, "", False)
