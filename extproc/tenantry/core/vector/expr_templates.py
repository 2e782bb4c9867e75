"""Milvus's expression templates (`price > {limit}` beside `{"limit": 10}`), put in as constants.

No engine that is to be had as a package executes templates, and what a filter means should not depend on a second
document. A value becomes a node of the tree; it is never text that is read again.
"""

from collections.abc import Mapping

from tenantry.core.vector.expr_nodes import Literal, Scalar, Values
from tenantry.core.vector.expr_tokens import MAX_CHARACTERS, MAX_INTEGER, MAX_TOKENS, FilterError, quoted

TemplateValue = bool | int | float | str | tuple[bool | int | float | str, ...]


class Templates:
    """The values of one request, and which of them the filter has used."""

    __slots__ = ("_characters", "_unused", "_values")

    def __init__(self, values: Mapping[str, TemplateValue]) -> None:
        self._values = values
        self._unused = set(values)
        self._characters = 0

    def take(self, name: str) -> Literal | Values:
        """Return a value as a node; raise ValueError, its text safe to show, if there is none or a bad one."""
        if name not in self._values:
            raise ValueError("found a template without a value")
        self._unused.discard(name)
        value = self._values[name]
        items = value if isinstance(value, tuple) else (value,)
        if len(items) > MAX_TOKENS:
            raise ValueError(f"found a template of more than {MAX_TOKENS} constants")
        # A name may be used often: what comes out is bounded as if the client had written it out.
        self._characters += sum(_checked(item) for item in items)
        if self._characters > MAX_CHARACTERS:
            raise ValueError(f"with its templates put in, the filter has more than {MAX_CHARACTERS} characters")
        return Values(value) if isinstance(value, tuple) else Literal(value)

    def check_all_used(self) -> None:
        """Refuse values that the filter does not use: somebody meant another filter."""
        if self._unused:
            raise FilterError(f"{len(self._unused)} of the template values are not used in it.")


def _checked(value: Scalar) -> int:
    """Return how many characters a constant takes."""
    if isinstance(value, str):
        return len(quoted(value))
    if isinstance(value, bool):
        return 5
    if isinstance(value, int):
        if not -MAX_INTEGER <= value <= MAX_INTEGER:
            raise ValueError("found a template beyond 64 bits")
        return 20
    if value != value or value in {float("inf"), float("-inf")}:  # noqa: PLR0124 - this is how NaN is told
        raise ValueError("found a template that is no number")
    return 24
