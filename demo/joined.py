"""A run's requests, each joined by its id from the client that sent it and the engine that served it.

Whose a request really was is known from the client alone; nothing that went through Envoy is asked.
"""

from collections.abc import Iterable
from functools import cached_property

from demo.run import Arrival, Call, Run
from demo.upstream import Truth


class Joined:
    """A run with its three sides joined by request id."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.calls = {call.request_id: call for call in run.calls if call.request_id}

    @cached_property
    def arrivals(self) -> dict[str, Arrival]:
        """Arrivals by the id that tenantry gave them."""
        return {arrival.header("x-tenantry-request-id"): arrival for arrival in self.run.arrivals}

    @cached_property
    def strangers(self) -> int:
        """Arrivals that no client of the demo sent, and ids that arrived twice."""
        return len(self.run.arrivals) - len(self.arrivals.keys() & self.calls.keys())

    def served(self, calls: Iterable[Call]) -> list[tuple[Call, Arrival]]:
        """Return those calls that reached an engine, each with its arrival there."""
        return [(call, self.arrivals[call.request_id]) for call in calls if call.request_id in self.arrivals]

    def truth(self, call: Call, arrival: Arrival) -> Truth:
        """Return whose a request was, by its client."""
        plan = self.run.scenario.tenant(call.tenant)
        return Truth(plan=plan, request_id=call.request_id, version=arrival.version)
