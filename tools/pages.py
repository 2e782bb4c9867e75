"""Write the generated parts of the documentation from the code they describe.

    python tools/pages.py [--check]

A part stands between `<!-- generated NAME -->` and `<!-- end NAME -->` in a Markdown file. Parts:
`session` and `rollout` (state machines, ARCHITECTURE.md), `routes` (allow-list, SECURITY.md), `errors` (statuses,
docs/errors.md), `metrics` (docs/operate.md), `rules` (reference of the document, docs/rules.md),
`attachments` (what each mesh can do, docs/attach.md),
`usage` (an engine's record, docs/roll-out-a-version.md), `ledger_metrics` and `tally` (docs/ledger.md).
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
import yaml
from msgspec import NODEFAULT, Meta, Struct
from prometheus_client import CollectorRegistry
from tenantry.adapters.ledger.metrics import LedgerMetrics
from tenantry.adapters.metrics import Metrics
from tenantry.core import model_api
from tenantry.core.billing.tallies import Tally
from tenantry.core.errors import RequestRefusedError
from tenantry.core.rollout import standing
from tenantry.core.rules import Rules
from tenantry.core.session import TRANSITIONS, State
from tenantry.core.usage import UsageRecord

ROOT = Path(__file__).resolve().parent.parent
PAGES = (
    "ARCHITECTURE.md",
    "SECURITY.md",
    "docs/attach.md",
    "docs/errors.md",
    "docs/ledger.md",
    "docs/operate.md",
    "docs/roll-out-a-version.md",
    "docs/rules.md",
)


def session_picture() -> str:
    """Draw the ext_proc conversation from the table that runs."""
    name = {state: state.name.lower() for state in State}
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {name[State.AWAIT_HEADERS]}"]
    for (state, event), step in TRANSITIONS.items():
        for reply, after in step.next.items():
            lines.append(f"    {name[state]} --> {name[after]}: {event.__name__} / {reply.__name__}")
    lines += [
        f"    {name[state]} --> {name[State.FAILED]}: anything else / error status"
        for state in (State.AWAIT_HEADERS, State.AWAIT_BODY, State.PASSED, State.ANSWERED)
    ]
    return "\n".join([*lines, "```"])


def rollout_picture() -> str:
    """Draw the states of a rollout's scope from the table that runs; an event that changes nothing has no edge."""
    edges: dict[tuple[str, str], list[str]] = {}
    for (state, event), after in standing.TRANSITIONS.items():
        if after is not state:
            edges.setdefault((state.value, after.value), []).append(event.value)
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {standing.State.SPLITTING.value}"]
    lines += [f"    {state} --> {after}: {', '.join(events)}" for (state, after), events in edges.items()]
    return "\n".join([*lines, "```"])


def routes_table() -> str:
    """List the model routes that exist."""
    rows = [f"| `{verb}` | `{path}` |" for path, verb in model_api.ROUTES.items()]
    return "\n".join(["| method | path |", "|---|---|", *rows])


def errors_table() -> str:
    """List the refusals with their statuses."""
    rows = [
        f"| {kind.__name__.removesuffix('Error')} | {kind.http_status} | {kind.grpc_status.name} | {kind.__doc__} |"
        for kind in RequestRefusedError.__subclasses__()
    ]
    return "\n".join(["| refusal | HTTP | gRPC | when |", "|---|---|---|---|", *rows])


def metrics_table() -> str:
    """List what a sidecar's /metrics shows."""
    return _metrics_table(Metrics().registry)


def ledger_metrics_table() -> str:
    """List what a ledger's /metrics shows."""
    return _metrics_table(LedgerMetrics().registry)


def _metrics_table(registry: CollectorRegistry) -> str:
    families = sorted(registry.collect(), key=lambda family: family.name)
    rows = [
        f"| `{family.name}{'_total' if family.type == 'counter' else ''}` | {family.type} | {family.documentation} |"
        for family in families
    ]
    return "\n".join(["| metric | type | what |", "|---|---|---|", *rows])


def attachments_table() -> str:
    """List what each attachment can do, from the table by which the chart refuses."""
    table = yaml.safe_load((ROOT / "helm" / "tenantry" / "files" / "attachments.yaml").read_text())
    kinds = table["attachments"]
    lines = ["| | " + " | ".join(kinds.values()) + " | without it |", "|---|" + "---|" * (len(kinds) + 1)]
    for row in table["capabilities"]:
        ways = " | ".join(row[kind] for kind in kinds)
        lines.append(f"| `{row['name']}`: {row['title']} | {ways} | {row['lost']} |")
    return "\n".join(lines)


def usage_table() -> str:
    """List the fields of a usage record, spelled as they are sent."""
    return _fields_table(UsageRecord)


def tally_table() -> str:
    """List the fields of a tally, spelled as they are answered."""
    return _fields_table(Tally)


def _fields_table(struct: type[Struct]) -> str:
    rows = [
        f"| `{field.encode_name}` | {_kind(field.type)} | {_default(field)} |"
        for field in msgspec.structs.fields(struct)
    ]
    text = re.sub(r"\s+", " ", struct.__doc__ or "").strip()
    return "\n".join([text, "", "| field | value | default |", "|---|---|---|", *rows])


def rules_reference() -> str:
    """Describe every key of the rules document from the structs that read it."""
    return "\n".join(_struct_section(Rules, "(top level)", set()))


def _struct_section(struct: type[Struct], title: str, seen: set[type[Struct]]) -> Iterator[str]:
    if struct in seen:
        return
    seen.add(struct)
    yield f"\n### {title}\n\n{_text(struct)}\n\n| key | value | default |\n|---|---|---|"
    nested = []
    for field in msgspec.structs.fields(struct):
        yield f"| `{field.encode_name}` | {_kind(field.type)} | {_default(field)} |"
        nested += [(inner, field.encode_name) for inner in _structs(field.type)]
    for inner, key in nested:
        yield from _struct_section(inner, f"`{key}`: {inner.__name__}", seen)


def _text(struct: type[Struct]) -> str:
    """Return a struct's docstring on one line, field names as the document spells them."""
    text = re.sub(r"`([a-z]+(?:_[a-z]+)+)`", lambda found: f"`{_camel(found[1])}`", struct.__doc__ or "")
    return re.sub(r"\s+", " ", text).strip()


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _structs(annotation: Any) -> Iterator[type[Struct]]:
    if isinstance(annotation, type) and issubclass(annotation, Struct):
        yield annotation
    for argument in get_args(annotation):
        if not isinstance(argument, Meta):
            yield from _structs(argument)


def _kind(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        meta = arguments[1]
        bounds = [
            f"{sign} {value:,}"
            for sign, value in (("at least", meta.ge), ("above", meta.gt), ("at most", meta.le), ("below", meta.lt))
            if value is not None
        ]
        note = meta.description or ", ".join(bounds)
        return _kind(arguments[0]) + (f" ({note})" if note else "")
    if origin in (Union, UnionType):
        return " or ".join(_kind(argument) for argument in arguments if argument is not type(None))
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is dict:
        return f"mapping of {_kind(arguments[0])} to {_kind(arguments[1])}"
    if origin is tuple:
        return f"list of {_kind(arguments[0])}"
    names = {str: "string", int: "whole number", float: "number", bool: "`true` or `false`"}
    return names.get(annotation) or str(annotation.__name__)


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    value = field.default if field.default is not NODEFAULT else field.default_factory()
    if isinstance(value, Struct):
        return "all defaults"
    if value is None or value in ((), {}):
        return "none"
    return f"`{msgspec.json.encode(value).decode()}`"


PARTS: dict[str, Callable[[], str]] = {
    "session": session_picture,
    "rollout": rollout_picture,
    "routes": routes_table,
    "errors": errors_table,
    "metrics": metrics_table,
    "rules": rules_reference,
    "attachments": attachments_table,
    "usage": usage_table,
    "ledger_metrics": ledger_metrics_table,
    "tally": tally_table,
}


def rendered(page: str) -> str:
    """Return a page's text with its parts as the code is now."""

    def part(found: re.Match[str]) -> str:
        name = found["name"]
        return f"<!-- generated {name} -->\n{PARTS[name]()}\n<!-- end {name} -->"

    return re.sub(r"<!-- generated (?P<name>\w+) -->.*?<!-- end (?P=name) -->", part, page, flags=re.DOTALL)


def main() -> int:
    """Write the pages, or with --check say whether they are current."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a page is stale")
    check = parser.parse_args().check
    stale = []
    for name in PAGES:
        path = ROOT / name
        text = path.read_text()
        if (new := rendered(text)) != text:
            stale.append(name)
            if not check:
                path.write_text(new)
    for name in stale:
        print(f"{name}: {'stale; run `make stubs`' if check else 'written'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
