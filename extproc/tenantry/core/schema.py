"""Says what is wrong with a document, where, and which name was probably meant.

msgspec validates a document in one fast pass but stops at the first error and abbreviates the
path of anything inside a mapping to `[...]`. A person with 2,000 tenants needs the name. So the
fast pass runs first; only when it fails does this slower walk follow the same annotations,
collect every problem and give each its full path.
"""

import difflib
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import islice
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from tenantry.core.errors import Problem, RulesError

T = TypeVar("T")

MAX_PROBLEMS = 50
"""A reader mends a few at a time; a document of another kind altogether has thousands."""


def parse(document: object, schema: type[T]) -> T:
    """Convert plain JSON/YAML data to `schema`, or raise RulesError with every problem (at most 50)."""
    try:
        return msgspec.convert(document, schema)
    except ValueError as error:  # msgspec.ValidationError, or an integer of too many digits to be shown
        found = at_most(walk(document, schema, ""))
        # The walk follows msgspec's own annotations; should it ever see less than msgspec did,
        # the document stays refused.
        raise RulesError(found or [Problem(path="", message=str(error))]) from None


def unprintable(value: object, path: str) -> Iterator[Problem]:
    """Yield a problem for each text that holds a line break or another control character.

    Names become header values, and a pattern's closing `$` lets a line break pass at the very end.
    """
    if isinstance(value, str):
        if not value.isprintable():
            yield Problem(path=path, message="a line break or another unprintable character", hint="remove it")
    elif isinstance(value, Mapping):
        for key, element in value.items():
            yield from unprintable(key, join(path, key))
            yield from unprintable(element, join(path, key))
    elif isinstance(value, list | tuple | set | frozenset):
        for index, element in enumerate(value):
            yield from unprintable(element, f"{path}[{index}]")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint that names the likeliest valid spelling and lists the valid names (at most 8)."""
    names = sorted(known)
    lowered = {candidate.lower(): candidate for candidate in names}
    close = difflib.get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.6)
    guess = f'did you mean "{lowered[close[0]]}"? ' if close else ""
    listed = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return guess + (f"(known: {listed})" if names else "(none is defined)")


def walk(value: object, annotation: Any, path: str) -> Iterator[Problem]:
    """Yield the problems of `value` against a msgspec annotation; structs, mappings, lists, unions, leaves."""
    bare = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    origin = get_origin(bare)
    if origin in (Union, types.UnionType):
        yield from _walk_union(value, annotation, get_args(bare), path)
    elif _is_struct(bare):
        yield from _walk_struct(value, bare, path)
    elif origin is dict:
        yield from _walk_mapping(value, annotation, get_args(bare), path)
    elif origin in (tuple, list) and isinstance(value, list | tuple):
        yield from _walk_list(value, annotation, get_args(bare)[0], path)
    else:
        yield from _leaf(value, annotation, path)


def _walk_union(value: object, annotation: Any, members: tuple[Any, ...], path: str) -> Iterator[Problem]:
    container = next((member for member in members if _may_hold(member, value)), None)
    if container is not None:
        yield from walk(value, container, path)
    else:
        yield from _leaf(value, annotation, path)


def _may_hold(annotation: Any, value: object) -> bool:
    """Return whether the annotation is of the kind of container that the value is."""
    if isinstance(value, Mapping):
        return get_origin(annotation) is dict or _is_struct(annotation)
    return isinstance(value, list | tuple) and get_origin(annotation) in (tuple, list)


def _is_struct(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, msgspec.Struct)


def _walk_struct(value: object, struct: type[msgspec.Struct], path: str) -> Iterator[Problem]:
    if not isinstance(value, Mapping):
        yield Problem(path=path, message=f"expected a mapping, got {_kind(value)}")
        return
    fields = {field.encode_name: field for field in msgspec.structs.fields(struct)}
    for key in value:
        if key not in fields:
            yield Problem(path=join(path, key), message="unknown key", hint=nearest(str(key), fields))
    for name, field in fields.items():
        if name in value:
            yield from walk(value[name], field.type, join(path, name))
        elif field.required:
            yield Problem(path=join(path, name), message="missing; it has no default")


def _walk_mapping(value: object, annotation: Any, arguments: tuple[Any, ...], path: str) -> Iterator[Problem]:
    if not isinstance(value, Mapping):
        yield Problem(path=path, message=f"expected a mapping, got {_kind(value)}")
        return
    key_type, value_type = arguments
    good = True
    for key, element in value.items():
        for problem in (*_leaf(key, key_type, join(path, key)), *walk(element, value_type, join(path, key))):
            good = False
            yield problem
    if good:  # then what is wrong, if anything, is the mapping's own bound
        yield from _leaf(value, annotation, path)


def _walk_list(value: Sequence[object], annotation: Any, item: Any, path: str) -> Iterator[Problem]:
    good = True
    for index, element in enumerate(value):
        for problem in walk(element, item, f"{path}[{index}]"):
            good = False
            yield problem
    if good:
        yield from _leaf(value, annotation, path)


MAX_CHOICE_CHARACTERS = 64
"""Longer than any word there is to choose; looking for what is near takes time."""


def _leaf(value: object, annotation: Any, path: str) -> Iterator[Problem]:
    try:
        msgspec.convert(value, annotation)
    except ValueError as error:
        text = str(error)
        hint = ""
        # str() refuses an integer of thousands of digits, and a person never meant one.
        if "Expected `str" in text and isinstance(value, int | float | bool) and abs(value) < 10**40:
            plain = f"{Decimal(str(value)):f}" if type(value) is float else str(value)  # 0.000012, not 1.2e-05
            hint = f'YAML reads {plain} as a {_kind(value)}: write it in quotes, "{plain}"'
        elif get_origin(annotation) is Literal and text.startswith("Invalid enum value") and isinstance(value, str):
            hint = nearest(value[:MAX_CHOICE_CHARACTERS], get_args(annotation))
        elif "matching regex" in text:
            hint = _described(annotation)
        yield Problem(path=path, message=text[:1].lower() + text[1:], hint=hint)


def _described(annotation: Any) -> str:
    """Return what a pattern means in words: people do not read regular expressions."""
    metas = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
    return next((meta.description for meta in metas if isinstance(meta, msgspec.Meta) and meta.description), "")


def join(path: str, key: object) -> str:
    """Return `path.key`, with the key in brackets where it holds a dot itself."""
    text = str(key)
    if "." in text or not text:
        return f'{path}["{text}"]'
    return f"{path}.{text}" if path else text


def _kind(value: object) -> str:
    if value is None:
        return "nothing"
    names = {bool: "boolean", int: "number", float: "number", str: "string", list: "list", dict: "mapping"}
    return names.get(type(value), type(value).__name__)


def at_most(problems: Iterable[Problem], limit: int = MAX_PROBLEMS) -> list[Problem]:
    """Return the first problems, and a last one that says so when there are more."""
    found = list(islice(problems, limit + 1))
    if len(found) > limit:
        found[limit:] = [Problem(path="", message=f"and more: only the first {limit} problems are listed")]
    return found
