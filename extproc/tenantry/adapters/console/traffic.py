"""How many requests ended here, by tenant and by version: what `tenantry_requests_total` counts, with each tenant.

Metrics have a label for some tenants only; a page of 25 rows can name every one. Bounded all the same.
"""

from tenantry.core.outcome import Outcome

MAX_TENANTS = 20_000
MAX_VERSIONS = 1_000


class Traffic:
    """An outcome sink. `tenants` has (requests, of them failed) by name, `versions` requests by model and version."""

    def __init__(self) -> None:
        self.tenants: dict[str, tuple[int, int]] = {}
        self.versions: dict[tuple[str, str], int] = {}
        self.requests = 0

    def outcome(self, outcome: Outcome) -> None:
        """Count the end of a request to a model; one to a store has no version."""
        if outcome.store:
            return
        self.requests += 1
        if outcome.tenant in self.tenants or len(self.tenants) < MAX_TENANTS:
            requests, failed = self.tenants.get(outcome.tenant, (0, 0))
            self.tenants[outcome.tenant] = (requests + 1, failed + (outcome.ended == "failed" or outcome.code >= 500))
        version = (outcome.model, outcome.version)
        if version in self.versions or len(self.versions) < MAX_VERSIONS:
            self.versions[version] = self.versions.get(version, 0) + 1
