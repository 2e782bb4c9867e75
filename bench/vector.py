"""Measure what isolation costs a vector store's request: CPU of the rewriting, and time end to end.

    python -m bench.vector [--seed 20261125] [--engine lite25] [--searches 1500]

`cpu_us`: microseconds of CPU for parse + policy + rebuild + serialise of a Search (10 x 768 floats), a Query, and an
Insert of 1,000 x 768 floats; and of verifying a Search's answer. The least of several rounds: what else the machine
did is not of the code. `added_ms`: a Search through Envoy and sidecar less the same rewritten Search through a plain
Envoy to the same real Milvus, each over one connection, in turns (A B A B) within one run; also the whole figures of
either. Prints one JSON object as its last line.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import tempfile
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from statistics import quantiles
from typing import Any

import grpc
from google.protobuf import __version__ as protobuf_version
from tenantry.adapters import envoy_process
from tenantry.adapters.memory import keep_freed_memory
from tenantry.core.rules_stores import Store
from tenantry.core.vector._pb import milvus_pb2 as pb
from tenantry.core.vector.calls import StoreHead, StoreOf, StoreResponse
from tenantry.core.vector.grpc_frame import write_message
from tenantry.core.vector.milvus import SERVICE, MilvusCall, milvus_call
from tenantry.core.vector.milvus_rows import VARCHAR
from tenantry_envoy.binary import find_envoy

from bench.stack import KEYS, MAX_BYTES, ROOT, Client, checked, tenantry, when_ready
from bench.vector_messages import COLLECTION, Messages
from tools import milvus_engines

SEED = 20_261_125
TENANT = "acme"
ROUNDS = 7
BLOCK = 50
"""Searches in a row through one of the two ways, before the other has its turn."""


def call(method: str) -> MilvusCall:
    """Open a call as the sidecar does for each request."""
    store = Store(kind="milvus", endpoints=("127.0.0.1:1",), isolation="collection")
    headers = ((":method", b"POST"), ("content-type", b"application/grpc"), ("te", b"trailers"))
    head = StoreHead(method="POST", path=SERVICE + method, headers=headers)
    found = milvus_call(StoreOf(tenant=TENANT, name="docs", store=store), head, MAX_BYTES)
    assert found is not None
    return found


def cpu_us(work: Callable[[], object], times: int) -> float:
    """Return microseconds of CPU of one `work`: the least mean of several rounds."""
    least = float("inf")
    for _ in range(ROUNDS):
        begin = time.process_time_ns()
        for _ in range(times):
            work()
        least = min(least, (time.process_time_ns() - begin) / times / 1e3)
    return round(least, 1)


def answer_to_search(queries: int = 10, top_k: int = 10) -> bytes:
    """Return a Search's answer with the tenant column, as an engine would send it."""
    rows = queries * top_k
    answer = pb.SearchResults(collection_name=COLLECTION)
    results = answer.results
    results.num_queries, results.top_k = queries, top_k
    results.ids.int_id.data.extend(range(rows))
    results.scores.extend([0.5] * rows)
    results.topks.extend([top_k] * queries)
    for name, value in (("text", "a note"), ("tenant_id", TENANT)):
        results.fields_data.add(type=VARCHAR, field_name=name).scalars.string_data.data.extend([value] * rows)
    return write_message(answer.SerializeToString())


def costs(messages: Messages) -> dict[str, float]:
    """Return microseconds of CPU of each step."""
    search, query, insert = messages.search(), messages.query(), messages.insert(1000)
    asked = call("Search")
    asked.request(search)
    answer = StoreResponse(status=200, headers=(), body=answer_to_search())
    return {
        "search": cpu_us(lambda: call("Search").request(search), 1000),
        "query": cpu_us(lambda: call("Query").request(query), 2000),
        "insert_1000": cpu_us(lambda: call("Insert").request(insert), 50),
        "verify_search": cpu_us(lambda: asked.response(answer), 1000),
    }


def plain_envoy(engine: str) -> dict[str, Any]:
    """Return the bootstrap of an Envoy that hands everything on to the engine."""
    host, _, port = engine.rpartition(":")
    here = "type.googleapis.com/envoy.extensions"
    manager = {
        "@type": f"{here}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "plain",
        "http2_protocol_options": {"initial_stream_window_size": MAX_BYTES},
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all", "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "engine", "timeout": "0s"}}],
                }
            ]
        },
        "http_filters": [
            {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{here}.filters.http.router.v3.Router"}}
        ],
    }  # fmt: skip
    protocol = {
        "@type": f"{here}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    return {
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "static_resources": {
            "listeners": [
                {
                    "name": "clients",
                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
                    "filter_chains": [
                        {"filters": [{"name": "hcm", "typed_config": manager}]},
                    ],
                }
            ],
            "clusters": [
                {
                    "name": "engine", "type": "STATIC",
                    "typed_extension_protocol_options": {
                        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": protocol
                    },
                    "load_assignment": {
                        "cluster_name": "engine",
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {
                            "socket_address": {"address": host, "port_value": int(port)}}}}]}],
                    },
                }
            ],
        },
    }  # fmt: skip


def searches(ways: dict[str, Callable[[], bytes]], count: int) -> dict[str, list[float]]:
    """Return milliseconds of each search by each way, taken in turns."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for block in range(count // BLOCK + 1):
        for name, search in ways.items():
            for _ in range(BLOCK):
                begin = time.perf_counter()
                answer = search()
                if block:  # the first of each warm up
                    times[name].append((time.perf_counter() - begin) * 1e3)
                results = pb.SearchResults.FromString(answer)
                if len(results.results.ids.int_id.data) != 10:
                    raise RuntimeError(f"{name}: not the rows that are there: {results.status.reason}")
    return times


async def end_to_end(messages: Messages, kind: milvus_engines.Kind, count: int) -> dict[str, Any]:
    """Return the times of a Search with and without tenantry, before the same engine."""
    folder = Path(tempfile.mkdtemp(prefix="tenantry-bench-"))
    (folder / "plain").mkdir()
    with contextlib.ExitStack() as exits:
        engine = exits.enter_context(milvus_engines.start(kind, folder / "engine"))
        store = {"kind": "milvus", "endpoints": [engine.address], "isolation": "collection"}
        address = exits.enter_context(tenantry(folder / "tenantry", store))
        async with envoy_process.running(find_envoy(None), plain_envoy(engine.address), folder / "plain", 1) as envoy:
            plain, ours = Client(await envoy.listener()), Client(address, key=KEYS[TENANT])

            def measure() -> dict[str, list[float]]:
                when_ready(ours)
                checked(ours.call("CreateCollection", messages.create()))
                for first in range(0, 2000, 500):
                    ours.call("Insert", messages.insert(500, first))
                checked(ours.call("CreateIndex", messages.index()))
                checked(ours.call("LoadCollection", messages.load()))
                search = messages.search(queries=1)
                rewritten = call("Search").request(search).body or b""
                return searches(
                    {
                        "plain": lambda: plain.call("Search", rewritten),
                        "tenantry": lambda: ours.call("Search", search),
                    },
                    count,
                )

            times = await asyncio.to_thread(measure)
    cuts = {name: quantiles(values, n=100) for name, values in times.items()}
    figures = {name: {"p50": round(cut[49], 3), "p99": round(cut[98], 3)} for name, cut in cuts.items()}
    return {
        "added_ms": {key: round(figures["tenantry"][key] - figures["plain"][key], 3) for key in ("p50", "p99")},
        "search_ms": figures,
        "searches": {name: len(values) for name, values in times.items()},
        "engine": {"kind": engine.kind, "version": engine.version},
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--engine", choices=milvus_engines.KINDS, default="lite25")
    parser.add_argument("--searches", type=int, default=1500)
    options = parser.parse_args()
    keep_freed_memory()  # as the sidecar does
    messages = Messages(options.seed)
    figures: dict[str, Any] = {"cpu_us": costs(messages)}
    figures |= asyncio.run(end_to_end(messages, options.engine, options.searches))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    figures |= {
        "seed": options.seed,
        "cores": os.cpu_count(),
        "versions": {
            "tenantry": project["version"], "protobuf": protobuf_version, "grpcio": grpc.__version__,
            "python": platform.python_version(),
        },
    }  # fmt: skip
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
