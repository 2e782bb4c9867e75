"""What the demo and its retrieval clients say to each other: a JSON value per line, stdin to stdout.

The clients run in the environment of their SDK, so this knows nothing but msgspec, which that environment has, too.
"""

import msgspec
from msgspec import Struct


class Row(Struct, frozen=True, kw_only=True):
    """A document with its vector, as a client writes it."""

    id: int
    title: str
    text: str
    vector: list[float]


class Hit(Struct, frozen=True, kw_only=True):
    """A document, as a client was answered it."""

    id: int
    title: str
    text: str


class Connect(Struct, frozen=True, kw_only=True, tag=True):
    """The first line: where to, and with which key ("" for the operator, who asks the engine itself).

    `other` is the real name of another tenant's collection: such names are no secret, so an attacker has it.
    """

    uri: str
    key: str = ""
    collection: str = ""
    other: str = ""


class Fill(Struct, frozen=True, kw_only=True, tag=True):
    """Make the collection, and write these rows."""

    rows: list[Row]


class Ask(Struct, frozen=True, kw_only=True, tag=True):
    """Search for what is nearest to a vector."""

    vector: list[float]
    limit: int


class Attack(Struct, frozen=True, kw_only=True, tag=True):
    """Try one of the break-outs that `Ready` named."""

    name: str


class Look(Struct, frozen=True, kw_only=True, tag=True):
    """Read everything that the engine holds. For the operator: no tenant could."""


Request = Connect | Fill | Ask | Attack | Look


class Ready(Struct, frozen=True, kw_only=True, tag=True):
    """The client is connected, or its rows are written. `attacks` are those that it knows."""

    attacks: list[str] = []
    version: str = ""


class Asked(Struct, frozen=True, kw_only=True, tag=True):
    """What a question was answered, nearest first. `error` is empty when all went well."""

    hits: list[Hit] = []
    ms: float = 0.0
    error: str = ""


class Attacked(Struct, frozen=True, kw_only=True, tag=True):
    """What became of an attack. `refused` is empty, or a gRPC status or Milvus error, with `message`.

    `said` is everything that came back, as text; `count` a number of rows that it was told, None without one.
    """

    refused: str = ""
    message: str = ""
    said: str = ""
    count: int | None = None


class Stored(Struct, frozen=True, kw_only=True):
    """A row as the engine has it: in which collection, with which tenant in its reserved column."""

    collection: str
    tenant: str
    id: int
    text: str


class Looked(Struct, frozen=True, kw_only=True, tag=True):
    """Everything that the engine holds."""

    rows: list[Stored]


class Failed(Struct, frozen=True, kw_only=True, tag=True):
    """The client could not do it."""

    error: str


Reply = Ready | Asked | Attacked | Looked | Failed

encode = msgspec.json.Encoder().encode


def read_request(line: bytes) -> Request:
    """Return what a client is told."""
    request: Request = msgspec.json.decode(line, type=Request)
    return request


def read_reply(line: bytes) -> Reply:
    """Return what a client says."""
    reply: Reply = msgspec.json.decode(line, type=Reply)
    return reply
