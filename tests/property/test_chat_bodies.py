"""Any JSON object is passed on as it was but for what a tenant may not choose; nothing ambiguous is read."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tenantry.core import chat
from tenantry.core.chat import Api
from tenantry.core.errors import BadRequestError
from tenantry.core.tenant import Proof, Tenant
from tenantry_testing.documents import book, decision, keyring
from tenantry_testing.exchanges import REQUEST_ID

RULES = book({"tenants.acme.adapters": {"embed": "acme-search"}})
OURS = {"model", "cache_salt", "priority", "vllm_xargs", "store", "request_id", "session_id"}

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)
plain_keys = text.filter(
    lambda key: key == json.loads(f'"{key}"') if key.isprintable() and not set(key) & set('"\\') else False
)
keys = st.sampled_from(["messages", "stream", "temperature", "tools", *sorted(OURS - {"model"})]) | plain_keys
white = st.text(" \t\r\n", max_size=3)
Pairs = list[tuple[str, Any]]


@st.composite
def objects(draw: st.DrawFn) -> Pairs:
    """Members in any order, a model among them, each key once."""
    pairs = draw(st.lists(st.tuples(keys, values), max_size=8, unique_by=lambda pair: pair[0]))
    kept = [pair for pair in pairs if pair[0] not in {"model", *chat.REFUSED_MEMBERS}]
    kept.insert(draw(st.integers(0, len(kept))), ("model", draw(st.sampled_from(["chat-8b", "embed"]))))
    return kept


@st.composite
def written(draw: st.DrawFn, pairs: Pairs, escaped: int | None = None) -> bytes:
    """The pairs as JSON with white space anywhere; the key at `escaped` gets one of its characters as an escape."""
    parts = []
    for index, (key, value) in enumerate(pairs):
        name = json.dumps(key, ensure_ascii=False)
        if index == escaped:
            at = draw(st.integers(0, len(key) - 1))
            units = key[at].encode("utf-16-be").hex()
            escape = "".join(f"\\u{units[n : n + 4]}" for n in range(0, len(units), 4))
            name = (
                json.dumps(key[:at], ensure_ascii=False)[:-1]
                + escape
                + json.dumps(key[at + 1 :], ensure_ascii=False)[1:]
            )
        body = json.dumps(value, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1])))
        parts.append(f"{draw(white)}{name}{draw(white)}:{draw(white)}{body}{draw(white)}")
    return f"{draw(white)}{{{','.join(parts) or draw(white)}}}{draw(white)}".encode()


def stamped(body: bytes, api: Api, name: str) -> bytes:
    read = chat.read(body)
    profile = RULES.profile(name)
    assert profile is not None
    who = Tenant(profile=profile, proof=Proof(kind="api_key"))
    chosen = decision(profile, read.model, RULES.rules)
    return chat.stamp(read, api=api, tenant=who, decision=chosen, keyring=keyring(), request_id=REQUEST_ID)


@given(st.data(), objects(), st.sampled_from(Api), st.sampled_from(["acme", "globex"]))
def test_the_engine_gets_the_clients_members_but_for_ours(
    data: st.DataObject, pairs: Pairs, api: Api, name: str
) -> None:
    """Invariant 2."""
    body = data.draw(written(pairs))
    got = json.loads(stamped(body, api, name), object_pairs_hook=lambda found: found)
    made = dict(got)
    assert len(made) == len(got)
    sent = json.loads(body, object_pairs_hook=lambda found: found)
    # What a client chooses is there, in its order, value for value (and number for number as it was written).
    assert [pair for pair in got if pair[0] not in OURS] == [pair for pair in sent if pair[0] not in OURS]
    asked = dict(pairs)["model"]
    beta = name == "globex" and asked == "chat-8b"
    expected: dict[str, object] = {"cache_salt": keyring().salt_for(name)}
    served = "chat-served" if asked == "chat-8b" else asked
    expected["model"] = "acme-search" if (name, asked) == ("acme", "embed") else served
    if api is Api.RESPONSES:
        expected["store"] = False
    xargs = dict(made.pop("vllm_xargs", []))
    assert {key: value for key, value in made.items() if key in OURS} == expected
    if api is Api.EMBEDDINGS:
        assert xargs == {}
    else:
        version = "1" if asked == "embed" else "1.5.0" if beta else "1.4.0"
        adapter = {"adapter": "acme-search"} if expected["model"] == "acme-search" else {}
        assert xargs == {"tenant": name, "version": version, "request_id": REQUEST_ID} | adapter


@given(st.data(), objects())
def test_a_key_that_stands_twice_is_always_refused(data: st.DataObject, pairs: Pairs) -> None:
    """Wherever the second one stands, whatever it holds, however it is written."""
    first = data.draw(st.integers(0, len(pairs) - 1))
    at = data.draw(st.integers(0, len(pairs)))
    key, value = pairs[first]
    same = data.draw(st.booleans())
    pairs.insert(at, (key, value if same else data.draw(values | st.integers(0, 200))))
    escaped = at if key and data.draw(st.booleans()) else None
    refused(data.draw(written(pairs, escaped)))


@given(st.data(), objects())
def test_a_key_with_an_escape_is_always_refused(data: st.DataObject, pairs: Pairs) -> None:
    """`"\\u006dodel"` is `model` for one reader and not for a careless one."""
    candidates = [index for index, (key, _) in enumerate(pairs) if key]
    refused(data.draw(written(pairs, data.draw(st.sampled_from(candidates)))))


def refused(body: bytes) -> None:
    with pytest.raises(BadRequestError) as caught:
        chat.read(body)
    assert caught.value.code == "ambiguous_keys", body


numbers = st.integers(0, 10**6).map(str) | st.sampled_from(["1.5", "1e5", "1E+5", "-0", "0.1", "1.50"])


@given(numbers, st.integers(0, 4), st.sampled_from(["", ',"y":1']), st.booleans())
def test_a_value_that_begins_like_the_other_hides_nothing(number: str, cut: int, between: str, first: bool) -> None:
    """Of all values only numbers can be the beginning of one another."""
    shorter = number[: len(number) - cut] or "1"
    pair = (number, shorter) if first else (shorter, number)
    body = f'{{"model":"a","x":{pair[0]}{between},"x":{pair[1]}}}'.encode()
    try:
        json.loads(body)
    except ValueError:
        return
    refused(body)


fragments = st.lists(
    st.sampled_from([*'{}[],:" \n\\e', '"model"', '"chat-8b"', '"x"', "1", "12", "null", "\\u006d", "\\ud800"]),
    max_size=14,
).map(lambda parts: "".join(parts).encode())


@given(st.binary(max_size=60) | fragments | fragments.map(lambda inner: b'{"model":"chat-8b",' + inner + b"}"))
@example(b'{"model":"chat-8b","\\ud800":1}')
@example(b'{"model":"\\ud800"}')
@example(b"\xef\xbb\xbf{}")
def test_any_bytes_are_a_body_or_a_bad_request(body: bytes) -> None:
    """And whatever is read means the same to the standard library's reader."""
    try:
        read = chat.read(body)
    except BadRequestError:
        return
    pairs = json.loads(body, object_pairs_hook=lambda found: found)
    assert read.model == dict(pairs)["model"]
    assert [key for key, _ in pairs] == list(read.members)
    if RULES.model(read.model) is not None:
        json.loads(stamped(body, Api.CHAT, "acme"))


@given(st.data(), objects(), st.integers(0, 10**6))
def test_one_byte_changed_never_splices_anything_in(data: st.DataObject, pairs: Pairs, position: int) -> None:
    """Invariant 2: a body is refused, or the engine reads our members and the tenant's own."""
    body = bytearray(data.draw(written(pairs)))
    body[position % len(body)] = data.draw(st.sampled_from(b'"\\{}[],: \x00\xff1e') | st.integers(0, 255))
    try:
        made = stamped(bytes(body), Api.CHAT, "acme")
    except (BadRequestError, KeyError):  # a model of nobody's has no decision
        return
    got = json.loads(made, object_pairs_hook=lambda found: found)
    keys_got = [key for key, _ in got]
    assert len(set(keys_got)) == len(keys_got)
    assert dict(got)["cache_salt"] == keyring().salt_for("acme")
    assert dict(dict(got)["vllm_xargs"])["tenant"] == "acme"
    assert dict(got)["model"] in ("chat-served", "acme-search")
