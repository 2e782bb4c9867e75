"""Run one stand-in engine: `python -m tenantry_standin --model chat-8b --version 1.4.0 --listen 127.0.0.1:8001`."""

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import msgspec
from tenantry_vllm.delivery import Delivery, DeliveryOptions
from tenantry_vllm.sidecar_tls import TlsFiles

from tenantry_standin.batching import Finished, Limits
from tenantry_standin.behaviour import Behaviour
from tenantry_standin.engine import EngineConfig, Log
from tenantry_standin.metering import ColdStartCost
from tenantry_standin.server import own_engine_id, start

MAX_COLD_START_S = 86_400


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and serve until SIGINT or SIGTERM."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        config = _config(options)
        host, port = _address(options.listen)
        log = json_lines(sys.stderr, config)
        own_id = own_engine_id(config)
        delivery = _delivery(options, own_id, log)
    except (OSError, ValueError) as error:  # msgspec.ValidationError is a ValueError
        parser.error(str(error))
    asyncio.run(_serve(config, own_id, (host, port), log, delivery))


def json_lines(stream: TextIO, config: EngineConfig) -> Log:
    """Return a log that writes one JSON object a line, each saying that it is a stand-in's."""

    def log(event: str, /, **fields: object) -> None:
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        head = {"time": time, "stand_in": True, "model": config.model, "version": config.version, "event": event}
        stream.write(msgspec.json.encode({**head, **fields}).decode() + "\n")
        stream.flush()

    return log


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tenantry_standin", description=__doc__)
    limits = Limits()
    parser.add_argument("--model", required=True, help="the model name that requests carry")
    parser.add_argument("--version", required=True, help="the version that this engine stands for")
    parser.add_argument("--served-name", action="append", default=[], help="another name to answer to; repeatable")
    parser.add_argument("--listen", default="127.0.0.1:8001", help="HOST:PORT, port 0 takes a free one (%(default)s)")
    parser.add_argument("--api-key-file", type=Path, help="a file with the key that requests to /v1 must carry")
    parser.add_argument("--speed", type=float, help="short for --behaviour '{\"speed\": ...}'")
    parser.add_argument("--behaviour", default="{}", help="JSON object, see behaviour.py")
    parser.add_argument("--cold-start-s", type=float, help="what the start is said to have taken (28 / speed)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw who fails (%(default)s)")
    parser.add_argument("--max-running", type=int, default=limits.max_running, help="sequences in a step (%(default)s)")
    parser.add_argument(
        "--max-step-tokens", type=int, default=limits.max_step_tokens, help="tokens in a step (%(default)s)"
    )
    parser.add_argument(
        "--max-waiting", type=int, default=limits.max_waiting, help="sequences in the queue (%(default)s)"
    )
    parser.add_argument(
        "--ship-to", action="append", default=[], metavar="URL",
        help="post usage records to every sidecar behind https://HOST:PORT, or http of loopback; repeatable",
    )  # fmt: skip
    parser.add_argument("--ship-token-file", type=Path, help="a file with the token that sidecars and ledger ask for")
    parser.add_argument(
        "--ship-ca", type=Path, metavar="PEM", help="authorities that vouch for https sidecars and the ledger"
    )
    parser.add_argument("--ship-cert", type=Path, metavar="PEM", help="the client certificate to show to them")
    parser.add_argument("--ship-key", type=Path, metavar="PEM", help="its key")
    parser.add_argument(
        "--ledger-url", default="", metavar="URL", help="ship usage records to the ledger there, through --spool-dir"
    )
    parser.add_argument("--spool-dir", type=Path, help="a folder on local disk for what the ledger does not have yet")
    parser.add_argument(
        "--disk-full", choices=("refuse", "count"), default="refuse",
        help="when records cannot be kept: refuse new requests, or count what is lost (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--engine-id", default="", metavar="NAME", help="stand-in-NAME-... in usage records")
    parser.add_argument("--drain-s", type=float, default=5.0, help="grace for open requests at the end (%(default)s)")
    return parser


def _config(options: argparse.Namespace) -> EngineConfig:
    behaviour = msgspec.json.decode(options.behaviour, type=Behaviour)
    if options.speed is not None:
        behaviour = behaviour.changed({"speed": options.speed})
    key = options.api_key_file.read_text().strip() if options.api_key_file else ""
    if options.api_key_file and not key:
        raise ValueError(f"{options.api_key_file} is empty: it must hold the engine's API key")
    return EngineConfig(
        model=options.model,
        version=options.version,
        served_names=tuple(options.served_name),
        api_key=key,
        engine_name=options.engine_id,
        behaviour=behaviour,
        cold_start=_cold_start(options.cold_start_s, behaviour.speed),
        seed=options.seed,
        drain_s=options.drain_s,
        limits=Limits(
            max_running=options.max_running, max_step_tokens=options.max_step_tokens, max_waiting=options.max_waiting
        ),
    )


def _cold_start(seconds: float | None, speed: float) -> ColdStartCost:
    """Return the cost of a start, by phase at speed 1, that comes to so many seconds at this speed."""
    cost = ColdStartCost()
    if seconds is None:
        return cost
    if not 0 < seconds <= MAX_COLD_START_S:
        raise ValueError(f"--cold-start-s is {seconds:g}: give seconds above 0, up to {MAX_COLD_START_S:,}")
    factor = seconds * 1e3 * speed / (cost.load_ms + cost.warm_up_ms + cost.other_ms)
    return ColdStartCost(
        load_ms=cost.load_ms * factor, warm_up_ms=cost.warm_up_ms * factor, other_ms=cost.other_ms * factor
    )


def _delivery(options: argparse.Namespace, own_id: str, log: Log) -> Delivery | None:
    if bool(options.ship_to or options.ledger_url) != bool(options.ship_token_file):
        raise ValueError(
            "--ship-to or --ledger-url, and --ship-token-file go together: records are taken only with the token"
        )
    if bool(options.ledger_url) != bool(options.spool_dir):
        raise ValueError("--ledger-url and --spool-dir go together: what the ledger does not have yet waits there")
    files = (options.ship_ca, options.ship_cert, options.ship_key)
    https = any(url.lower().startswith("https:") for url in (*options.ship_to, options.ledger_url))
    if any(files) and not (all(files) and https):
        raise ValueError(
            "--ship-ca, --ship-cert and --ship-key go together, and with a --ship-to or --ledger-url https://HOST:PORT"
        )
    if not options.ship_to and not options.ledger_url:
        return None
    delivery = Delivery(
        DeliveryOptions(
            engine=own_id,
            sidecar_urls=tuple(options.ship_to),
            ledger_url=options.ledger_url,
            spool_dir=options.spool_dir,
            token_file=options.ship_token_file,
            tls=TlsFiles(ca=options.ship_ca, certificate=options.ship_cert, key=options.ship_key)
            if all(files)
            else None,
            disk_full=options.disk_full,
        ),
        log=lambda text: log("shipping", text=text),
    )
    delivery.start()
    return delivery


def _address(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"--listen takes HOST:PORT, such as 127.0.0.1:8001, not '{listen}'")
    return host.strip("[]"), int(port)


async def _serve(
    config: EngineConfig, own_id: str, listen: tuple[str, int], log: Log, delivery: Delivery | None
) -> None:
    def log_finished(finished: Finished) -> None:
        log("finished", **msgspec.structs.asdict(finished))

    if delivery is None:
        running = await start(config, *listen, own_id=own_id, log=log, on_finished=log_finished)
    else:
        running = await start(
            config,
            *listen,
            own_id=own_id,
            log=log,
            on_finished=log_finished,
            on_record=delivery.deliver,
            record_counts=delivery.counts,
            delivery_status=delivery.status,
            accepting=lambda: delivery.accepting,
        )
    log("listening", url=running.url, engine=running.engine_id, note="stand-in engine: no model runs here")
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await ended.wait()
    await running.stop()
    if delivery is not None:  # after the last request has ended, so that its record goes with the last flush
        await asyncio.to_thread(delivery.stop, max(1.0, config.drain_s))
        log("shipped", **delivery.counts())
    log("stopped")


if __name__ == "__main__":
    main()
