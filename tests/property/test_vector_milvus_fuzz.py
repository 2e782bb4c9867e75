"""Any bytes as a message: refused, or sent in the tenant's scope. Any answer: withheld, or the tenant's rows alone.

What comes out is judged by rules of this page, not by the code that made it.
"""

import json
import random
from typing import Any

import pytest
from google.protobuf.message import DecodeError, Message
from hypothesis import given
from hypothesis import strategies as st
from tenantry.core.errors import RequestRefusedError
from tenantry.core.rules_stores import Store
from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry.core.vector.calls import ForeignRowError, StoreResponse, UnreadableResponseError
from tenantry.core.vector.grpc_frame import write_message
from tenantry.core.vector.milvus import METHODS
from tenantry_testing.milvus import (
    DATABASE,
    KEYPREFIX,
    LAYOUTS,
    OTHER,
    OTHER_TOKEN,
    OWN,
    PARTITION,
    TENANT,
    TOKEN,
    Exchange,
    create,
    delete,
    documents,
    found,
    insert,
    numbers,
    query,
    search,
    texts,
    unframed,
    upsert,
)

stores = st.sampled_from(sorted(LAYOUTS)).map(LAYOUTS.__getitem__)
STRINGS = ("", "notes", "files", "tenant_id", "owner", "TENANT_ID", "$meta", "pk", "id", "*", "count(*)", "default",
           TENANT, OTHER, TOKEN, OTHER_TOKEN, f"{OTHER_TOKEN}_notes", f"{OTHER_TOKEN}:a", "a > 1", "a) or (a > 1",
           'tenant_id == "globex"', "group_by_field", "{x}", "\x00")  # fmt: skip
KEYS = texts("pk", "a", "b")
REQUESTS: dict[str, Message] = {
    "Query": query(partition_names=["x"]),
    "Search": search(output_fields=["id"]),
    "HybridSearch": pb.HybridSearchRequest(collection_name="notes", requests=[search(), search("")]),
    "Delete": delete(),
    "Insert": insert(KEYS, numbers("n", 1, 2), documents(b"{}", b'{"a":1}')),
    "Upsert": upsert(KEYS, texts("tenant_id", OTHER, OTHER)),
    "CreateCollection": create(),
}
"""The other methods begin with the name of a collection alone."""

TAGS = sorted({field.number << 3 | kind for message in pb.DESCRIPTOR.message_types_by_name.values()
               for field in message.fields for kind in (0, 2)})  # fmt: skip


def example(method: str) -> Message:
    if method in REQUESTS:
        return REQUESTS[method]
    kind = METHODS[method].request
    known = kind.DESCRIPTOR.fields_by_name
    names = {name: "notes" for name in ("collection_name", "partition_name") if name in known}
    return kind(**names | ({"collection_names": ["notes"]} if "collection_names" in known else {}))


def mutated(message: bytes, dice: random.Random) -> bytes:
    """Change bytes, cut and double parts, and put in fields that may belong there or not."""
    out = bytearray(message)
    for _ in range(dice.randint(1, 4)):
        at = dice.randint(0, len(out))
        end = min(len(out), at + dice.randint(1, 12))
        text = dice.choice(STRINGS).encode()
        field = bytes((dice.choice(TAGS) & 127, len(text))) + text
        step = dice.randrange(6)
        if step == 0 and out:
            out[at % len(out)] = dice.randrange(256)
        elif step == 1:
            del out[at:end]
        elif step == 2:
            out[at:at] = out[at:end]
        elif step == 3:
            out += field
        elif step == 4:
            out[:0] = field
        else:
            out[at:at] = dice.randbytes(2)
    return bytes(out)


def grown(kind: type[Message], dice: random.Random, depth: int = 3) -> Message:
    """A message of this kind with arbitrary fields of arbitrary, mostly odd, values."""
    made: Any = kind()
    for field in kind.DESCRIPTOR.fields:
        entry = field.message_type is not None and field.message_type.GetOptions().map_entry
        if dice.random() < 0.5 or entry:
            continue
        values = [value(field, dice, depth) for _ in range(dice.randint(1, 3) if field.is_repeated else 1)]
        if field.message_type is not None and depth:
            for each in values:
                (getattr(made, field.name).add() if field.is_repeated else getattr(made, field.name)).CopyFrom(each)
        elif field.message_type is None and field.is_repeated:
            getattr(made, field.name).extend(values)
        elif field.message_type is None:
            setattr(made, field.name, values[0])
    return made  # type: ignore[no-any-return]


def value(field: Any, dice: random.Random, depth: int) -> Any:
    if field.message_type is not None:
        return grown(field.message_type._concrete_class, dice, depth - 1) if depth else None
    if field.type == field.TYPE_STRING:
        return dice.choice(STRINGS)
    if field.type == field.TYPE_BYTES:
        return dice.choice((b"", b"{}", b'{"tenant_id":1}', schema_bytes(dice) if depth == 3 else b"\x0a"))
    if field.type == field.TYPE_BOOL:
        return dice.random() < 0.5
    return dice.choice((0, 1, 2, 3))


def schema_bytes(dice: random.Random) -> bytes:
    return grown(pb.CollectionSchema, dice, 2).SerializeToString()


# The judge.


def guarded(text: str, field: str) -> bool:
    """Whether a filter is the guard, or the guard and one whole pair of parentheses to the end."""
    guard = f'{field} == "{TENANT}"'
    if text == guard:
        return True
    head = f"({guard}) and ("
    if not text.startswith(head):
        return False
    depth, at, quote = 1, len(head), ""
    while at < len(text):
        letter = text[at]
        if quote:
            at += letter == "\\"
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter in "()":
            depth += 1 if letter == "(" else -1
            if depth == 0:
                return at == len(text) - 1
        at += 1
    return False


def judge(sent: Any, store: Store, *, whole: bool = True) -> None:
    """Assert that a message to the store is about what is the tenant's."""
    fields = sent.DESCRIPTOR.fields_by_name
    own = store in OWN
    if "db_name" in fields:
        assert sent.db_name == (TOKEN if store is DATABASE else "")
    names = [sent.collection_name] if "collection_name" in fields else []
    names += sent.collection_names if "collection_names" in fields else []
    for name in names:
        if store is DATABASE or (name == "" and "segmentIDs" in fields):
            continue
        # A shared collection that is not there gets a name of the tenant's own.
        assert name.startswith(f"{TOKEN}_") or (not own and name in ("notes", "files"))
    column = "owner" if names == ["files"] and store is PARTITION else "tenant_id"
    if "partition_names" in fields and not own:
        assert sent.partition_names == ([TOKEN] if store is PARTITION else [])
    if "partition_name" in fields and not own:
        assert sent.partition_name == (TOKEN if store is PARTITION else "")
    for text in ("expr", "dsl"):
        assert text not in fields or guarded(getattr(sent, text), column)
    if "output_fields" in fields and whole:
        asked = [name.casefold() for name in sent.output_fields]
        assert asked == ["count(*)"] or asked.count(column) == 1
        assert sent.output_fields == ["count(*)"] or sent.output_fields[-1] == column
    for part in sent.requests if "requests" in fields else []:
        judge(part, store, whole=False)
        assert part.collection_name == sent.collection_name
    if "fields_data" in fields:
        judge_rows(sent, store, column)
    if "load_fields" in fields and sent.load_fields:
        assert [name.casefold() for name in sent.load_fields].count(column) == 1
    if "schema" in fields:
        made = pb.CollectionSchema.FromString(sent.schema)
        assert [field.name for field in made.fields if field.name.casefold() == column] == [column]
        assert all(column not in (*each.input_field_names, *each.output_field_names) for each in made.functions)


def judge_rows(sent: Any, store: Store, column: str) -> None:
    by_name = [each.field_name or "$meta" for each in sent.fields_data]
    assert len(set(by_name)) == len(by_name)
    assert sum(each.is_dynamic or each.field_name in ("", "$meta") for each in sent.fields_data) <= 1
    assert [name for name in by_name if name.casefold() == column] == [column]
    stamp = sent.fields_data[by_name.index(column)]
    assert list(stamp.scalars.string_data.data) == [TENANT] * sent.num_rows
    assert not stamp.is_dynamic
    assert all(each.field_id == 0 for each in sent.fields_data)
    for each in sent.fields_data:
        if each.is_dynamic or each.field_name in ("", "$meta"):
            names = {name.casefold() for row in each.scalars.json_data.data for name in json.loads(row)}
            assert column not in names
    if store is KEYPREFIX:
        (keys,) = (each for each in sent.fields_data if each.field_name == "pk")
        assert all(key.startswith(f"{TOKEN}:") for key in keys.scalars.string_data.data)
        assert len(keys.scalars.string_data.data) == sent.num_rows


def send(method: str, store: Store, message: bytes) -> bool:
    """Send a message, and judge what the store would get; return whether it would get anything."""
    try:
        exchange = Exchange(method, store).sends_bytes(message)
    except RequestRefusedError:
        return False
    judge(exchange.request, store)
    return True


@pytest.mark.parametrize("method", sorted(METHODS))
@given(store=stores, message=st.binary(max_size=60), seed=st.integers(0, 2**32))
def test_requests(method: str, store: Store, message: bytes, seed: int) -> None:
    dice = random.Random(seed)
    send(method, store, message)
    start = example(method).SerializeToString()
    for _ in range(5):
        send(method, store, mutated(start, dice))
        send(method, store, start + grown(METHODS[method].request, dice).SerializeToString())
        send(method, store, grown(METHODS[method].request, dice).SerializeToString())


@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_examples_pass_so_that_their_changes_say_something(method: str) -> None:
    assert any(send(method, store, example(method).SerializeToString()) for store in LAYOUTS.values())


# Answers.

ANSWERS: dict[str, list[Message]] = {
    "Query": [
        pb.QueryResults(fields_data=[texts("tenant_id", TENANT, TENANT), texts("pk", f"{TOKEN}:a", f"{TOKEN}:b")]),
        pb.QueryResults(fields_data=[texts("tenant_id", TENANT, OTHER), numbers("n", 1, 2)]),
    ],
    "Search": [
        found(1, 2),
        found(1, 2, tenants=(TENANT, OTHER)),
        found(
            1, ids=pb.IDs(str_id=pb.StringArray(data=[f"{TOKEN}:a"])), group_by_field_value=texts("pk", f"{TOKEN}:a")
        ),
    ],
    "Delete": [pb.MutationResult(ids=pb.IDs(str_id=pb.StringArray(data=[f"{TOKEN}:a"])))],
}


def rows_in(column: pb.FieldData) -> int:
    """How many rows a column of an answer shows, as far as this page can count."""
    scalar = column.scalars.WhichOneof("data")
    return len(getattr(column.scalars, scalar).data) if scalar else 0


def hear(method: str, store: Store, message: bytes) -> bool:
    """Let a store answer, and judge what the client would get; return whether it would get anything."""
    call = Exchange(method, store).sends(example(method)).call
    try:
        verified = call.response(StoreResponse(status=200, headers=(), body=write_message(message)))
    except (ForeignRowError, UnreadableResponseError):
        return False
    kind = METHODS[method].answer
    answer: Any = kind.FromString(message)
    shown: Any = unframed(kind, verified.body)
    if method == "Delete":
        assert store is not KEYPREFIX or not shown.ids.int_id.data
        return True
    told, seen = (answer, shown) if method == "Query" else (answer.results, shown.results)
    owners = [
        name for each in told.fields_data if each.field_name == "tenant_id" for name in each.scalars.string_data.data
    ]
    assert set(owners) <= {TENANT}
    assert all(rows_in(each) <= len(owners) for each in seen.fields_data)
    assert "tenant_id" not in {each.field_name for each in seen.fields_data} | set(seen.output_fields)
    if method != "Query":
        assert max(len(seen.ids.int_id.data), len(seen.ids.str_id.data), len(seen.scores)) <= len(owners)
        assert rows_in(seen.group_by_field_value) <= len(owners)
    if store is KEYPREFIX:
        keys = [key for each in told.fields_data if each.field_name == "pk" for key in each.scalars.string_data.data]
        assert all(key.startswith(f"{TOKEN}:") for key in (*keys, *(told.ids.str_id.data if method != "Query" else ())))
    return True


@pytest.mark.parametrize("method", sorted(ANSWERS))
@given(store=stores, message=st.binary(max_size=60), seed=st.integers(0, 2**32))
def test_answers(method: str, store: Store, message: bytes, seed: int) -> None:
    dice = random.Random(seed)
    hear(method, store, message)
    for start in ANSWERS[method]:
        packed = start.SerializeToString()
        for _ in range(3):
            hear(method, store, mutated(packed, dice))
            hear(method, store, packed + grown(METHODS[method].answer, dice).SerializeToString())
            hear(method, store, grown(METHODS[method].answer, dice).SerializeToString())


def test_whole_answers_pass_and_foreign_ones_do_not() -> None:
    for method, store, passes in (("Query", KEYPREFIX, [True, False]), ("Search", PARTITION, [True, False, True])):
        assert [hear(method, store, each.SerializeToString()) for each in ANSWERS[method]] == passes


@pytest.mark.parametrize("method", sorted(set(METHODS) - set(ANSWERS)))
@given(store=stores, message=st.binary(max_size=60), seed=st.integers(0, 2**32))
def test_answers_without_rows(method: str, store: Store, message: bytes, seed: int) -> None:
    try:
        call = Exchange(method, store).sends(example(method)).call
    except RequestRefusedError:
        return
    grown_answer = grown(METHODS[method].answer, random.Random(seed)).SerializeToString()
    for body in (message, grown_answer, mutated(grown_answer, random.Random(seed))):
        try:
            call.response(StoreResponse(status=200, headers=(), body=write_message(body)))
        except (ForeignRowError, UnreadableResponseError):
            continue


def test_the_judge_knows_a_guard() -> None:
    guard = f'tenant_id == "{TENANT}"'
    for text in (guard, f"({guard}) and (a == 1)", f'({guard}) and (a == ")" and (b == 2))'):
        assert guarded(text, "tenant_id")
    for text in ("", "a == 1", f"({guard}) and (a == 1) or (b == 1)", f"({guard}) and (a == 1", f"{guard} or a == 1"):
        assert not guarded(text, "tenant_id")
    with pytest.raises(DecodeError):
        pb.QueryRequest.FromString(b"\xff")
