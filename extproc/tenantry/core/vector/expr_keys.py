"""Primary keys in a filter, for the layout that stores them behind a tenant's prefix.

A key that a client writes is the stored one without its prefix. So a constant that is compared with the primary-key
field gets the prefix, and the field may be used in no other way: what engines would do with a whole stored key (its
length, its words, an order against another field) is not what the client asked. Order within a tenant stays as it was,
since all its keys begin alike; other tenants' keys are the guard's matter.
"""

import re
from typing import Never

from msgspec import Struct

from tenantry.core.vector.expr_nodes import (
    And,
    Arithmetic,
    Comparison,
    Condition,
    Contains,
    Exists,
    Length,
    Like,
    Literal,
    Membership,
    Negative,
    Not,
    Null,
    Or,
    PhraseMatch,
    Ref,
    TextMatch,
    Value,
    Values,
)
from tenantry.core.vector.expr_tokens import FilterError

_PREFIX = re.compile(r"[A-Za-z0-9:.-]+")


class KeyRewrite(Struct, frozen=True, kw_only=True):
    """The primary-key field (VARCHAR), and what stands before each of the tenant's keys in the store.

    The prefix is of A-Z a-z 0-9 : . - only, since it also comes before patterns of `like`.
    """

    field: str
    prefix: str

    def __post_init__(self) -> None:
        if _PREFIX.fullmatch(self.prefix) is None:
            raise ValueError("a key prefix is one or more of A-Z a-z 0-9 : . -")

    def rewritten(self, condition: Condition) -> Condition:  # noqa: PLR0911 - one for each kind
        """Return the condition on stored keys; raise FilterError where the key is used in another way."""
        if isinstance(condition, And):
            return And(tuple([self.rewritten(term) for term in condition.terms]))
        if isinstance(condition, Or):
            return Or(tuple([self.rewritten(term) for term in condition.terms]))
        if isinstance(condition, Not):
            return Not(self.rewritten(condition.term))
        if isinstance(condition, Comparison):
            return self._comparison(condition)
        if isinstance(condition, Membership) and self._is_key(condition.ref):
            return Membership(
                condition.ref, Values(tuple(map(self._stored, condition.values.values))), condition.negated
            )
        if isinstance(condition, Like) and self._is_key(condition.ref):
            return Like(condition.ref, self.prefix + condition.pattern)
        if self._uses(condition):
            self._refuse()
        return condition

    def _comparison(self, node: Comparison) -> Comparison:
        if self._is_key(node.left) and isinstance(node.right, Literal):
            return Comparison(node.operator, node.left, Literal(self._stored(node.right.value)))
        if self._is_key(node.right) and isinstance(node.left, Literal):
            return Comparison(node.operator, Literal(self._stored(node.left.value)), node.right)
        if self._uses(node.left) or self._uses(node.right):
            self._refuse()
        return node

    def _is_key(self, node: Value) -> bool:
        return isinstance(node, Ref) and node.name == self.field and not node.path

    def _stored(self, key: object) -> str:
        if not isinstance(key, str):
            self._refuse()
        return self.prefix + key

    def _uses(self, node: Value | Condition) -> bool:
        if isinstance(node, Ref):
            return node.name == self.field
        if isinstance(node, Arithmetic):
            return self._uses(node.left) or self._uses(node.right)
        if isinstance(node, Negative):
            return self._uses(node.value)
        if isinstance(node, TextMatch | PhraseMatch):
            return self._uses(node.field)
        if isinstance(node, Length | Membership | Like | Null | Exists | Contains):
            return self._uses(node.ref)
        return not isinstance(node, Literal)

    def _refuse(self) -> Never:
        raise FilterError(
            "the primary key may be compared with strings only: == != < <= > >=, in, not in, like with a constant."
        )
