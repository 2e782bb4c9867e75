"""The demo's rules document: filled in from the commented template, and edited while requests flow.

Comments stay. Each write is validated first and replaces the file at once, as an operator's tool
should do it.
"""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq
from ruamel.yaml.scalarstring import DoubleQuotedScalarString as Quoted
from tenantry.adapters.rules_edit import rewrite

from demo.retrieval_story import STORE
from demo.scenario import MODEL, EnginePlan, QuotaPlan, RolloutPlan

TEMPLATE = Path(__file__).parent / "rules.yaml"

Change = Callable[[Any], None]
"""Changes a loaded document in place."""


def fill(target: Path, endpoints: Mapping[str, str], digests: Mapping[str, str], *changes: Change) -> None:
    """Write the template with `endpoints` (by version), key `digests` (by tenant) and `changes` to `target`."""

    def change(document: Any) -> None:
        for version, endpoint in endpoints.items():
            document["models"][MODEL]["versions"][version]["endpoints"] = _listed(endpoint)
        for tenant, digest in digests.items():
            document["tenants"][tenant]["keys"] = _listed(digest)

    rewrite(TEMPLATE, target, lambda raw: _changed(raw, (change, *changes)))


def edit(path: Path, *changes: Change) -> None:
    """Make all `changes` in one write."""
    rewrite(path, path, lambda raw: _changed(raw, changes))


def add_version(version: str, endpoint: str) -> Change:
    """Let a version join that nobody gets by itself."""

    def change(document: Any) -> None:
        entry = {
            "image": Quoted(f"registry.example/{MODEL}:{version}"),
            "endpoints": _listed(endpoint),
            "scheduling": "priority",
        }
        # In front: a comment behind a mapping belongs to its last entry, and would end up between the two.
        document["models"][MODEL]["versions"].insert(0, Quoted(version), entry)

    return change


def add_tenant(name: str, *, tier: str, digest: str, version: str) -> Change:
    """Let a tenant join that is pinned to `version`."""

    def change(document: Any) -> None:
        entry = {"tier": tier, "keys": _listed(digest), "pins": {MODEL: Quoted(version)}}
        document["tenants"].insert(0, name, entry)  # in front, as above

    return change


def add_rollout(plan: RolloutPlan, endpoints: Mapping[str, str], digests: Mapping[str, str]) -> Change:
    """Let a model join with a candidate in the split, and those tenants of `digests` that the document lacks."""

    def version(engine: EnginePlan) -> dict[str, object]:
        return {
            "image": Quoted(f"registry.example/{plan.model}:{engine.version}"),
            "endpoints": _listed(endpoints[engine.version]),
            "scheduling": "priority",
        }

    def change(document: Any) -> None:
        entry = {
            "profile": {"gigaflopsPerToken": plan.gigaflops_per_token},
            "stable": Quoted(plan.stable.version),
            "versions": {Quoted(engine.version): version(engine) for engine in plan.engines},
            "rollout": {"candidate": Quoted(plan.candidate.version), "percent": plan.percent},
        }
        if plan.mirror_percent:
            entry["rollout"]["mirrorPercent"] = plan.mirror_percent
        document["models"].insert(0, plan.model, entry)  # in front, as above
        for sender in plan.crowd:
            if sender.name not in document["tenants"]:
                tenant = {"tier": sender.tier, "keys": _listed(digests[sender.name])}
                document["tenants"].insert(0, sender.name, tenant)
            if sender.pinned:
                pins = document["tenants"][sender.name].setdefault("pins", {})
                pins.insert(0, plan.model, Quoted(plan.stable.version))

    return change


def add_quota(plan: QuotaPlan, digest: str) -> Change:
    """Let a tenant join with a quota of its own."""

    def change(document: Any) -> None:
        quota = {"computeUnitsPerMinute": plan.compute_units_per_minute}
        entry = {"tier": plan.tier, "keys": _listed(digest), "quota": quota}
        document["tenants"].insert(0, plan.tenant, entry)  # in front, as above

    return change


def set_store(endpoint: str, tenants: Mapping[str, tuple[str, str]]) -> Change:
    """Set the store's endpoint, and let its `tenants` join, each with tier and digest."""

    def change(document: Any) -> None:
        document["stores"][STORE]["endpoints"] = _listed(endpoint)
        for name, (tier, digest) in tenants.items():
            document["tenants"].insert(0, name, {"tier": tier, "keys": _listed(digest)})  # in front, as above

    return change


def without_stores() -> Change:
    """Take the stores out: there is no engine."""

    def change(document: Any) -> None:
        del document["stores"]

    return change


def _changed(raw: bytes, changes: tuple[Change, ...]) -> bytes:
    round_trip = YAML()
    round_trip.preserve_quotes = True
    round_trip.width = 4096
    document = round_trip.load(raw)
    for change in changes:
        change(document)
    text = io.BytesIO()
    round_trip.dump(document, text)
    return text.getvalue()


def _listed(value: str) -> CommentedSeq:
    listed = CommentedSeq([Quoted(value)])
    listed.fa.set_flow_style()  # on one line, as the template has it
    return listed
