"""The chart's values.schema.json: the rules from the structs that read them, all else from values.yaml itself.

A default tells a value's type; an object with members takes these alone, an empty one (`{}`) anything. What a default
cannot tell stands in OVERRIDES. Names that point nowhere JSON Schema cannot say: templates/_validations.tpl does.
Helm 4 reads draft 2020-12, Helm 3 draft 7: what is used here means the same in both.
"""

import json
from typing import Any

import msgspec
import yaml
from tenantry.core.rules import Rules

from tools.chart.attachment import attachment

Schema = dict[str, Any]

_PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}
_COUNT: Schema = {"type": "integer", "minimum": 1, "maximum": 1000}
_PULL: Schema = {"enum": ["Always", "IfNotPresent", "Never"]}
_DIGEST: Schema = {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"}
_ANY: Schema = {"type": "object"}
_NAMES: Schema = {"type": "array", "items": {"type": "string", "minLength": 1}}
_SELECTOR: Schema = {
    "type": "object",
    "properties": {
        "matchLabels": {"type": "object", "minProperties": 1, "additionalProperties": {"type": "string"}},
        "matchExpressions": {"type": "array", "minItems": 1, "items": _ANY},
    },
    "additionalProperties": False,
}  # fmt: skip
_PODS: Schema = {**_SELECTOR, "minProperties": 1}
"""An empty selector means every pod."""
_PEER: Schema = {
    "type": "object",
    "properties": {"namespaceSelector": _SELECTOR, "podSelector": _SELECTOR, "ipBlock": _ANY},
    "additionalProperties": False,
}
_GUARDED: Schema = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "namespace": {"type": "string"}, "podSelector": _PODS, "port": {"type": ["integer", "string"]},
            "from": {"type": "array", "items": _PEER},
        },
        "required": ["podSelector", "port"],
        "additionalProperties": False,
    },
}  # fmt: skip
_SCRAPED: Schema = {
    "type": "object",
    "properties": {
        "job": {"enum": ["engine", "envoy"]}, "namespace": {"type": "string"},
        "podSelector": _PODS, "port": {"type": "string"}, "path": {"type": "string"},
    },
    "required": ["job", "podSelector", "port"],
    "additionalProperties": False,
}  # fmt: skip
_PART: Schema = {
    "type": "object",
    "properties": {"configMap": {"type": "string"}, "secret": {"type": "string"}, "key": {"type": "string"}},
    "required": ["key"],
    "additionalProperties": False,
}

OVERRIDES: dict[str, Schema] = {
    "rulesFrom": {"type": "array", "maxItems": 255, "items": _PART},
    "secretName": {"type": "string", "maxLength": 253},
    "image.pullPolicy": _PULL,
    "image.digest": _DIGEST,
    "imagePullSecrets": _NAMES,
    "tls.allowClientSans": _NAMES,
    "sidecar.mode": {"enum": ["container", "deployment"]},
    "sidecar.replicas": _COUNT,
    "sidecar.graceSeconds": {"type": "integer", "minimum": 1, "maximum": 3600},
    "sidecar.resources": _ANY,
    "sidecar.ledgerUrl": {"type": "string", "pattern": "^(https?://.+)?$"},
    "sidecar.tracesUrl": {"type": "string", "pattern": "^(https?://.+)?$"},
    "envoy.image.pullPolicy": _PULL,
    "envoy.image.digest": _DIGEST,
    "envoy.port": _PORT,
    "envoy.concurrency": _COUNT,
    "envoy.drainSeconds": {"type": "integer", "minimum": 1, "maximum": 3600},
    "envoy.maxHeapBytes": {"type": "integer", "minimum": 67108864},
    "envoy.resources": _ANY,
    "envoy.service.type": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    "envoy.service.port": _PORT,
    "ledger.replicas": _COUNT,
    "ledger.resources": _ANY,
    "check.resources": _ANY,
    "podDisruptionBudget.maxUnavailable": {"type": ["integer", "string"]},
    "autoscaling.maxReplicas": _COUNT,
    "autoscaling.targetCPUUtilizationPercentage": {"type": "integer", "minimum": 1, "maximum": 100},
    "networkPolicy.envoy": _PEER,
    "networkPolicy.engines": _GUARDED,
    "networkPolicy.stores": _GUARDED,
    "networkPolicy.monitoring": _PEER,
    "networkPolicy.operators": {"type": "array", "items": _PEER},
    "monitoring.podMonitor.interval": {"type": "string", "pattern": "^[1-9][0-9]*(s|m)$"},
    "monitoring.podMonitor.pods": {"type": "array", "items": _SCRAPED},
    "monitoring.dashboards.labels": _ANY,
}


_TYPES = {list: "array", bool: "boolean", int: "integer", str: "string"}


def schema_text(values: str) -> str:
    """Return values.schema.json for the text of values.yaml."""
    (rules,), definitions = msgspec.json.schema_components([Rules], ref_template="#/$defs/{name}")
    # A part of the document may be outside the release (rulesFrom): what it must have, `tenantry check` knows.
    definitions["Rules"] = {key: value for key, value in definitions["Rules"].items() if key != "required"}
    given = {"rules": rules, "attachment": attachment(definitions["Rules"]), **OVERRIDES}
    schema = _of(yaml.safe_load(values), "", given)
    schema["properties"]["global"] = {"type": "object"}  # Helm gives a parent chart's to each chart
    document = {"$schema": "http://json-schema.org/draft-07/schema#", "title": "tenantry", **schema}
    return json.dumps({**document, "$defs": _untitled(definitions)}, indent=1) + "\n"


def _of(value: Any, path: str, given: dict[str, Schema]) -> Schema:
    if path in given:
        return given[path]
    if isinstance(value, dict):
        if not value:
            return _ANY
        members = {key: _of(member, f"{path}.{key}" if path else key, given) for key, member in value.items()}
        return {"type": "object", "properties": members, "additionalProperties": False}
    return {"type": _TYPES[type(value)]}


def _untitled(schema: Any) -> Any:
    """Leave out titles and docstrings of structs, which are for who reads the source."""
    if isinstance(schema, dict):
        return {
            key: _untitled(value)
            for key, value in schema.items()
            if not (key in ("title", "default") or (key == "description" and isinstance(value, str)))
        }
    return [_untitled(value) for value in schema] if isinstance(schema, list) else schema
