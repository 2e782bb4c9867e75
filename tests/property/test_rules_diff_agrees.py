"""What `check --against` lists is what `explain` tells of the two documents, and nothing of equal ones."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tenantry.core.rulebook import RuleBook
from tenantry.core.rules import Rules, parse
from tenantry.core.rules_diff import Moved, Side, moved
from tenantry.explained import explained, live_by
from tenantry_testing.documents import JWT, document

DIGESTS = [f"sha256:{number:064x}" for number in range(3)]
TENANT = st.fixed_dictionaries(
    {"tier": st.sampled_from(["gold", "bronze"])},
    optional={
        "keys": st.lists(st.sampled_from(DIGESTS), max_size=1),
        "pins": st.sampled_from([{}, {"chat-8b": "1.4.0"}, {"chat-8b": "1.5.0"}]),
        "beta": st.booleans(),
        "models": st.sampled_from([["chat-8b"], ["embed"], []]),
        "adapters": st.sampled_from([{}, {"embed": "lora"}]),
        "quota": st.sampled_from([{"computeUnitsPerMinute": 5}, {"computeUnitsPerPeriod": 9}]),
        "closed": st.booleans(),
    },
)
ROLLOUT = st.fixed_dictionaries(
    {"candidate": st.just("1.5.0")},
    optional={
        "percent": st.sampled_from([0, 5, 100]),
        "percentByTier": st.sampled_from([{}, {"gold": 1}]),
        "percentByTenant": st.sampled_from([{}, {"a": 50}]),
        "mirrorPercent": st.sampled_from([0, 10]),
    },
)


@st.composite
def documents(draw: st.DrawFn) -> Rules:
    made: dict[str, Any] = document(tenants=draw(st.dictionaries(st.sampled_from("abc"), TENANT)))
    taken: set[str] = set()
    for entry in made["tenants"].values():
        entry["keys"] = [key for key in entry.get("keys", []) if key not in taken]
        taken.update(entry["keys"])
    model = made["models"]["chat-8b"]
    del model["rollout"]
    if rollout := draw(st.none() | ROLLOUT):
        model["rollout"] = rollout
    model["stable"] = draw(st.sampled_from(["1.4.0"] if rollout else ["1.4.0", "1.5.0"]))
    if draw(st.booleans()):
        made["identity"] = {"jwt": JWT}
    if draw(st.booleans()):
        made["defaultTier"] = "bronze"
    return parse(made)


def side(rules: Rules) -> Side:
    return Side(book=RuleBook(rules), live=live_by(rules, None))


def found(before: Rules, after: Rules) -> dict[tuple[str | None, str], Moved]:
    return {(each.tenant, each.tier): each for each in moved(side(before), side(after))}


def told(rules: Rules, tenant: str) -> dict[str, str]:
    """What `explain` says of each model, as one text; {} for who is not admitted."""
    book = RuleBook(rules)
    profile = book.profile(tenant) if admits(rules, tenant) else None
    if profile is None:
        return {}
    said = {}
    for name in book.models_of(profile):
        lines = explained(book, profile, [name], live_by(rules, None), None).splitlines()
        said[name] = "\n".join(lines[lines.index(next(line for line in lines if line.startswith(f"  {name} -> "))) :])
    return said


@given(documents())
def test_no_change_moves_nobody(rules: Rules) -> None:
    assert found(rules, rules) == {}


@given(documents(), documents())
def test_it_agrees_with_explain(before: Rules, after: Rules) -> None:
    listed = found(before, after)
    for tenant in {**before.tenants, **after.tenants}:
        changes = listed[tenant, ""].changes if (tenant, "") in listed else ()
        by_name = {(change.kind, change.name): change for change in changes}
        if (access := by_name.get(("access", ""))) is not None:
            assert (access.before == "open", access.after == "open") == (admits(before, tenant), admits(after, tenant))
        if any(admits(rules, tenant) and RuleBook(rules).profile(tenant) is None for rules in (before, after)):
            continue  # `explain` asks for the tier that the token names
        old, new = told(before, tenant), told(after, tenant)
        for name in ("chat-8b", "embed"):
            one, other = old.get(name, ""), new.get(name, "")
            moving = by_name.get(("model", name))
            assert (moving is not None) == (decision(one) != decision(other))
            if moving is not None:
                assert moving.before.split(" ")[0] == (version(one) or "none")
                assert moving.after.split(" ")[0] == (version(other) or "none")


@given(documents(), documents())
def test_backwards_it_is_the_same_the_other_way(before: Rules, after: Rules) -> None:
    one, other = found(before, after), found(after, before)
    assert one.keys() == other.keys()
    for name, each in one.items():
        turned = {(change.kind, change.name, change.after, change.before) for change in other[name].changes}
        assert {(change.kind, change.name, change.before, change.after) for change in each.changes} == turned


def admits(rules: Rules, tenant: str) -> bool:
    book, entry = RuleBook(rules), rules.tenants.get(tenant)
    return not book.closed(tenant) and (book.names_strangers or (entry is not None and bool(entry.keys)))


def version(said: str) -> str:
    return said.partition(" -> ")[2].partition("\n")[0]


def decision(said: str) -> str:
    """The version and why, with the mirror."""
    return said.partition("      engine")[0]
