"""The schema of the chart's `attachment`: how Envoy meets the sidecar."""

from typing import Any

ATTACHMENT: dict[str, Any] = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["plain", "envoyGateway", "istio", "kgateway", "none"]},
        "acknowledge": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["kind"],
    "additionalProperties": False,
}
