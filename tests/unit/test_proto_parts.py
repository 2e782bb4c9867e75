"""Messages of very many parts are refused before they are parsed: each part costs far more memory than bytes."""

import subprocess
import sys
import time

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st
from tenantry.core.errors import BadRequestError, RequestRefusedError, TooLargeError
from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry.core.vector.milvus_wire import MAX_PARTS
from tenantry.core.vector.proto_parts import MAX_DEPTH, UNCOUNTED_BYTES, check_parts
from tenantry_testing.milvus import COLLECTION, documents, insert, refusal, texts, vectors

MANY = 4_000_000
NOTES = pb.QueryRequest(collection_name="notes").SerializeToString()


def field(number: int, content: bytes) -> bytes:
    """A field with this content, as it is on the wire."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


FLOODS = {
    "columns": ("Insert", NOTES + field(5, b"") * MANY),
    "rows of arrays": ("Insert", NOTES + field(5, field(3, field(8, field(1, b"") * MANY)))),
    "searches in a search": ("HybridSearch", NOTES + field(5, b"") * MANY),
    "parameters of a search in a search": ("HybridSearch", NOTES + field(5, field(9, b"") * MANY)),
    "parameters": ("Search", NOTES + field(9, b"") * MANY),
    "placeholders": ("Search", NOTES + b"\x38\x01" + field(6, field(1, b"") * MANY)),
    "templates": ("Query", NOTES + field(13, b"") * MANY),
    "partitions": ("Query", NOTES + field(6, b"") * MANY),
    "fields of a schema": ("CreateCollection", NOTES + field(4, field(4, b"") * MANY)),
    "parameters of a field": ("CreateCollection", NOTES + field(4, field(4, field(6, b"") * MANY))),
    "names to flush": ("Flush", field(3, b"notes") * (MANY // 4)),
    "what a client says of itself": ("Connect", field(2, field(6, b"") * MANY)),
    "numbers one by one": ("Insert", NOTES + b"\x30\x01" * MANY),
    "field numbers on several bytes": ("Insert", NOTES + b"\xaa\x80\x00\x00" * (MANY // 2)),
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_message_of_millions_of_parts_is_refused_at_once(name: str) -> None:
    method, flood = FLOODS[name]
    begin = time.process_time()
    assert refusal(method, flood, COLLECTION) == "too_many_parts"
    assert time.process_time() - begin < 1.5  # 0.1 on an idle machine; parsing alone took up to 1.4 and 900 MiB


def test_it_is_refused_before_it_takes_memory() -> None:
    """In a process of its own, whose memory grows by less than 64 MiB."""
    script = (
        "import resource\n"
        "from tenantry.core.errors import TooLargeError\n"
        "from tenantry.core.vector._pb import milvus_pb2 as pb\n"
        "from tenantry.core.vector.milvus_wire import parse\n"
        f"flood = b'\\x2a\\x00' * {MANY}\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for kind in (pb.InsertRequest, pb.HybridSearchRequest):\n"
        "    try: parse(kind, flood)\n"
        "    except TooLargeError: pass\n"
        "    else: raise SystemExit('it passed')\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(done.stdout) * unit < 64 * 1024 * 1024


def test_what_clients_send_has_far_fewer_parts() -> None:
    """20,000 rows with a document, a text and three array columns; the longest vectors."""
    rows = 20_000
    columns = [texts("t", *["word"] * rows), documents(*[b'{"a":1}'] * rows)]
    for name in ("a", "b", "c"):
        column = pb.FieldData(field_name=name, type=22)
        for _ in range(rows):
            column.scalars.array_data.data.add().long_data.data.extend((1, 2))
        columns.append(column)
    assert refusal("Insert", insert(*columns, rows=rows), COLLECTION) == ""
    assert refusal("Insert", insert(vectors("vec", 50, 32_768), rows=50), COLLECTION) == ""


def test_a_group_ends_the_reading() -> None:
    """Protobuf's first way to nest, which no message of ours has: behind one, parts would be counted wrongly."""
    group = b"\x0b\x0c"
    assert refusal("Insert", NOTES + group + field(5, b"") * MANY, COLLECTION) == "field_not_allowed"


def test_depth_is_bounded() -> None:
    deep = b"x" * UNCOUNTED_BYTES
    for _ in range(MAX_DEPTH):
        deep = field(8, field(1, deep))
    with pytest.raises(BadRequestError, match="nested too deep"):
        check_parts(pb.ScalarField, deep, MAX_PARTS)


def test_endless_numbers_are_refused() -> None:
    with pytest.raises(BadRequestError, match="ten bytes"):
        check_parts(pb.InsertRequest, b"\xff" * UNCOUNTED_BYTES * 2, MAX_PARTS)


# --- against a count of the parsed message -------------------------------------------------------------------------

PADDING = pb.KeyValuePair(key="k" * (UNCOUNTED_BYTES + 1))

ints = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4)
scalars = st.recursive(
    st.one_of(
        ints.map(lambda data: pb.ScalarField(long_data=pb.LongArray(data=data))),
        st.lists(st.text(max_size=3), max_size=4).map(
            lambda data: pb.ScalarField(string_data=pb.StringArray(data=data))
        ),
    ),
    lambda inner: st.lists(inner, max_size=3).map(lambda data: pb.ScalarField(array_data=pb.ArrayArray(data=data))),
    max_leaves=8,
)
columns = st.builds(
    pb.FieldData,
    type=st.integers(0, 200),
    field_name=st.text(max_size=300),
    field_id=st.integers(0, 2**63 - 1),
    scalars=scalars,
    valid_data=st.lists(st.booleans(), max_size=3),
)
inserts = st.builds(pb.InsertRequest, collection_name=st.text(max_size=3), num_rows=st.integers(0, 2**32 - 1),
                    fields_data=st.lists(columns, max_size=3))  # fmt: skip


def parts(message: Message) -> int:
    """How many fields there are on the wire; leaves of messages are one block."""
    total = 0
    for descriptor, value in message.ListFields():
        values = value if descriptor.is_repeated else [value]
        if descriptor.message_type is not None:
            nests = any(field.message_type is not None for field in descriptor.message_type.fields)
            total += sum(1 + (parts(each) if nests else 0) for each in values)
        elif descriptor.is_repeated and descriptor.type not in (descriptor.TYPE_STRING, descriptor.TYPE_BYTES):
            total += 1  # packed
        else:
            total += len(values)
    return total


@given(inserts)
def test_parts_are_counted_exactly(message: pb.InsertRequest) -> None:
    search = pb.SearchRequest(search_params=[PADDING])
    data = search.SerializeToString()
    assert len(data) > UNCOUNTED_BYTES
    # A field that an InsertRequest does not have makes it long enough to be counted.
    padded = message.SerializeToString() + data
    count = parts(message) + 1
    check_parts(pb.InsertRequest, padded, count)
    with pytest.raises(TooLargeError):
        check_parts(pb.InsertRequest, padded, count - 1)


@given(st.binary(max_size=200), st.integers(0, 40))
def test_any_bytes_are_counted_or_refused(data: bytes, most: int) -> None:
    for kind in (pb.InsertRequest, pb.HybridSearchRequest, pb.CollectionSchema, pb.EmptyRequest):
        try:
            check_parts(kind, data + b"\x0a" + varint(UNCOUNTED_BYTES) + b"x" * UNCOUNTED_BYTES, most)
        except RequestRefusedError:
            continue
