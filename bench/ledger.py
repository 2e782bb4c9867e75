"""Measure how many usage records a second a ledger books, and what that costs.

    python -m bench.ledger [--db sqlite:PATH|postgresql://...] [--records 100000] [--batch 1000]

Batches go straight to the ledger, one after the other; each returns when it is on the disk. Records are of requests
that were served, of 100 tenants on 3 models, with random request ids, over an hour. `records_per_s` is by the clock,
`records_per_cpu_s` by the CPU time of this process (of SQLite: all of it). `again_per_s` is what the same records come
to when they are sent a second time. Without --db it is SQLite in a temporary folder. Prints one JSON object.
"""

import argparse
import asyncio
import json
import os
import random
import tempfile
import time
import uuid
from collections.abc import Sequence

from tenantry.adapters.ledger import open_ledger
from tenantry.adapters.ledger.store import Ledger, Query
from tenantry.core.usage import Charge, Record, UsageRecord

SEED = 20_261_125
NOW_S = 1_790_000_000.0


def records(count: int) -> list[Record]:
    """Return records with random ids, as engines post them."""
    rng = random.Random(SEED)
    return [
        UsageRecord(
            request_id=str(uuid.UUID(int=rng.getrandbits(128))), engine=f"engine-{number % 8}",
            tenant=f"tenant-{rng.randrange(100)}", tier="gold", model=f"model-{number % 3}", version="1.4.0",
            ended_s=NOW_S + 3_600 * number / count, finish_reason="stop", peak_kv_bytes=rng.randrange(2**28),
            charge=Charge(
                prefill_gpu_ns=rng.randrange(10**8), decode_gpu_ns=rng.randrange(10**9), input_tokens=300,
                output_tokens=120, kv_byte_ms=rng.randrange(2**40), weights="calibrated",
            ),
        )
        for number in range(count)
    ]  # fmt: skip


async def booked(ledger: Ledger, batches: Sequence[Sequence[Record]]) -> tuple[float, float]:
    """Book all; return seconds by the clock and of CPU."""
    started, cpu = time.perf_counter(), time.process_time()
    for batch in batches:
        await ledger.book(batch, [660_000] * len(batch), NOW_S)
    return time.perf_counter() - started, time.process_time() - cpu


async def measure(db: str, count: int, size: int) -> dict[str, object]:
    """Return the figures of one database."""
    ledger = open_ledger(db)
    await ledger.periods()  # lays out what is not there
    made = records(count)
    batches = [made[start : start + size] for start in range(0, count, size)]
    wall_s, cpu_s = await booked(ledger, batches)
    again_s, _ = await booked(ledger, batches)
    started = time.perf_counter()
    tallies = await ledger.tallies(Query(group_by=("tenant", "model", "hour")))
    tallies_ms = 1e3 * (time.perf_counter() - started)
    assert sum(tally.records for tally in tallies) == count
    await ledger.close()
    return {
        "database": db.partition(":")[0], "records": count, "batch": size, "records_per_s": round(count / wall_s),
        "records_per_cpu_s": round(count / cpu_s), "again_per_s": round(count / again_s),
        "tallies_ms": round(tallies_ms, 1), "cpus": os.cpu_count(), "load": os.getloadavg()[0],
    }  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--db", help="an empty ledger's place; default: SQLite in a temporary folder")
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=1_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        db = given.db or f"sqlite:{folder}/ledger.db"
        print(json.dumps(asyncio.run(measure(db, given.records, given.batch))))


if __name__ == "__main__":
    main()
