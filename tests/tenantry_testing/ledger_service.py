"""A ledger's service on a real port and a real file, in a thread of its own, as the command line meets it."""

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import yaml
from aiohttp import web
from tenantry.adapters.ledger.http import LedgerService
from tenantry.adapters.ledger.live import LiveRules
from tenantry.adapters.ledger.metrics import LedgerMetrics
from tenantry.adapters.ledger.service import application
from tenantry.adapters.ledger.sqlite import SqliteLedger
from tenantry.adapters.ports import free_port
from tenantry.core.billing.terms import write_terms
from tenantry.core.usage import Record

from tenantry_testing.documents import KEYS, Document, secret_files

Result = TypeVar("Result")


class LedgerElsewhere:
    """`now_s` is the service's clock. Files: `folder`/secrets, and `folder`/NAME.key for each tenant's API key."""

    def __init__(self, folder: Path, document: Document, now_s: float) -> None:
        self.folder, self.now_s = folder, now_s
        self.secrets = folder / "secrets"
        self.secrets.mkdir()
        for name, content in secret_files().items():
            (self.secrets / name).write_bytes(content)
        for name, key in KEYS.items():
            (folder / f"{name}.key").write_text(key + "\n")
        self._rules = folder / "rules.yaml"
        self._rules.write_text(yaml.safe_dump(document))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> Self:
        self._thread.start()
        self.do(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self.do(self._runner.cleanup())
        self.do(self._ledger.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def do(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    async def _open(self) -> None:
        self._ledger = SqliteLedger(self.folder / "ledger.db")
        metrics = LedgerMetrics()
        self._live = LiveRules(self._rules, self.secrets, lambda new: metrics.rules_live(new.book if new else None))
        self._service = LedgerService(self._ledger, self._live, metrics, lambda: self.now_s)
        self._runner = web.AppRunner(application(self._service), access_log=None)
        await self._runner.setup()
        port = free_port("127.0.0.1")
        await web.TCPSite(self._runner, "127.0.0.1", port).start()
        self.address = f"127.0.0.1:{port}"

    def book(self, records: Sequence[Record], units_micro: Sequence[int] = ()) -> None:
        """Book records past the service; without units they weigh nothing."""
        self.do(self._ledger.book(records, units_micro or [0] * len(records), self.now_s))

    def close_period(self, period: str) -> None:
        """Close it as the service does, by the rules that are live."""
        terms = write_terms(self._service.live.book.rules)
        self.do(self._ledger.close_period(period, self.now_s, not_before_s=0.0, terms=terms))

    def save_rules(self, document: Document) -> None:
        """Have the service go by another document."""
        self._rules.write_text(yaml.safe_dump(document))
        self.do(self._live.check())
