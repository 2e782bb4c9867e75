"""What Helm's patches do to an object: server-side apply, strategic merge, JSON merge.

Lists of objects merge by the key that Kubernetes merges them by. Of server-side apply it is the part that one manager
sees: what it applied before and applies no longer goes, what it applies is set, what others set stays.
"""

import copy
from typing import Any, Final

Json = dict[str, Any]

_KEYS: Final = {
    "containers": ("name",),
    "initContainers": ("name",),
    "ephemeralContainers": ("name",),
    "volumes": ("name",),
    "env": ("name",),
    "imagePullSecrets": ("name",),
    "volumeMounts": ("mountPath",),
    "ports": ("containerPort", "port"),
    "topologySpreadConstraints": ("topologyKey",),
    "conditions": ("type",),
    "ownerReferences": ("uid",),
}
"""By which member the items of a list are the same item."""


def _key(name: str, *lists: object) -> str | None:
    """The merge key of a list, if all of its items have it."""
    for key in _KEYS.get(name, ()):
        items = [item for each in lists if isinstance(each, list) for item in each]
        if items and all(isinstance(item, dict) and (key in item or "$patch" in item) for item in items):
            return key
    return None


def apply(before: Json, now: Json, live: Json) -> Json:
    """The live object after a manager that had applied `before` applies `now`."""
    result = {name: value for name, value in live.items() if name in now or name not in before}
    for name, value in now.items():
        result[name] = _apply_value(name, before.get(name), value, live.get(name))
    return result


def _apply_value(name: str, before: Any, now: Any, live: Any) -> Any:
    if isinstance(now, dict) and isinstance(live, dict):
        return apply(before if isinstance(before, dict) else {}, now, live)
    if isinstance(now, list) and isinstance(live, list) and (key := _key(name, now, live)):
        had = {item.get(key): item for item in before or () if isinstance(item, dict)}
        has = {item[key]: item for item in live}
        mine = [apply(had.get(item[key], {}), item, has.get(item[key], {})) for item in now]
        names = {item[key] for item in now}
        return mine + [item for item in live if item[key] not in names and item[key] not in had]
    return copy.deepcopy(now)


def json_merge(patch: Json, live: Json) -> Json:
    """RFC 7386."""
    result = dict(live)
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, dict):
            here = result.get(name)
            result[name] = json_merge(value, here if isinstance(here, dict) else {})
        else:
            result[name] = value
    return result


def strategic_merge(patch: Json, live: Json) -> Json:
    """Kubernetes' own: lists of objects by key, `$patch` and `$setElementOrder` as directives."""
    if patch.get("$patch") == "replace":
        return {name: value for name, value in patch.items() if name != "$patch"}
    result = dict(live)
    for name, value in patch.items():
        if name == "$retainKeys":
            result = {kept: item for kept, item in result.items() if kept in value}
        elif name.startswith("$deleteFromPrimitiveList/"):
            field = name.partition("/")[2]
            result[field] = [item for item in result.get(field, ()) if item not in value]
        elif name.startswith("$"):
            continue
        elif value is None:
            result.pop(name, None)
        elif isinstance(value, dict):
            here = result.get(name)
            result[name] = strategic_merge(value, here if isinstance(here, dict) else {})
        elif isinstance(value, list) and (key := _key(name, value, result.get(name))):
            result[name] = _merge_items(key, value, result.get(name) or [])
        else:
            result[name] = value
    for name, order in patch.items():
        field = name.removeprefix("$setElementOrder/")
        if field != name and field in result and (key := _key(field, result[field])):
            places = {entry[key]: index for index, entry in enumerate(order)}
            result[field] = sorted(result[field], key=lambda item: places.get(item[key], len(places)))
    return result


def _merge_items(key: str, patch: list[Json], live: list[Json]) -> list[Json]:
    if any(item.get("$patch") == "replace" for item in patch):
        return [item for item in patch if "$patch" not in item]
    result = {item[key]: item for item in live}
    for item in patch:
        if item.get("$patch") == "delete":
            result.pop(item[key], None)
        else:
            result[item[key]] = strategic_merge(item, result.get(item[key], {}))
    return list(result.values())
