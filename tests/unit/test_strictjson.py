"""A body that two readers could understand differently is refused; every other one comes through unchanged."""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest
from msgspec import Raw
from tenantry.core.errors import BadRequestError
from tenantry.core.vector import strictjson
from tenantry.core.vector.calls import UnreadableResponseError
from tenantry.core.vector.strictjson import Kind, dumps, expect, loads, loads_response, require


def refused(body: bytes, **bounds: Any) -> str:
    with pytest.raises(BadRequestError) as raised:
        loads(body, **bounds)
    assert raised.value.code == "invalid_json"
    return raised.value.message


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1,"a":1}',
        b'{"a":1,"\\u0061":2}',
        b'{"a":{"b":[1,{"c":1,"c":2}]}}',
        b'{"a":{},"a":{"b":1}}',
        b'{"a":{"b":1},"a":{}}',
        b'{"a":"\\"b\\":","c":1,"c":2}',
        b'{"a":"\\\\","a":"\\\\\\"\\\\"}',
        b'{"a":[[{"x":1}],{"y":2,"z":{"y":1,"y":2}}]}',
        b'{"":1,"":2}',
        b'{"vector":[1.0],"vector":[2.0]}',
    ],
)
def test_a_key_that_stands_twice_is_refused_at_any_depth(body: bytes) -> None:
    assert "twice" in refused(body)


def test_the_refusal_says_where_the_second_one_is() -> None:
    assert refused(b'{"filter":{"a":1,"b":2,"a":3}}') == (
        "A key stands twice in one object (member 3 of object 1, objects counted by their ends)."
    )


def test_a_key_that_stands_twice_in_a_large_body_is_refused_without_a_second_reading() -> None:
    filler = b",".join(b'"k%d":1' % number for number in range(20_000))
    assert refused(b"{" + filler + b',"k7":2}') == "A key stands twice in one object."


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":"{\\"b\\":1,\\"b\\":2}"}',
        b'{"a":"x:y:z","b":"::"}',
        b'{"a\\\\":1,"a":"\\\\"}',
        b'{"a":{"k":1},"b":{"k":1},"c":[{"k":1},{"k":1}]}',
        b'{"A":1,"a":2}',
        b' {"a" : [ 1 , -2.5e-3 , true , null , "\\u00e9\\ud83d\\ude00" ] }\n',
        b"{}",
    ],
)
def test_what_only_looks_like_a_second_key_passes(body: bytes) -> None:
    assert loads(body) == json.loads(body)
    assert json.loads(dumps(loads(body))) == json.loads(body)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not JSON"),
        (b"[]", "not a JSON object"),
        (b'"a"', "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"a":NaN}', "not JSON at byte 5"),
        (b'{"a":-Infinity}', "not JSON"),
        (b'{"a":1e999}', "not JSON"),
        (b'{"a":01}', "not JSON"),
        (b'{"a":1,}', "not JSON"),
        (b'{"a":1} {"a":2}', "not JSON"),
        (b'{"a":1}\x00', "not JSON"),
        (b"{'a':1}", "not JSON"),
        (b'{"a":1/*x*/}', "not JSON"),
        (b'\xef\xbb\xbf{"a":1}', "not JSON"),
        (b'{"a":"\x01"}', "not JSON"),
        (b'{"a":"\\ud800"}', "not JSON"),
        (b'{"\\udc00":1}', "not JSON"),
        (b'{"a":"\xff"}', "not UTF-8 at byte 6"),
        (b'{"a":"\xed\xa0\x80"}', "not UTF-8"),
        (b'{"\xc0\xaf":1}', "not UTF-8"),
        ('{"a":1}'.encode("utf-16"), "not"),
        (b'{"a":[18446744073709551616]}', "beyond 64 bits"),
        (b'{"a":{"b":[[-9223372036854775809]]}}', "beyond 64 bits"),
        (b'{"a":' + b"9" * 5000 + b"}", "not JSON"),
    ],
)
def test_what_readers_differ_on_is_refused(body: bytes, says: str) -> None:
    assert says in refused(body)


def test_depth_is_bounded_at_the_number_given() -> None:
    def nested(depth: int) -> bytes:
        return b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"

    assert loads(nested(32))
    assert "more than 32 deep" in refused(nested(33))
    assert "more than 3 deep" in refused(nested(4), max_depth=3)
    assert loads(b'{"a":"' + b"[" * 99 + b'"}'), "brackets in a string are no depth"


@pytest.mark.parametrize("unit", [b"[", b'{"a":', b'[{"a":'])
def test_ten_thousand_levels_are_refused_at_once(unit: bytes) -> None:
    body = b'{"a":' + unit * 10_000
    started = time.process_time()
    refused(body)
    assert time.process_time() - started < 0.05


def test_members_arrays_and_strings_are_counted_before_they_are_decoded() -> None:
    many = b"{" + b",".join(b'"%d":1' % number for number in range(11)) + b"}"
    assert "more than 10 members" in refused(many, max_members=10)
    assert loads(many, max_members=11)
    assert "more than 10 members" in refused(b'{"a":[' + b"[],[]," * 5 + b"[]]}", max_members=10)
    assert "more than 40 strings" in refused(b'{"a":[' + b'"","",' * 20 + b'""]}', max_members=10)


def test_vectors_may_stay_the_text_that_they_were() -> None:
    body = b'{"vector":[0.10000000000000000001, 1e2],"filter":{"a":1},"topK":3}'
    read = loads(body, raw=("vector", "filter"))
    assert type(read["vector"]) is Raw
    assert read["filter"] == {"a": 1}, "what holds names is always decoded"
    assert loads(b'{"vector":[1,{}]}', raw=("vector",)) == {"vector": [1, {}]}, "and so is an object without any"
    assert dumps(read) == b'{"vector":[0.10000000000000000001, 1e2],"filter":{"a":1},"topK":3}'


@pytest.mark.parametrize(
    "body", [b'{"vector":[{"a":1,"a":2}]}', b'{"vector":["a",{"b":1,"b":1}]}', b'{"vector":[1 2]}', b'{"vector":[1,}']
)
def test_a_member_that_may_stay_text_hides_nothing(body: bytes) -> None:
    refused(body, raw=("vector",))


def test_responses_are_read_as_strictly_and_are_the_stores_fault() -> None:
    assert loads_response(b'{"a":1}') == {"a": 1}
    with pytest.raises(UnreadableResponseError):
        loads_response(b'{"a":1,"a":2}')
    with pytest.raises(UnreadableResponseError):
        loads_response(b"<html>")


def test_an_object_is_rebuilt_from_its_known_members() -> None:
    allowed: Mapping[str, Kind] = {
        "topK": int,
        "id": (str, int),
        "deep": lambda value, path: require(value, path, {"x": float}),
    }
    assert require({"id": "a", "deep": {"x": 1}}, "", allowed) == {"id": "a", "deep": {"x": 1}}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"topK": 1, "top_k": 2}, "Member 2 of the body is not known here; write 'topK'."),
        ({"topk": 2}, "write 'topK'"),
        ({"TOPK": 2}, "write 'topK'"),
        ({"topK ": 2}, "write 'topK'"),
        ({"secret-word-of-the-client": 2}, "Member 1 of the body is not known here; known are deep, topK."),
        ({"deep": {"Key": 1}}, "Member 1 of deep is not known here; known are x."),
        ({"topK": "3"}, "topK must be an integer."),
        ({"topK": True}, "topK must be an integer."),
        ({"topK": 3.0}, "topK must be an integer."),
        ({"topK": None}, "topK must be an integer."),
        ({"topK": 2**63}, "topK is beyond 64 bits."),
        ({"deep": []}, "deep must be an object."),
        ({"deep": {"x": "1"}}, "deep.x must be a number."),
    ],
)
def test_any_other_key_or_type_is_refused_and_never_repeated(body: dict[str, object], says: str) -> None:
    allowed: Mapping[str, Kind] = {"topK": int, "deep": lambda value, path: require(value, path, {"x": float})}
    with pytest.raises(BadRequestError) as raised:
        require(body, "", allowed)
    assert says in raised.value.message
    assert "secret" not in raised.value.message


def test_null_is_absence_where_protobuf_reads_it_so() -> None:
    assert require({"a": None}, "", {"a": str}, drop_null=True) == {}
    assert expect(None, "a", (str, type(None))) is None


def test_reading_takes_time_in_proportion_to_the_body() -> None:
    """Ten times the body, not a hundred times the time: keys, escapes, strings, arrays, deep and flat."""
    shapes: dict[str, Callable[[int], bytes]] = {
        "keys": lambda n: b"{" + b",".join(b'"%d":1' % number for number in range(n)) + b"}",
        "escapes": lambda n: b'{"a":"' + b'\\\\\\"' * n + b'"}',
        "backslashes": lambda n: b'{"a":"' + b"\\\\" * n + b'"}',
        "objects": lambda n: b'{"a":[' + b",".join([b'{"a":{}}'] * (n // 2)) + b"]}",
        "digits": lambda n: b'{"a":0.' + b"1" * n + b"}",
    }
    for name, shape in shapes.items():
        small, large = (min(_seconds(shape(n)) for _ in range(3)) for n in (5_000, 50_000))
        assert large < 40 * small + 0.005, name


def _seconds(body: bytes) -> float:
    started = time.process_time()
    loads(body)
    return time.process_time() - started


def test_numbers_come_back_with_their_exact_value() -> None:
    values = [0.1, 1e-300, -0.0, 1 / 3, 5e-324, 1.7976931348623157e308, 2**53 + 1, -(2**63)]
    assert json.loads(dumps(loads(json.dumps({"a": values}).encode()))) == {"a": values}


def test_the_bound_of_members_fits_what_pinecone_takes() -> None:
    upsert = {"vectors": [{"id": str(n), "metadata": {str(m): 1 for m in range(80)}} for n in range(1_000)]}
    assert len(loads(msgspec.json.encode(upsert))["vectors"]) == 1_000
    assert strictjson.MAX_MEMBERS == 100_000
