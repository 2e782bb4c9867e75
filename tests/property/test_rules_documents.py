"""Any data are rules or a RulesError, and every single thing wrong with a document is named (invariant 9)."""

import copy
import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any, get_args

import msgspec
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tenantry.adapters.rules_file import read_document, read_rules
from tenantry.core.errors import RulesError
from tenantry.core.rulebook import RuleBook
from tenantry.core.rules import Rules, not_acted_on, parse
from tenantry.core.schema import MAX_PROBLEMS, join
from tenantry_testing.documents import JWT, MTLS, document

DIGEST, OTHER_DIGEST = (f"sha256:{letter * 64}" for letter in "ab")

QUOTA = {"computeUnitsPerMinute": 5, "computeUnitsPerPeriod": 9_000, "alertAt": [0.25, 1.0]}
GOLD = {
    "priority": 0,
    "weight": 8.0,
    "maxInFlight": 64,
    "maxQueueSeconds": 30.0,
    "quota": QUOTA,
    "price": {"computeUnit": "0.002", "gpuHour": "4", "trainingGpuHour": "3", "coldStartGpuHour": "2.5"},
}
STORE = {
    "kind": "milvus",
    "endpoints": ["h:1"],
    "grpcEndpoints": ["h:2"],
    "tls": {"caFile": "ca.pem"},
    "isolation": "keyprefix",
    "hosts": ["milvus.example"],
    "tenantField": "t",
    "collections": {"notes": {"tenantField": "t", "primaryField": "pk", "spread": 2}},
    "loadAndFlush": True,
}

MARGINS = {
    "errorOdds": 2.0,
    "ttftRatio": 1.25,
    "timePerTokenRatio": 1.25,
    "outputLengthRatio": 0.9,
    "unfinishedOdds": 2.0,
    "repetitionOdds": 2.0,
    "logProbabilityDrop": 0.1,
}

FULL = document(
    {
        "tiers.gold": GOLD,
        "models.chat-8b.profile": {
            "gigaflopsPerToken": 16.0,
            "inputWeight": 1.5,
            "cachedWeight": 0.25,
            "outputWeight": 4.0,
        },
        "models.chat-8b.usage": "estimate",
        "models.chat-8b.rollout": {
            "candidate": "1.5.0",
            "percent": 5.0,
            "percentByTier": {"gold": 1.0},
            "percentByTenant": {"globex": 10.0},
            "mirrorPercent": 1.0,
            "sticky": ["body.user"],
            "guard": {"alpha": 0.01, "maxTenants": 9, "warmupRequests": 5, "margins": MARGINS},
            "rescue": {"streamSeconds": 10.0, "answerSeconds": 120.0},
            "records": {"seconds": 5.0, "mirrorSeconds": 60.0},
            "steps": {"percents": [5.0, 100.0], "minUnits": 300, "minSeconds": 3600.0},
        },
        "tiers.gold.sla": {"availability": 0.999, "ttftSeconds": 2.0, "ttftShare": 0.95},
        "tenants.globex.betaSelfService": False,
        "tenants.globex.closed": False,
        "tenants.globex.quota": dict(QUOTA),
        "tenants.acme.adapters": {"embed": "lora"},
        "tenants.acme.models": ["embed"],
        "tenants.acme.keys": [DIGEST, {"digest": OTHER_DIGEST, "notAfter": "2027-01-15T08:00:00Z", "name": "ci"}],
    },
    identity={"apiKeys": True, "jwt": JWT | {"tenantClaim": "tenant"}, "mtls": MTLS},
    defaultTier="bronze",
    betaSelfService=True,
    stores={"docs": STORE},
    limits={"maxBodyBytes": 1024, "streamIdleSeconds": 60.0, "maxOpenExchanges": 5, "forwardHeaders": ["x-trace"]},
    metrics={"maxTenants": 10},
    billing={"currency": "USD", "currencyDigits": 4, "operatorGpuHour": "1.75", "closeAfterHours": 48.0},
)
"""Each key that a document can have."""

Path = tuple[str | int, ...]


def places(value: object, path: Path = ()) -> Iterator[tuple[Path, object]]:
    yield path, value
    if isinstance(value, dict | list):
        for key, element in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(element, (*path, key))


def shown(path: Path) -> str:
    text = ""
    for key in path:
        text = f"{text}[{key}]" if isinstance(key, int) else join(text, key)
    return text


def at(changed: Any, path: Path) -> Any:
    for key in path:
        changed = changed[key]
    return changed


ALL = list(places(FULL))


def parsed(data: object) -> Rules | RulesError:
    """Rules, or the error that says why not; anything else fails the test."""
    try:
        return parse(data)
    except RulesError as error:
        assert 1 <= len(error.problems) <= MAX_PROBLEMS + 1  # noqa: PT017  # the error is the result here
        return error


def named(result: Rules | RulesError) -> list[str]:
    """The places that an error names."""
    return [problem.path for problem in result.problems] if isinstance(result, RulesError) else []


def keys_of(annotation: Any) -> set[str]:
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        fields = msgspec.structs.fields(annotation)
        return {field.encode_name for field in fields}.union(*(keys_of(field.type) for field in fields))
    return set().union(*map(keys_of, get_args(annotation)))


def test_the_document_has_each_key_of_the_schema() -> None:
    """So that what follows is about all of it."""
    parse(FULL)
    assert keys_of(Rules) - {"image", "scheduling"} <= {key for path, _ in ALL for key in path}


@pytest.mark.parametrize("path", [path for path, value in ALL if isinstance(value, dict)], ids=shown)
def test_an_unknown_key_at_any_depth_is_named(path: Path) -> None:
    changed = copy.deepcopy(FULL)
    at(changed, path)["unheardOf"] = 7  # where names are free, it is the value that is wrong
    names_are_free = path[-1:] == ("percentByTenant",)  # a tenant that a token names needs no entry
    assert set(named(parsed(changed))) == (set() if names_are_free else {shown((*path, "unheardOf"))})


MOMENT = datetime(2027, 1, 1, tzinfo=UTC)
WRONG: tuple[Any, ...] = (
    7, -1.5, True, "", "a b\n", [], ["x", 7], {}, {"x": 7}, {1: 2}, None, b"", date(2027, 1, 1), MOMENT, 1 << 20_000,
)  # fmt: skip
OPTIONAL = {
    "tier", "models", "rollout", "servedName", "quota", "maxInFlight", "maxQueueSeconds", "jwt", "mtls", "tierClaim",
    "notAfter", "defaultTier", "steps", "betaSelfService", "tls",
    "availability", "ttftSeconds", "computeUnitsPerMinute", "computeUnitsPerPeriod",
}  # fmt: skip


def fits(path: Path, before: object, value: object) -> bool:
    """What the schema allows although it is not what stood there."""
    if value is None:
        return path[-1] in OPTIONAL and path != ("models",)
    if value == "":
        return path[-1] in ("name", "tierClaim")
    if value in ([], {}):
        return type(before) is type(value)
    if type(before) is bool and type(value) is bool:
        return True
    if path[-1] == "percentByTenant" and value == {"x": 7}:
        return True  # a tenant that a token names needs no entry
    if value is MOMENT:
        return path[-1] == "notAfter"
    return type(value) is int and value == 7 and type(before) in (int, float) and path != ("version",)


@pytest.mark.parametrize(
    ("path", "before"),
    [pair for pair in ALL if pair[0]],
    ids=lambda each: shown(each) if isinstance(each, tuple) else "",
)
def test_a_value_of_another_type_anywhere_is_refused_at_its_place(path: Path, before: object) -> None:
    for value in WRONG:
        changed = copy.deepcopy(FULL)
        at(changed, path[:-1])[path[-1]] = copy.deepcopy(value)
        if type(value) is type(before) and value == before:
            continue
        result = parsed(changed)
        if isinstance(result, Rules):
            assert fits(path, before, value), value
        elif path[-1] == "servedName" and value is None:
            assert "must fit both" in str(result)  # the candidate's and the stable version's: the candidate is named
        elif (path, value) == (("models",), {}):
            assert "tenants.acme.models[0]" in named(result)  # what points at a model is named then
        else:
            assert any(each.startswith(shown(path)) for each in named(result)), (value, result)


@pytest.mark.parametrize("path", [path for path, _ in ALL if path], ids=shown)
def test_whatever_is_taken_away_there_is_a_default_or_its_place_is_named(path: Path) -> None:
    changed = copy.deepcopy(FULL)
    del at(changed, path[:-1])[path[-1]]
    assert "" not in named(parsed(changed))


json_like = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=4)
    | st.dates()
    | st.datetimes(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(max_size=8) | st.integers() | st.none() | st.sampled_from(sorted(FULL)), inner, max_size=5
        )
        | st.frozensets(st.integers() | st.text(max_size=3), max_size=3)
        | st.tuples(inner, inner)
    ),
    max_leaves=20,
)


def is_rules_or_refused(data: object) -> None:
    made = parsed(data)
    if isinstance(made, Rules):
        RuleBook(made)
        not_acted_on(made)


@given(json_like)
@example({"version": 1 << 20_000})
@example({"version": 1, "tiers": {"a": {}}, "models": {}, "defaultTier": 1 << 20_000})
def test_any_data_are_rules_or_a_rules_error(data: object) -> None:
    is_rules_or_refused(data)


@given(st.lists(st.tuples(st.sampled_from([path for path, _ in ALL if path]), json_like), min_size=1, max_size=3))
def test_so_are_rules_with_anything_anywhere(changes: list[tuple[Path, object]]) -> None:
    changed = copy.deepcopy(FULL)
    for path, value in changes:
        try:
            at(changed, path[:-1])[path[-1]] = value
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took the place away
    is_rules_or_refused(changed)


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
@example(b"!!timestamp x")
@example(b"a: !!map [1]")
def test_any_bytes_are_rules_or_a_rules_error(raw: bytes) -> None:
    with pytest.raises(RulesError):
        read_rules(raw)


tags = [
    f"!!{kind} "
    for kind in ["int", "float", "bool", "str", "null", "set", "map", "seq", "omap", "pairs", "binary", "timestamp"]
]
yaml_parts = st.lists(
    st.sampled_from(
        [
            *"{}[],:&*|>%@`?-!\"'# \n\t",
            "\n  ",
            "a",
            "b: ",
            "- ",
            "&x ",
            "*x",
            "<<: ",
            "0x1f",
            "1:30",
            "~",
            ".nan",
            *tags,
        ]
    ),
    max_size=16,
).map(lambda parts: "".join(parts).encode())


@given(yaml_parts)
def test_yaml_is_read_or_a_rules_error(raw: bytes) -> None:
    """And what is read means the same to libyaml's own safe loader."""
    try:
        found = read_document(raw)
    except RulesError:
        return
    assert repr(found) == repr(yaml.load(raw, yaml.CSafeLoader))


@settings(max_examples=settings().max_examples // 5)
@given(st.randoms(use_true_random=False))
def test_json_and_yaml_are_the_same_document(random: Any) -> None:
    def shuffled(value: Any) -> Any:
        if isinstance(value, dict):
            pairs = [(key, shuffled(element)) for key, element in value.items()]
            random.shuffle(pairs)
            return dict(pairs)
        return value

    mixed = shuffled(FULL)
    assert read_rules(json.dumps(mixed).encode()) == read_rules(yaml.safe_dump(mixed).encode()) == parse(FULL)
