"""A stub of the ledger, over HTTP: it books, or does what networks and dying databases do."""

import random
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tenantry.core.usage import Record, read_batch


class StubLedger(ThreadingHTTPServer):
    """A ledger whose memory stands for its database: it survives what happens to its connections.

    Each POST draws what becomes of it: booked and answered, booked and cut, cut, refused with 503, or late.
    """

    daemon_threads = True

    def __init__(self, port: int, seed: int) -> None:
        self.booked: Counter[str] = Counter()
        self.records: list[Record] = []
        self.came = 0
        self.rng = random.Random(seed)
        self.kind = True
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", port), _Routes)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def handle_error(self, *_: object) -> None:
        """The other side was killed: that is the point."""


class _Routes(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StubLedger

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        assert (self.path, self.headers["authorization"]) == ("/records", "Bearer right-token")
        with self.server.lock:
            fate = (
                "well" if self.server.kind else self.server.rng.choice(["well", "well", "lost", "cut", "503", "late"])
            )
        if fate == "late":
            time.sleep(0.2)
        if fate == "503":
            self._answer(503, b"{}")
            return
        if fate == "cut":
            self.connection.close()
            return
        with self.server.lock:
            records = read_batch(body)
            ids = [one.id for one in records]
            self.server.records += records
            new = [one for one in ids if one not in self.server.booked]
            self.server.booked.update(new)
            self.server.came += len(ids)
        if fate == "lost":
            self.connection.close()
            return
        self._answer(200, b'{"new":%d,"known":%d}' % (len(new), len(ids) - len(new)))

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""
