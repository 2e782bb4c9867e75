"""A valid rules document with one of everything, and what is made of it."""

import copy
from collections.abc import Mapping
from typing import Any

from tenantry.core import keyring as keyrings
from tenantry.core.apikeys import digest_text, new_key
from tenantry.core.keyring import Keyring
from tenantry.core.rollout.conduct import identity
from tenantry.core.rollout.standing import FLEET, State
from tenantry.core.routing import Decision, Live, RolloutView, decide
from tenantry.core.rulebook import RuleBook
from tenantry.core.rules import Rules, parse
from tenantry.core.session import Snapshot
from tenantry.core.split import Dice
from tenantry.core.tenant import Profile

Document = dict[str, Any]

NOW = 1_800_000_000.0
"""2027-01-15T08:00:00Z, the moment at which tests happen."""

KEYS = {name: new_key(bytes([number]) * 32) for number, name in enumerate(("acme", "globex", "initech", "nobody"))}
"""The API key of each tenant; nobody's is in no document."""

JWT = {"issuer": "https://idp.example", "audience": "inference", "jwksFile": "jwks.json", "tierClaim": "tier"}
MTLS = {"uriSanPrefix": "spiffe://prod/tenant/"}

_DOCUMENT: Document = {
    "version": 1,
    "tiers": {"gold": {"priority": 0}, "bronze": {"priority": 20}},
    "models": {
        "chat-8b": {
            "stable": "1.4.0",
            "versions": {
                "1.4.0": {"endpoints": ["127.0.0.1:8001"], "servedName": "chat-served"},
                "1.5.0": {"endpoints": ["127.0.0.1:8002"], "servedName": "chat-served", "scheduling": "priority"},
            },
            "rollout": {"candidate": "1.5.0"},
        },
        "embed": {"stable": "1", "versions": {"1": {"endpoints": ["127.0.0.1:8003"]}}},
    },
    "tenants": {
        "acme": {"tier": "gold", "keys": [digest_text(KEYS["acme"])], "pins": {"chat-8b": "1.4.0"}},
        "globex": {"tier": "bronze", "keys": [digest_text(KEYS["globex"])], "beta": True},
        "initech": {"tier": "bronze", "keys": [digest_text(KEYS["initech"])], "models": ["chat-8b"]},
    },
}


def document(changes: Mapping[str, object] | None = None, /, **sections: object) -> Document:
    """Return the document as plain data; `sections` replace whole sections of it.

    `changes` maps paths such as `tenants.acme.tier` to values (`...` takes the entry away); a key that
    holds a dot itself is written with `/` between all the keys: `models/chat-8b/versions/1.4.0`.
    """
    made = copy.deepcopy(_DOCUMENT) | sections
    for path, value in (changes or {}).items():
        *parents, last = path.split("/" if "/" in path else ".")
        place: Any = made
        for name in parents:
            place = place.setdefault(name, {})
        if value is ...:
            del place[last]
        else:
            place[last] = value
    return made


def rules(changes: Mapping[str, object] | None = None, /, **sections: object) -> Rules:
    return parse(document(changes, **sections))


def book(changes: Mapping[str, object] | None = None, /, **sections: object) -> RuleBook:
    return RuleBook(rules(changes, **sections))


def live(rules: Rules, **states: State) -> Live:
    """What routing knows when every rollout of the rules splits, but for the fleet-wide `states` by model."""
    views = {}
    for name, model in rules.models.items():
        if model.rollout is not None:
            candidate = model.rollout.candidate
            views[name] = RolloutView(
                id=identity(name, model),
                candidate=candidate,
                image=model.versions[candidate].image,
                states={FLEET: states[name]} if name in states else {},
            )
    return Live(rollouts=views)


def decision(
    profile: Profile,
    name: str,
    of: Rules,
    *,
    known: Live | None = None,
    split: float = 50.0,
    mirror: float = 50.0,
    streams: bool = False,
) -> Decision:
    """What a request gets whose unit has these buckets; rollouts are splitting unless `known` says more."""
    dice = Dice(split=split, mirror=mirror, tag="00c0ffee00c0ffee")
    return decide(
        profile, name, of.models[name], live(of) if known is None else known, lambda _rollout: dice, streams=streams
    )


def secret_files(**files: bytes) -> dict[str, bytes]:
    return {name: name.encode().ljust(keyrings.MIN_BYTES, b".") for name in keyrings.REQUIRED} | files


def keyring(**files: bytes) -> Keyring:
    return keyrings.keyring(secret_files(**files), ("chat-8b", "embed"))


def snapshot(changes: Mapping[str, object] | None = None, /, **sections: object) -> Snapshot:
    return Snapshot(book=book(changes, **sections), keyring=keyring(engine=b"engine-token"))
