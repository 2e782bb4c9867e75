"""The schema of the chart's `attachment`, how Envoy meets the sidecar: what a kind must name is required for it."""

from pathlib import Path
from typing import Any

import yaml

Schema = dict[str, Any]

_TABLE = Path(__file__).resolve().parents[2] / "helm" / "tenantry" / "files" / "attachments.yaml"
_TEXT: Schema = {"type": "string"}
_NAMED: Schema = {"type": "string", "minLength": 1}
_PORT: Schema = {"type": "integer", "minimum": 0, "maximum": 65535}


def attachment(rules: Schema) -> Schema:
    """Return the schema; `rules` is that of the document, whose models and stores may be repeated here."""
    capabilities = [each["name"] for each in yaml.safe_load(_TABLE.read_text())["capabilities"]]
    parts = rules["properties"]
    meshes: dict[str, dict[str, Schema]] = {
        "envoyGateway": dict.fromkeys(("gateway", "section", "xdsListener", "xdsRoutes", "caConfigMap"), _TEXT),
        "istio": {
            "namespace": _TEXT, "selector": {"type": "object"}, "port": _PORT, "credentialName": _TEXT,
            "clusterDomain": _TEXT,
        },
        "kgateway": {"gateway": _TEXT, "section": _TEXT},
    }  # fmt: skip
    return {
        "type": "object",
        "properties": {
            "kind": {"enum": ["plain", "envoyGateway", "istio", "kgateway", "none"]},
            "acknowledge": {"type": "array", "items": {"enum": capabilities}},
            "hosts": {"type": "array", "items": _NAMED},
            "models": parts["models"],
            "stores": {key: value for key, value in parts["stores"].items() if key != "default"},
            "sidecar": _closed({"service": _TEXT, "port": _PORT, "serverName": _TEXT}),
            **{kind: _closed(members) for kind, members in meshes.items()},
        },
        "required": ["kind"],
        "additionalProperties": False,
        "allOf": [_complete(kind, members) for kind, members in meshes.items()],
    }


def _closed(members: dict[str, Schema]) -> Schema:
    return {"type": "object", "properties": members, "additionalProperties": False}


def _complete(kind: str, members: dict[str, Schema]) -> Schema:
    """Return that a kind's own object names everything, if it is the kind."""
    full: dict[str, Schema] = {
        "string": {"minLength": 1}, "object": {"minProperties": 1}, "integer": {"minimum": 1}
    }  # fmt: skip
    wanted = {name: full[schema["type"]] for name, schema in members.items()}
    return {
        "if": {"properties": {"kind": {"const": kind}}},
        "then": {"properties": {kind: {"properties": wanted, "required": list(members)}}, "required": [kind]},
    }
