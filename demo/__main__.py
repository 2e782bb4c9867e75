"""Play the demo: `python -m demo`, or leave its stack running: `python -m demo --stay`."""

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path

import aiohttp
import msgspec
import psutil
from rich.console import Console
from tenantry.core.errors import TenantryError

from demo import scenario as scenarios
from demo.live import Progress, showing
from demo.measure import build
from demo.observe import NotSettledError, RecordLostError
from demo.play import Play
from demo.report import Report
from demo.report_html import page
from demo.report_text import print_report
from demo.retrieval_stack import Environments, NoEnvironmentError, environments
from demo.scenario import Scenario
from demo.stack import StackError, running
from demo.stay import tell

CLOSING_SECONDS = 3.5
"""What the last answers, the records and stopping everything take."""

MIN_TRAFFIC_SECONDS = 6.0
PLAIN_WIDTH = 120
INTERRUPTED = 130
EXPLAINED = (StackError, TenantryError, NotSettledError, RecordLostError)
"""Errors that say what a person can act on; others are shown with their type."""


def main() -> int:
    """Return 0 when every expectation held."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--engine", choices=("stand-in", "vllm"), default="stand-in", help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long it takes in all (%(default)g)")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder for reports and logs (%(default)s)")
    parser.add_argument("--stay", action="store_true", help="start everything, say what to curl, and wait for Ctrl-C")
    options = parser.parse_args()
    scenario = scenarios.vllm() if options.engine == "vllm" else scenarios.stand_in()
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PLAIN_WIDTH)
    work = _stay(scenario, options.out, console) if options.stay else _demo(scenario, options, console)
    try:
        return asyncio.run(_stoppable(work))
    except asyncio.CancelledError:
        console.print("\nstopped; nothing is left running")
        return 0 if options.stay else INTERRUPTED
    except (*EXPLAINED, ExceptionGroup) as error:
        for cause in _causes(error):
            console.print(f"error: {cause}\nlogs are in {options.out / 'state'}", markup=False)
        return 1


async def _stoppable(work: Coroutine[None, None, int]) -> int:
    """Run `work`; the first Ctrl-C or SIGTERM cancels it, and it stops what it started. Later ones change nothing."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    stopping = False

    def stop() -> None:
        nonlocal stopping
        if not stopping:
            stopping = True
            print("\nstopping (vLLM, if it is loading, takes up to 15 s)", file=sys.stderr)
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop)
    return await task


async def _demo(scenario: Scenario, options: argparse.Namespace, console: Console) -> int:
    begin_s = psutil.Process().create_time()  # imports count, too
    retrieval, set_up_s = await _retrieval(console)
    begin_s += set_up_s
    progress = Progress(console)
    async with running(scenario, options.out, progress.say, retrieval) as stack, aiohttp.ClientSession() as http:
        started_s = time.time()
        # Real engines take a minute to start: their play is counted from there.
        end_s = (begin_s if scenario.engine == "stand-in" else started_s) + options.seconds - CLOSING_SECONDS
        play = Play(scenario, stack, http)
        progress.say(f"{stack.base_url}: {len(scenario.founding)} tenants, {len(scenario.engines)} engines")
        progress.done()
        with showing(console) as show:
            await play.run(max(end_s, started_s + MIN_TRAFFIC_SECONDS), show)
    report = build(play.record(time.time() - begin_s))
    _write(options.out, report)
    print_report(report, console)
    console.print(f"\n{options.out / 'report.html'}  {options.out / 'report.json'}")
    if not console.is_terminal:
        summary = msgspec.to_builtins(report)
        del summary["timeline"]
        for rollout in summary["rollouts"].values():
            del rollout["timeline"], rollout["evidence"]
        for billed in summary["metering"]["billed"].values():
            del billed["lines"]
        del summary["vector"]["tried"], summary["vector"]["questions"]
        sys.stdout.write(msgspec.json.encode(summary).decode() + "\n")
    return 0 if report.ok else 1


async def _stay(scenario: Scenario, out: Path, console: Console) -> int:
    retrieval, _ = await _retrieval(console)
    progress = Progress(console)
    async with running(scenario, out, progress.say, retrieval) as stack:
        progress.done()
        tell(scenario, stack, console)
        raise await stack.up.envoy.ended()


async def _retrieval(console: Console) -> tuple[Environments | str, float]:
    """Return what retrieval runs on, or why it does not; and how long that took to set up, which happens once."""
    begin_s = time.time()
    try:
        return await environments(), time.time() - begin_s
    except NoEnvironmentError as error:
        console.print(f"retrieval does not run: {error}", markup=False)
        return str(error), time.time() - begin_s


def _write(out: Path, report: Report) -> None:
    (out / "report.json").write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    (out / "report.html").write_text(page(report), encoding="utf-8")


def _causes(error: BaseException) -> Iterator[str]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _causes(inner)
    else:
        yield str(error) if isinstance(error, EXPLAINED) else f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    sys.exit(main())
