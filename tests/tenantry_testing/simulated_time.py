"""An event loop whose clock does not depend on how fast this machine is, or on who else uses it."""

import asyncio
import math
import selectors


class SimulatedTime(asyncio.SelectorEventLoop):
    """Code takes no time in it, and to wait takes as long as epoll would: whole milliseconds, never less than asked."""

    def __init__(self) -> None:
        self._now_s = 0.0
        super().__init__(_Jumping(self))

    def time(self) -> float:
        return self._now_s

    def wait(self, seconds: float) -> None:
        self._now_s += math.ceil(seconds * 1_000) / 1_000


class _Jumping(selectors.SelectSelector):
    def __init__(self, loop: SimulatedTime) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everybody waits for ever"
        self._loop.wait(timeout)
        return super().select(0)
