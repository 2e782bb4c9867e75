"""Compute units: one measure for tokens of all kinds and models (the unit is explained in `core.rules_billing`)."""

from decimal import ROUND_HALF_EVEN, Decimal

from tenantry.core.rules_billing import ModelProfile

MICRO = 1_000_000


def compute_units_micro(profile: ModelProfile, *, input_tokens: int, cached_tokens: int, output_tokens: int) -> int:
    """Return millionths of compute units for so many tokens; exact decimal arithmetic, rounded half to even.

    `input_tokens` are those that were computed, without the cached ones.
    """
    weighted = (
        Decimal(str(profile.input_weight)) * input_tokens
        + Decimal(str(profile.cached_weight)) * cached_tokens
        + Decimal(str(profile.output_weight)) * output_tokens
    )
    # 10^9 FLOPs are a thousandth of a unit.
    micro = weighted * Decimal(str(profile.gigaflops_per_token)) * 1_000
    return int(micro.to_integral_value(rounding=ROUND_HALF_EVEN))
