"""Milvus's filters: parsed to a tree, checked, and printed again behind the tenant's guard.

The grammar, loosest first. Keywords and functions are written all small or all large, strings with either quote.

    condition   = condition ("or" | "||") condition
                | condition ("and" | "&&") condition
                | ("not" | "!") condition
                | value ("==" | "!=" | "<" | "<=" | ">" | ">=") value
                | value ("<" | "<=") field ("<" | "<=") value       (and with > and >=)
                | field ["not"] "in" list
                | field "like" string
                | field "is" ["not"] "null"
                | "exists" field
                | ("json_contains" | "array_contains") "(" field "," (constant | list) ")"
                | ("json_contains_all" | "json_contains_any" | "array_contains_all" | "array_contains_any")
                      "(" field "," list ")"
                | "text_match" "(" name "," string ["," "minimum_should_match" "=" integer] ")"
                | "phrase_match" "(" name "," string ["," integer] ")"
                | field | "true" | "false" | "(" condition ")"
    value       = value ("+" | "-") value | value ("*" | "/" | "%") value
                | ("-" | "+") value | value "**" value
                | "array_length" "(" field ")" | field | constant | "(" value ")"
    field       = name path* | "$meta" "[" string "]" path*
    path        = "[" (string | index) "]"
    list        = "[" [constant ("," constant)* [","]] "]" | template
    constant    = integer | float | string | "true" | "True" | "TRUE" | "false" | ... | template
    template    = "{" name "}"

Source: internal/parser/planparserv2/Plan.g4 of Milvus, of which this is a part. Differences, all towards less:

- What is not in the grammar is refused, above all what decides about more than its own row or was not shown to be safe:
  `random_sample` (engines take it out of the condition and sample before or after the rest), `element_filter` and
  `match_*`, operators on bits, geometry, timestamps, raw and prefixed strings, functions that we do not know.
- A chained range is read as two comparisons (`1 < a < 5` as `a > 1 and a < 5`), since milvus-lite 3.2.2 reads it as
  `(1 < a) < 5`. Other comparisons do not chain, powers not without parentheses. A constant goes to the right, since
  milvus-lite 2.5.1 answers `3 == n` with the rows where it is not.
- The right side of `/` and `%` is a field, or a constant other than 0 and -1: milvus-lite 2.5.1 ends at these.
- `not` is looser than comparisons, as in Milvus's documentation and milvus-lite 3.2.2. Milvus's own grammar binds it
  tighter and then refuses `not a == 1`. We print parentheses, which all read alike.

Why the guard always holds. The result is `(field == "tenant") and (client)`, printed from nodes: each parenthesis is
ours and closed, each string has the one form that all lexers end at the same quote (`expr_tokens`), each word is a
keyword that we wrote or an ASCII name. So every engine reads a conjunction at the top, with the guard as one side:

- A row passes a conjunction only if each side is true for it. With `null` the client's part can make the whole null or
  false, never true where the guard is not. `not` reaches no further than its own parentheses.
- A constant folds to the guard or to nothing. Merging conditions on one field (Milvus does) needs the same field twice,
  and the client cannot name the guard's: not as it is, not in other letters, not as a key of `$meta`.
- What is let through is decided row by row.
- A word that a newer engine takes for a keyword makes that engine refuse the filter; it cannot open a parenthesis.
"""

from collections.abc import Mapping

from tenantry.core.vector.expr_keys import KeyRewrite
from tenantry.core.vector.expr_nodes import And, Comparison, Condition, Literal, Node, Ref, render
from tenantry.core.vector.expr_parser import Parser
from tenantry.core.vector.expr_templates import Templates, TemplateValue
from tenantry.core.vector.expr_tokens import NAME, FilterError, quoted

__all__ = ["Condition", "FilterError", "KeyRewrite", "Node", "TemplateValue", "parse", "render", "scoped"]


def parse(text: str) -> Condition:
    """Return the condition that a filter is; raise FilterError for anything else, text without a condition included."""
    return Parser(text, frozenset(), Templates({})).condition()


def scoped(
    client: str,
    *,
    field: str,
    tenant: str,
    reserved: frozenset[str] = frozenset(),
    templates: Mapping[str, TemplateValue] = {},
    keys: KeyRewrite | None = None,
) -> str:
    """Return the filter that selects what the client's selects, of the tenant's rows alone.

    `field` holds the tenant in each row. The client may name neither it nor one of `reserved`. Names are compared
    without case (`str.casefold`, after escapes are decoded): engines do not ignore case today, but readers of JSON do,
    Go's among them, which also takes the long s (U+017F) for s and the Kelvin sign (U+212A) for k.
    """
    if NAME.fullmatch(field) is None:
        raise ValueError("the tenant's field is not an ASCII identifier")
    try:
        quoted(tenant)
    except ValueError as error:
        raise FilterError(f"the tenant's name cannot be written in a filter: {error}.") from None
    guard = Comparison("==", Ref(field), Literal(tenant))
    values = Templates(templates)
    if not client.strip(" \t\r\n"):
        values.check_all_used()
        return render(guard)
    forbidden = frozenset(name.casefold() for name in (field, *reserved))
    condition = Parser(client, forbidden, values).condition()
    values.check_all_used()
    if keys is not None:
        condition = keys.rewritten(condition)
    return render(And((guard, condition)))
