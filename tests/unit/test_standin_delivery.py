"""The stand-in engine as a process with a ledger: killed, started again, and with a disk that keeps nothing."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest
from tenantry.adapters.ports import free_port
from tenantry.core.usage import ColdStart, UsageRecord
from tenantry_standin.__main__ import main
from tenantry_standin.engine import EngineConfig
from tenantry_standin.server import start
from tenantry_testing.ledger_stub import StubLedger
from tenantry_testing.sidecars import TOKEN
from tenantry_testing.spools import until

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}


@contextmanager
def engine(spool: Path, token: Path, ledger_port: int) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """An engine process, and its URL."""
    command = [
        *(sys.executable, "-m", "tenantry_standin", "--model", "m", "--version", "1", "--speed", "50"),
        *("--cold-start-s", "7"),
        *("--listen", f"127.0.0.1:{free_port()}", "--ledger-url", f"http://127.0.0.1:{ledger_port}"),
        *("--spool-dir", str(spool), "--ship-token-file", str(token)),
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, text=True) as started:
        try:
            assert started.stderr is not None
            ready = next(line for line in map(json.loads, started.stderr) if line["event"] == "listening")
            yield started, ready["url"]
        finally:
            started.kill()


async def test_what_a_killed_engine_had_on_disk_the_next_one_ships(tmp_path: Path) -> None:
    token, spool, port = tmp_path / "token", tmp_path / "spool", free_port()
    token.write_text(TOKEN)
    async with aiohttp.ClientSession() as client:
        with engine(spool, token, port) as (process, url):
            for number in range(5):
                headers = {"x-tenantry-request-id": f"{number:032x}", "x-tenantry-tenant": "acme"}
                async with client.post(f"{url}/v1/chat/completions", json=CHAT, headers=headers) as answer:
                    assert answer.status == 200
            async with asyncio.timeout(10):
                fsynced = 0.0
                while fsynced < 6:  # the cold start too
                    async with client.get(f"{url}/metrics") as page:
                        shown = dict(
                            line.split() for line in (await page.text()).splitlines() if not line.startswith("#")
                        )  # fmt: skip
                    fsynced = next(float(value) for name, value in shown.items() if "spool_fsynced" in name)
                    await asyncio.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        (folder,) = spool.iterdir()
        assert folder.name.startswith("stand-in-m-1-")
        ledger = StubLedger(port, seed=1)
        with engine(spool, token, port) as (process, _):
            until(lambda: not folder.exists(), 10.0)
            process.terminate()
            assert process.wait(10) == 0
        ledger.shutdown()
        ledger.server_close()
    ids = {record.request_id for record in ledger.records if isinstance(record, UsageRecord)}
    assert ids == {f"{number:032x}" for number in range(5)}
    starts = {one.engine: one for one in ledger.records if isinstance(one, ColdStart)}
    assert [start.gpu_ns for start in starts.values()] == [7 * 10**9] * 2, "each start has its record"
    assert list(spool.iterdir()) == []


async def test_an_engine_whose_records_could_not_be_kept_refuses_new_work() -> None:
    answers = [False]
    records: list[object] = []
    running = await start(
        EngineConfig(model="m", version="1"), port=free_port(), accepting=lambda: answers[0], on_record=records.append
    )
    async with aiohttp.ClientSession() as client:
        async with client.post(f"{running.url}/v1/chat/completions", json=CHAT) as answer:
            assert answer.status == 503
            assert "cannot keep usage records" in (await answer.json())["error"]["message"]
        answers[0] = True
        async with client.post(f"{running.url}/v1/chat/completions", json=CHAT) as answer:
            assert answer.status == 200
    await running.stop()
    assert len([record for record in records if isinstance(record, UsageRecord) and record.final]) == 1


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--ledger-url", "http://[::1]:1"], "--ship-token-file go together"),
        (["--ledger-url", "http://[::1]:1", "--ship-token-file", "TOKEN"], "--spool-dir go together"),
        (["--spool-dir", "x"], "--spool-dir go together"),
        (["--ledger-url", "http://a", "--ship-token-file", "TOKEN", "--spool-dir", "x"], "would travel in clear"),
        (["--ledger-url", "http://[::1]", "--ship-token-file", "TOKEN", "--spool-dir", "TOKEN"], "cannot hold usage"),
    ],
)
def test_the_command_explains_what_it_cannot_deliver_with(
    options: list[str],
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("TOKEN").write_text(TOKEN)
    with pytest.raises(SystemExit):
        main(["--model", "m", "--version", "1", *options])
    assert complaint in capsys.readouterr().err
