"""What one request is to a rollout, from the decision to the access log and back.

The decision writes it into the metadata that only the sidecar writes; Envoy's access log returns it with the outcome.
Nothing in between is kept in memory.
"""

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

Arm = Literal["stable", "candidate"]

_ARMS: dict[str, Arm] = {"stable": "stable", "candidate": "candidate"}


class Trial(Struct, frozen=True, kw_only=True):
    """A request of a rollout.

    `arm` is the version that was *assigned*, whoever answered. `share`, 0 to 1, is the probability with which its
    `unit` (a tag, split.Dice) would have been sent to the candidate; 1 where there was no chance. `mirror`: a copy
    went to the candidate. `has_past`: the request brought earlier turns of its conversation along. `limit_s`: a first
    byte that takes longer counts as a failure, of either version: the candidate's request is rescued then, and one of
    the stable version that takes as long must not look better for having nobody to rescue it.
    """

    rollout: str
    candidate: str
    arm: Arm
    share: float
    unit: str
    mirror: bool = False
    has_past: bool = False
    limit_s: float = 120.0

    def metadata(self) -> dict[str, str]:
        """Return it as what `read` understands; texts, as Envoy's metadata goes through JSON's types."""
        return {
            "rollout": self.rollout,
            "candidate": self.candidate,
            "arm": self.arm,
            "share": repr(self.share),
            "unit": self.unit,
            "mirror": "yes" if self.mirror else "no",
            "has_past": "yes" if self.has_past else "no",
            "limit_s": repr(self.limit_s),
        }


def read(metadata: Mapping[str, str]) -> Trial | None:
    """Return the trial that metadata of ours tells of; None where there was none, or it is not understood."""
    arm = _ARMS.get(metadata.get("arm", ""))
    try:
        share, limit_s = float(metadata.get("share", "")), float(metadata.get("limit_s", ""))
    except ValueError:
        return None
    rollout, candidate, unit = (metadata.get(name, "") for name in ("rollout", "candidate", "unit"))
    if arm is None or not 0.0 <= share <= 1.0 or not limit_s > 0.0 or not (rollout and candidate and unit):
        return None
    return Trial(
        rollout=rollout,
        candidate=candidate,
        arm=arm,
        share=share,
        unit=unit,
        mirror=metadata.get("mirror") == "yes",
        has_past=metadata.get("has_past") == "yes",
        limit_s=limit_s,
    )
