"""Whether the stable version is well enough to go back to: for one tenant, and for the fleet."""

from collections import deque

STABLE_WINDOW_S = 300.0
STABLE_WINDOW_REQUESTS = 64
STABLE_JUDGED_FROM = 16
STABLE_FAILED_SHARE = 0.2
"""The stable version is unhealthy for a tenant when, of its last requests in the window, at least this share failed."""


class StableHealth:
    """The last requests of the stable version, by group; at most STABLE_WINDOW_REQUESTS each."""

    def __init__(self) -> None:
        self._seen: dict[str, deque[tuple[float, bool]]] = {}

    def __len__(self) -> int:
        return len(self._seen)

    def see(self, group: str, failed: bool | None, now_s: float) -> None:  # noqa: FBT001  # a reading, not an option
        """Take in a request that ended; None says nothing of the version."""
        if failed is not None:
            self._seen.setdefault(group, deque(maxlen=STABLE_WINDOW_REQUESTS)).append((now_s, failed))

    def is_sick(self, scope: str | None, now_s: float) -> bool:
        """Tell whether the stable version fails a tenant, or, for the fleet (None), others than whom it fails most.

        Nobody's own failures hold back what has to be done for others.
        """
        recent = {
            group: [failed for at, failed in seen if now_s - at <= STABLE_WINDOW_S]
            for group, seen in self._seen.items()
            if scope in {None, group}
        }
        if scope is None and recent:
            del recent[max(recent, key=lambda group: sum(recent[group]))]
        judged = [failed for seen in recent.values() for failed in seen]
        return len(judged) >= STABLE_JUDGED_FROM and sum(judged) >= STABLE_FAILED_SHARE * len(judged)

    def keep(self, groups: int) -> None:
        """Forget all but the newest groups: a chapter gives places anew, and those of earlier ones would pile up."""
        self._seen = dict(list(self._seen.items())[-groups:])
