"""Processes to kill: `python -m tenantry_testing.spool_processes ROOT ENGINE FIRST [LEDGER_URL TOKEN_FILE]`.

It appends records numbered from FIRST as fast as it can, from two threads, and prints each number once its record is
acknowledged as on disk. With a ledger it ships as well, by the same `Delivery` as an engine. It ends only if killed, or
with FIRST `-`, when all that is below ROOT has been shipped.
"""

import itertools
import os
import sys
import threading
import time
from pathlib import Path

from tenantry_vllm.delivery import Delivery, DeliveryOptions
from tenantry_vllm.spool import Spool, SpoolLimits

from tenantry_testing.spools import payload, record

LIMITS = SpoolLimits(
    spool_bytes=10**8, segment_bytes=100_000, reserve_bytes=1_000, memory_bytes=10**6, commit_s=0.01, retry_s=0.05
)  # fmt: skip


def _say(number: int) -> None:
    os.write(1, b"%d\n" % number)  # whole lines, whichever thread writes, and nothing is buffered when the end comes


def _write(root: Path, engine: str, first: int) -> None:
    spool = Spool(root, engine, log=lambda text: print(text, file=sys.stderr), limits=LIMITS)
    spool.start()
    numbers = itertools.count(first)

    def load() -> None:
        while True:
            group = [(number, spool.append(payload(number))) for number in itertools.islice(numbers, 20)]
            for number, place in group:
                if place is not None and spool.wait_fsynced(place, 10.0):
                    _say(number)

    for _ in range(2):
        threading.Thread(target=load, daemon=True).start()
    time.sleep(60.0)


def _ship(root: Path, engine: str, first: str, url: str, token: str) -> None:
    options = DeliveryOptions(engine=engine, ledger_url=url, spool_dir=root, token_file=Path(token))
    delivery = Delivery(options, log=lambda text: print(text, file=sys.stderr))
    delivery.start()
    if first == "-":
        while any(path.name != engine for path in root.iterdir()) or delivery.status().waiting_bytes:
            time.sleep(0.02)
        delivery.stop()
        return
    said = 0
    for number in itertools.count(int(first)):
        delivery.deliver(record(number))
        while number - int(first) - said > 50:
            for done in range(said, delivery.status().fsynced):
                _say(int(first) + done)
                said = done + 1
            time.sleep(0.001)


if __name__ == "__main__":
    if len(sys.argv) > 4:
        _ship(Path(sys.argv[1]), *sys.argv[2:])
    else:
        _write(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
