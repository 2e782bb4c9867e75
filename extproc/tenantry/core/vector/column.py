"""What is said of a column of a write, without its values."""

from msgspec import Struct


class Column(Struct, frozen=True, kw_only=True):
    """What a column of a write is: its name, how its values are sent, and what else the schema speaks of.

    `kind` "" is a column without values. `elements` are the kinds of an array's rows, `dim` a dense vector's dimension,
    `nulls` whether rows are said to have no value.
    """

    name: str
    kind: str
    elements: frozenset[str] = frozenset()
    dim: int = 0
    nulls: bool = False
