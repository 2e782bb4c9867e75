"""Rules in parts: several documents that are one, so that no part need be larger than a ConfigMap.

`tenants`, `models`, `stores` and `tiers` may stand in any part and are merged by name; every other key stands in one
part only. A name that stands in two parts is refused with both: which of them would count is nobody's to guess. A part
that is empty is refused too, since that is what a file looks like that is just being written, and its tenants would be
gone for a moment.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from tenantry.core.errors import Problem, RulesError, TenantryError
from tenantry.core.schema import at_most, join

MERGED = ("tiers", "models", "tenants", "stores")
MAX_PARTS = 256
"""64 MiB of documents in ConfigMaps of 1 MiB are 64 parts."""

Place = tuple[str, str | None]
"""A key of the document, or a name under a key."""

_ANYWHERE: Place = ("", None)


class Part(Struct, frozen=True, kw_only=True):
    """One part: its name (a file's; "" for a document that is whole by itself) and its plain data."""

    name: str
    document: object


class Merged(Struct, frozen=True, kw_only=True):
    """The whole document, and which part each of its keys and merged names came from."""

    document: object
    origins: Mapping[Place, str]


def merge(parts: Sequence[Part]) -> Merged:
    """Return the parts as one document; raise RulesError with each name that stands twice, and where.

    Whether what comes out is a valid document is for `rules.parse` to say.
    """
    if len(parts) == 1:
        return Merged(document=parts[0].document, origins=_origins(parts[0]))
    merger = _Merger()
    problems = at_most(problem for part in parts for problem in merger.add(part))
    if problems:
        raise RulesError(problems)
    return Merged(document=merger.document, origins=merger.origins)


class _Merger:
    def __init__(self) -> None:
        self._whole: dict[object, object] = {}
        self._sections: dict[object, dict[object, object]] = {key: {} for key in MERGED}
        self.origins: dict[Place, str] = {}

    @property
    def document(self) -> dict[object, object]:
        """What the parts come to; a section that no part has is not there."""
        return self._whole | {key: each for key, each in self._sections.items() if (key, None) in self.origins}

    def add(self, part: Part) -> Iterator[Problem]:
        if not isinstance(part.document, Mapping) or not part.document:
            hint = "remove the file, or write what belongs there (an empty file may be one that is just being written)"
            yield Problem(part=part.name, path="", message="a part is a mapping with at least one key", hint=hint)
            return
        for key, value in part.document.items():
            if key not in MERGED:
                yield from self._take(part, (str(key), None), self._whole, key, value)
            elif not isinstance(value, Mapping):
                yield Problem(part=part.name, path=str(key), message="expected a mapping of names")
            else:
                self.origins.setdefault((str(key), None), part.name)
                for name, entry in value.items():
                    yield from self._take(part, (str(key), str(name)), self._sections[key], name, entry)

    def _take(
        self, part: Part, place: Place, into: dict[object, object], key: object, value: object
    ) -> Iterator[Problem]:
        section, name = place
        first = self.origins.setdefault(place, part.name)
        if first == part.name:
            into[key] = value
            return
        hint = "remove it from one of them" if name else f"only {', '.join(MERGED)} may stand in several parts"
        path = section if name is None else join(section, name)
        yield Problem(part=part.name, path=path, message=f"it stands in {first} already", hint=hint)


def _origins(part: Part) -> dict[Place, str]:
    origins: dict[Place, str] = {_ANYWHERE: part.name}
    for key, value in part.document.items() if isinstance(part.document, Mapping) else ():
        origins[str(key), None] = part.name
        if key in MERGED and isinstance(value, Mapping):
            origins |= {(str(key), str(name)): part.name for name in value}
    return origins


_FIRST_TWO = re.compile(r'([^.\[]+)(?:\["(?P<quoted>[^"]*)"\]|\.(?P<plain>[^.\[]*))?')


def located(problems: Iterable[Problem], origins: Mapping[Place, str]) -> list[Problem]:
    """Return the problems of a merged document with the part in which each of them stands, where one is known."""
    return [replace(problem, part=problem.part or _part_of(problem.path, origins)) for problem in problems]


def _part_of(path: str, origins: Mapping[Place, str]) -> str:
    found = _FIRST_TWO.match(path)
    if found is None:
        return origins.get(_ANYWHERE, "")
    name = found["quoted"] if found["quoted"] is not None else found["plain"]
    return origins.get((found[1], name)) or origins.get((found[1], None)) or origins.get(_ANYWHERE, "")


def split(document: Mapping[str, object], max_bytes: int) -> tuple[dict[str, object], list[str]]:
    """Return a valid document without its tenants, and the tenants as texts of YAML of `max_bytes` at most (UTF-8).

    The tenants keep their order (labels of metrics go by it), one on each line. Raises TenantryError for a tenant that
    is larger by itself, and for more parts than are read again.
    """
    tenants = document.get("tenants")
    texts = list(_texts(tenants, max_bytes)) if isinstance(tenants, Mapping) else []
    if len(texts) >= MAX_PARTS:
        raise TenantryError(f"{len(texts)} parts of tenants, and {MAX_PARTS - 1} are read: let each be larger")
    return {key: value for key, value in document.items() if key != "tenants"}, texts


def _texts(tenants: Mapping[str, object], max_bytes: int) -> Iterator[str]:
    head = "tenants:\n"
    lines: list[str] = []
    size = len(head)
    for name, entry in tenants.items():
        # JSON on one line is YAML, and needs no care for words that YAML reads as something else.
        line = f"  {_json(name)}: {_json(entry)}\n"
        length = len(line.encode())
        if len(head) + length > max_bytes:
            raise TenantryError(
                f"{join('tenants', name)} takes {length} bytes by itself, more than a part of {max_bytes}"
            )
        if size + length > max_bytes:
            yield head + "".join(lines)
            lines, size = [], len(head)
        lines.append(line)
        size += length
    if lines:
        yield head + "".join(lines)


def _json(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=0).decode()
