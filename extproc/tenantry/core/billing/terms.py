"""The terms of a period: the part of the rules that its invoices are written by, kept when the period is closed.

A closed period's bills never change, so neither may its prices: whoever asks later is told by the terms of then, and so
is a correction of that period that is booked in another.
"""

import msgspec

from tenantry.core.rules import Rules, TenantRules

_terms = msgspec.json.Decoder(Rules)


def terms_of(rules: Rules) -> Rules:
    """Return what of the rules an invoice depends on: tiers, whose tenants are in which, quotas, and billing."""
    return Rules(
        version=rules.version,
        models={},
        tiers=rules.tiers,
        default_tier=rules.default_tier,
        tenants={
            name: TenantRules(tier=tenant.tier, quota=tenant.quota)
            for name, tenant in rules.tenants.items()
            if tenant.tier is not None or tenant.quota is not None
        },
        billing=rules.billing,
    )


def write_terms(rules: Rules) -> str:
    """Return the terms as a ledger keeps them."""
    return msgspec.json.encode(terms_of(rules)).decode()


def read_terms(text: str) -> Rules:
    """Return terms that were kept; raise msgspec.MsgspecError for what is none."""
    return _terms.decode(text)
