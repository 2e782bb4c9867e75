"""What the operator's side of tenantry asks of a Milvus, as steps: the calls that no tenant makes.

Proofs and provisioning are written as generators. Each step that they yield is a call to send or a pause to make; what
comes back is the answer's message, or StoreCallError where they stand. So they know neither channels nor clocks, and
a test is a transcript.
"""

from collections.abc import Generator
from typing import Any, Literal, TypeAlias, TypeVar

from google.protobuf.message import Message
from msgspec import Struct

from tenantry.core.errors import TenantryError
from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry.core.vector.milvus_wire import parse_answer

M = TypeVar("M", bound=Message)
T = TypeVar("T")

STRONG = 0
"""`ConsistencyLevel`: a read sees every write that was acknowledged before it (common.proto)."""

LOADED_PERCENT = 100
LOAD_PAUSE_SECONDS = 0.05
MAX_LOAD_PAUSES = 600

COLLECTION_NOT_FOUND = 100
"""Milvus's error code; 2.3.5, milvus-lite 2.5.1 and 3.2.2 agree on it."""

Failure = Literal["unreachable", "unimplemented", "refused"]


class Send(Struct, frozen=True, kw_only=True):
    """One call: `message` is serialised, `database` goes into the `dbname` metadata as well."""

    method: str
    message: bytes
    database: str = ""


class Pause(Struct, frozen=True, kw_only=True):
    """Wait; what is sent back does not matter."""

    seconds: float


Steps: TypeAlias = Generator[Send | Pause, bytes, T]


class StoreCallError(TenantryError):
    """A call that the engine did not do: not reached in time, a method that it does not have, or refused by it."""

    def __init__(self, method: str, failure: Failure, reason: str, code: int = 0) -> None:
        super().__init__(f"{method}: {reason or failure}")
        self.method = method
        self.failure = failure
        self.reason = reason
        self.code = code


def ask(method: str, request: Message, kind: type[M]) -> Steps[M]:
    """Send a request and return its answer; raise StoreCallError unless its status is success."""
    database: str = getattr(request, "db_name", "")
    data = yield Send(method=method, message=request.SerializeToString(), database=database)
    return require_success(method, parse_answer(kind, data))


def require_success(method: str, answer: M) -> M:
    """Return the answer if its status is success.

    milvus-lite 2.5.1 leaves `error_code` at 0 for an unknown collection and sets `code`; others set both.
    """
    status: Any = answer if isinstance(answer, pb.Status) else answer.status  # type: ignore[attr-defined]
    if status.code or status.error_code:
        raise StoreCallError(method, "refused", status.reason, status.code or status.error_code)
    return answer


def version() -> Steps[str]:
    """Return the engine's version, "" for one that does not tell it (milvus-lite 2.5.1)."""
    try:
        answer = yield from ask("GetVersion", pb.EmptyRequest(), pb.VersionResponse)
    except StoreCallError as error:
        if error.failure != "unimplemented":
            raise
        # An engine without GetVersion still has to answer something, or any port would pass for one.
        yield from ask("ShowCollections", pb.ShowCollectionsRequest(), pb.ShowCollectionsResponse)
        return ""
    return answer.version


def databases() -> Steps[list[str]]:
    """Return the names of all databases; [] for an engine that has none."""
    try:
        answer = yield from ask("ListDatabases", pb.EmptyRequest(), pb.ListDatabasesResponse)
    except StoreCallError as error:
        if error.failure != "unimplemented":
            raise
        return []
    return list(answer.db_names)


def collections(database: str = "") -> Steps[list[str]]:
    """Return the names of a database's collections."""
    request = pb.ShowCollectionsRequest(db_name=database)
    answer = yield from ask("ShowCollections", request, pb.ShowCollectionsResponse)
    return list(answer.collection_names)


def describe(collection: str, database: str = "") -> Steps[pb.DescribeCollectionResponse | None]:
    """Return a collection's description, None when there is no such collection."""
    request = pb.DescribeCollectionRequest(db_name=database, collection_name=collection)
    try:
        answer = yield from ask("DescribeCollection", request, pb.DescribeCollectionResponse)
    except StoreCallError as error:
        if error.failure == "refused" and error.code == COLLECTION_NOT_FOUND:
            return None
        raise
    return answer


def indexes(collection: str, database: str = "") -> Steps[list[pb.IndexDescription]]:
    """Return a collection's indexes; an engine's error for a collection without any is taken for none."""
    request = pb.DescribeIndexRequest(db_name=database, collection_name=collection)
    try:
        answer = yield from ask("DescribeIndex", request, pb.DescribeIndexResponse)
    except StoreCallError as error:
        if error.failure == "unreachable":
            raise
        return []
    return list(answer.index_descriptions)


def load(collection: str, database: str = "") -> Steps[None]:
    """Load a collection and wait until it is."""
    request = pb.LoadCollectionRequest(db_name=database, collection_name=collection, replica_number=1)
    yield from ask("LoadCollection", request, pb.Status)
    progress = pb.LoadStateRequest(db_name=database, collection_name=collection)
    for _ in range(MAX_LOAD_PAUSES):
        answer = yield from ask("GetLoadingProgress", progress, pb.LoadingProgressResponse)
        if answer.progress >= LOADED_PERCENT:
            return
        yield Pause(seconds=LOAD_PAUSE_SECONDS)
    raise StoreCallError("LoadCollection", "unreachable", "the collection is not loaded after 30 s")


def drop_collection(collection: str, database: str = "") -> Steps[None]:
    """Drop a collection; one that is not there, or an engine that will not, changes nothing."""
    request = pb.CollectionRequest(db_name=database, collection_name=collection)
    yield from _perhaps("DropCollection", request)


def drop_database(database: str) -> Steps[None]:
    """Drop a database with what is in it; one that is not there, or an engine that will not, changes nothing."""
    try:
        names = yield from collections(database)
    except StoreCallError:
        names = []
    for name in names:
        yield from drop_collection(name, database)
    yield from _perhaps("DropDatabase", pb.DatabaseRequest(db_name=database))


def _perhaps(method: str, request: Message) -> Steps[None]:
    try:
        yield from ask(method, request, pb.Status)
    except StoreCallError:
        return
