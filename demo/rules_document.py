"""The demo's rules document: filled in from the commented template, and edited while requests flow.

Comments and order stay. Each write is validated first and replaces the file by rename, as an
operator's tool should: the watching sidecar sees the old document or the new one.
"""

import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq
from ruamel.yaml.scalarstring import DoubleQuotedScalarString as Quoted
from tenantry.adapters.rules_file import read_rules

from demo.scenario import MODEL

TEMPLATE = Path(__file__).parent / "rules.yaml"


def fill(target: Path, endpoints: Mapping[str, str], digests: Mapping[str, str]) -> None:
    """Write the template with `endpoints` (by version) and key `digests` (by tenant) to `target`."""

    def change(document: Any) -> None:
        for version, endpoint in endpoints.items():
            document["models"][MODEL]["versions"][version]["endpoints"] = _listed(endpoint)
        for tenant, digest in digests.items():
            document["tenants"][tenant]["keys"] = _listed(digest)

    _rewrite(TEMPLATE, target, change)


def add_candidate(path: Path, version: str, endpoint: str) -> None:
    """Let a new version join, and make it the candidate."""

    def change(document: Any) -> None:
        model = document["models"][MODEL]
        model["versions"][Quoted(version)] = {
            "image": Quoted(f"registry.example/{MODEL}:{version}"),
            "endpoints": _listed(endpoint),
            "scheduling": "priority",
        }
        model["rollout"]["candidate"] = Quoted(version)

    _rewrite(path, path, change)


def take_beta(path: Path, tenant: str) -> None:
    """Take the beta flag from a tenant."""

    def change(document: Any) -> None:
        document["tenants"][tenant]["beta"] = False

    _rewrite(path, path, change)


def _rewrite(source: Path, target: Path, change: Callable[[Any], None]) -> None:
    round_trip = YAML()
    round_trip.preserve_quotes = True
    round_trip.width = 4096
    document = round_trip.load(source.read_bytes())
    change(document)
    text = io.BytesIO()
    round_trip.dump(document, text)
    read_rules(text.getvalue())
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    temporary.write_bytes(text.getvalue())
    temporary.replace(target)


def _listed(value: str) -> CommentedSeq:
    listed = CommentedSeq([Quoted(value)])
    listed.fa.set_flow_style()  # on one line, as the template has it
    return listed
