"""The ledger's HTTP service: its three doors, what it says to what is wrong, live rules, and what it shows."""

import asyncio
import io
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import pytest_asyncio
import structlog
import yaml
from aiohttp import web
from dataplane.pki import Authority
from tenantry.adapters import logs
from tenantry.adapters.bind import Address, BindError, Tls
from tenantry.adapters.ledger import record_routes
from tenantry.adapters.ledger.service import LedgerOptions, LedgerRunning, ledger_serving
from tenantry.adapters.ledger.store import LedgerUnavailableError, Query
from tenantry.core.errors import RulesError, SecretsError
from tenantry.core.usage import MAX_BATCH_BYTES, Batch, Charge, ColdStart, Record
from tenantry_testing.documents import KEYS, document, secret_files
from tenantry_testing.folders import in_memory
from tenantry_testing.ledger_world import OCTOBER, request, span

ENGINE = "spiffe://prod/engine"
ADMIN, USAGE = (secret_files()[name].decode() for name in ("admin-token", "usage-token"))


class Service:
    """A running ledger, asked as others ask it."""

    def __init__(self, running: LedgerRunning, folder: Path, log: io.StringIO) -> None:
        self.running, self.folder, self.log = running, folder, log

    async def ask(
        self, method: str, path: str, token: str | None = None, body: bytes | None = None, **headers: str
    ) -> tuple[int, Any]:
        """Ask with a Bearer token; return the status and the answer, decoded if it is JSON."""
        sent = ({"authorization": f"Bearer {token}"} if token else {}) | headers
        data = None if body is None else io.BytesIO(body)
        async with (
            aiohttp.ClientSession() as http,
            http.request(method, f"http://{self.running.listen}{path}", data=data, headers=sent) as response,
        ):
            text = await response.text()
            for secret in (ADMIN, USAGE, *KEYS.values()):
                assert secret not in text + self.log.getvalue()
            return response.status, msgspec.json.decode(text) if response.content_type == "application/json" else text

    async def post(self, *records: Record, token: str = USAGE) -> tuple[int, Any]:
        return await self.ask("POST", "/records", token, batch(*records))

    async def usage(self, query: str = "", token: str = ADMIN) -> list[tuple[str, str, int]]:
        status, found = await self.ask("GET", f"/usage{query}", token)
        assert status == 200, found
        return [(tally["owner"], tally["tenant"], tally["records"]) for tally in found["tallies"]]

    async def rewrite(self, text: str) -> None:
        (self.folder / "rules.yaml").write_text(text)
        await self.running.service._rules.check()


def batch(*records: Record) -> bytes:
    return msgspec.json.encode(Batch(records=records))


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    logs.configure(stream)
    yield stream
    structlog.reset_defaults()


@pytest.fixture
def options(tmp_path: Path) -> Iterator[LedgerOptions]:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    for name in ("admin-token", "usage-token"):  # the others are not asked for
        (secrets / name).write_bytes(secret_files()[name])
    rules = tmp_path / "rules.yaml"
    rules.write_text(yaml.safe_dump(document()))
    with tempfile.TemporaryDirectory(dir=in_memory()) as folder:
        yield LedgerOptions(
            rules=rules, secrets=secrets, db=f"sqlite:{folder}/ledger.db", listen=Address(host="127.0.0.1", port=0)
        )


@pytest_asyncio.fixture
async def service(options: LedgerOptions, log: io.StringIO) -> AsyncIterator[Service]:
    async with ledger_serving(options) as running:
        yield Service(running, options.rules.parent, log)


async def test_records_are_counted_once_however_often_they_come(service: Service) -> None:
    assert await service.post(request("r1"), request("r2")) == (200, {"new": 2, "known": 0})
    assert await service.post(request("r2"), request("r3")) == (200, {"new": 1, "known": 1})
    assert await service.usage() == [("tenant", "acme", 3)]


@pytest.mark.parametrize(
    ("method", "path", "opens"),
    [
        ("POST", "/records", {"usage"}),
        ("GET", "/usage", {"admin", "acme"}),
        ("GET", "/engines?period=2026-10", {"admin"}),
        ("GET", "/periods", {"admin"}),
        ("POST", "/periods/close", {"admin"}),
        ("GET", "/healthz", {"admin", "usage", "acme", "nobody", "none"}),
        ("GET", "/readyz", {"admin", "usage", "acme", "nobody", "none"}),
        ("GET", "/metrics", {"admin", "usage", "acme", "nobody", "none"}),
    ],
)
async def test_each_door_opens_for_its_own_credential(
    service: Service, method: str, path: str, opens: set[str]
) -> None:
    body = {"/records": batch(), "/periods/close": b'{"period": "2026-10"}'}.get(path)
    tokens = {"admin": ADMIN, "usage": USAGE, "acme": KEYS["acme"], "nobody": KEYS["nobody"], "none": None}
    opened = {name for name, token in tokens.items() if (await service.ask(method, path, token, body))[0] == 200}
    assert opened == opens


async def test_a_tenant_reads_its_own_usage_and_nobody_elses(service: Service) -> None:
    await service.post(
        request("r1"), request("r2", tenant="globex"), request("r3", tenant=""), request("r4", mirror=True),
        request("r5", finish_reason="error"), request("r6", tenant="not-in-the-rules"),
    )  # fmt: skip
    everything = [
        ("failed", "acme", 1), ("mirror", "acme", 1), ("tenant", "acme", 1), ("tenant", "globex", 1),
        ("tenant", "not-in-the-rules", 1), ("unstamped", "", 1),
    ]  # fmt: skip
    assert await service.usage() == everything
    assert await service.usage("?tenant=globex") == [("tenant", "globex", 1)]
    for query in ("", "?tenant=acme", "?group_by=model", "?group_by=", "?period=2026-10&model=chat-8b"):
        (row,) = await service.usage(query, KEYS["acme"])
        assert (row[0], row[2]) == ("tenant", 1)
    status, refused = await service.ask("GET", "/usage?tenant=globex", KEYS["acme"])
    assert (status, refused) == (403, {"error": "A tenant's key reads that tenant's usage alone."})
    assert (await service.ask("GET", "/usage?tenant=acme&tenant=globex", KEYS["acme"]))[0] == 400
    # As the SDKs of stores send it.
    status, found = await service.ask("GET", "/usage", None, None, **{"api-key": KEYS["globex"]})
    assert [tally["tenant"] for tally in found["tallies"]] == ["globex"]
    status, _ = await service.ask("GET", "/usage", KEYS["acme"], None, **{"api-key": KEYS["globex"]})
    assert status == 401


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("?period=2026-13", "'2026-13' is no period"),
        ("?period=2026-10%0A", "is no period"),
        ("?from=1", "give Unix time of a whole hour"),
        ("?to=-3600", "give Unix time of a whole hour"),
        ("?from=3600.0", "give Unix time of a whole hour"),
        ("?group_by=tenant,password", "cannot group by 'password'"),
        ("?grop_by=tenant", "no parameter is called 'grop_by'"),
        ("?period=2026-10&period=2026-11", "period stands there more than once"),
    ],
)
async def test_what_cannot_be_asked_is_told(service: Service, query: str, reason: str) -> None:
    status, refused = await service.ask("GET", f"/usage{query}", ADMIN)
    assert status == 400
    assert reason in refused["error"]


async def test_hours_and_groups(service: Service) -> None:
    await service.post(request("r1"), request("r2", ended_s=OCTOBER + 3_600))
    hour = int(OCTOBER) // 3_600 * 3_600
    _, found = await service.ask("GET", f"/usage?from={hour}&to={hour + 3_600}&group_by=hour&group_by=version", ADMIN)
    (tally,) = found["tallies"]
    assert (tally["hour"], tally["version"], tally["tenant"], tally["period"]) == (hour, "1.4.0", "", "2026-10")


async def test_a_bad_record_is_named_and_nothing_of_its_batch_is_booked(service: Service) -> None:
    good, bad = msgspec.json.encode(request("r1")), msgspec.json.encode(request("r2")).replace(b"acme", b'","x":"')
    body = b'{"records": [' + b",".join([good, bad, good, bad]) + b"]}"
    status, refused = await service.ask("POST", "/records", USAGE, body)
    assert (status, refused["bad"]) == (400, [1, 3])
    assert refused["error"].startswith("records[1]: Object contains unknown field")
    huge = span(wall_ns=2**62, gpus=65_536)
    status, refused = await service.post(request("r1"), huge)
    assert (status, refused["bad"]) == (400, [1])
    assert "records[1]: a figure is beyond 2^62" in refused["error"]
    assert await service.usage() == []


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"", 400, "Input data was truncated"),
        (b"[]", 400, "Expected `object`, got `array`"),
        (b'{"records": {}}', 400, "Expected `array`"),
        (b'{"records": [], "more": 1}', 400, "unknown field `more`"),
        (b'{"records": [' + b",".join([b"{}"] * 1_001) + b"]}", 400, "records[0]"),
        (b"\xff", 400, ""),
        (b" " * (MAX_BATCH_BYTES + 1), 413, "larger than 1048576 bytes"),
    ],
)
async def test_what_is_no_batch(service: Service, body: bytes, status: int, reason: str) -> None:
    answered, refused = await service.ask("POST", "/records", USAGE, body)
    assert (answered, reason in refused["error"]) == (status, True), refused


async def test_too_many_records_at_once(service: Service) -> None:
    records = [request(f"r{number}") for number in range(1_001)]
    status, refused = await service.post(*records)
    assert (status, refused["bad"]) == (400, [])
    assert "1000" in refused["error"]


async def test_a_database_that_is_away_bids_the_sender_keep_its_records(service: Service) -> None:
    ledger = service.running.service.ledger
    await ledger.close()
    status, refused = await service.post(request())
    assert status == 503
    assert "keep this and send it again" in refused["error"]
    assert (await service.ask("GET", "/readyz"))[0] == 503
    assert (await service.ask("GET", "/healthz"))[0] == 200
    assert (await service.ask("GET", "/usage", ADMIN))[0] == 503
    assert "tenantry_ledger_unavailable_total 2.0" in (await service.ask("GET", "/metrics"))[1]


async def test_what_waits_is_bounded(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_routes, "MAX_WAITING", 2)
    ledger, gate = service.running.service.ledger, asyncio.Event()
    book = ledger.book

    async def slow(records: Sequence[Record], units_micro: Sequence[int], now_s: float) -> Any:
        await gate.wait()
        return await book(records, units_micro, now_s)

    monkeypatch.setattr(ledger, "book", slow)
    waiting = [asyncio.create_task(service.post(request(f"r{number}"))) for number in range(3)]
    (refused,), _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    assert refused.result()[0] == 503
    gate.set()
    assert sorted([(await task)[0] for task in waiting]) == [200, 200, 503]


async def test_a_tenant_that_asks_without_end_keeps_neither_bookings_nor_others_waiting(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, began = asyncio.Event(), list[str | None]()
    tallies = service.running.service.ledger.tallies

    async def slow(query: Query) -> Any:
        began.append(query.tenant)
        if query.tenant == "acme":
            await go.wait()
        return await tallies(query)

    monkeypatch.setattr(service.running.service.ledger, "tallies", slow)
    flood = [asyncio.ensure_future(service.ask("GET", "/usage", KEYS["acme"])) for _ in range(30)]
    done = asyncio.as_completed(flood)
    assert [(await next(done))[0] for _ in range(22)] == [429] * 22
    assert began == ["acme"]  # one at a time
    assert await service.post(request(tenant="globex")) == (200, {"new": 1, "known": 0})
    assert await service.usage(token=KEYS["globex"]) == [("tenant", "globex", 1)]
    assert await service.usage() == [("tenant", "globex", 1)]
    go.set()
    assert sorted(status for status, _ in await asyncio.gather(*flood)) == [200] * 8 + [429] * 22
    assert (await service.ask("GET", "/usage", KEYS["acme"]))[0] == 200


async def test_compute_units_follow_the_live_rules(service: Service) -> None:
    charge = Charge(input_tokens=1_000, cached_tokens=1_000, output_tokens=1_000)
    await service.post(request("r1", charge=charge), request("r2", charge=charge, model="unknown"))
    await service.rewrite(yaml.safe_dump(document({"models.chat-8b.profile": {"gigaflopsPerToken": 16}})))
    await service.post(request("r3", charge=charge))
    # A bad document changes nothing (invariant 9).
    await service.rewrite("models: {}")
    await service.post(request("r4", charge=charge))
    _, found = await service.ask("GET", "/usage?group_by=model", ADMIN)
    units = {tally["model"]: tally["compute_units_micro"] for tally in found["tallies"]}
    assert units == {"chat-8b": 4_100_000 * (1 + 16 + 16), "unknown": 4_100_000}
    assert "tenantry_rules_last_reload_ok 0.0" in (await service.ask("GET", "/metrics"))[1]
    assert "rules refused; the ledger keeps to the last good document" in service.log.getvalue()


async def test_the_same_bytes_are_no_reload(service: Service) -> None:
    live = service.running.service.live
    await service.rewrite((service.folder / "rules.yaml").read_text())
    assert service.running.service.live is live


async def test_a_revoked_key_reads_nothing_any_more(service: Service) -> None:
    assert await service.usage("", KEYS["acme"]) == []
    await service.rewrite(yaml.safe_dump(document({"tenants.acme.keys": []})))
    assert (await service.ask("GET", "/usage", KEYS["acme"]))[0] == 401


async def test_a_rotated_token_is_live(service: Service, options: LedgerOptions) -> None:
    (options.secrets / "usage-token").write_text("n" * 32)
    for _ in range(100):  # by the watch alone
        if (await service.post(token="n" * 32))[0] == 200:
            break
        await asyncio.sleep(0.05)
    assert (await service.post(token="n" * 32))[0] == 200
    assert (await service.post())[0] == 401


async def test_a_period_without_a_price_for_all_is_not_closed(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its terms would be kept for good, and no invoice of the whole month could ever be written.
    monkeypatch.setattr(service.running.service, "now", lambda: 1_794_700_000.0)
    await service.post(request("r1"), request("r2", tier="golden"))
    body = b'{"period": "2026-10"}'
    status, refused = await service.ask("POST", "/periods/close", ADMIN, body)
    assert status == 409
    assert "2026-10 stays open, as a closed period keeps its prices: acme has usage in tier" in refused["error"]
    assert await service.ask("GET", "/periods", ADMIN) == (200, {"periods": []})
    await service.rewrite(yaml.safe_dump(document({"tiers": document()["tiers"] | {"golden": {}}})))
    assert (await service.ask("POST", "/periods/close", ADMIN, body))[0] == 200


async def test_periods_are_closed_by_the_rules_clock(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    await service.post(request())
    november = 1_793_491_200.0  # its first moment
    now_s = november + 24 * 3_600 - 1
    monkeypatch.setattr(service.running.service, "now", lambda: now_s)
    status, refused = await service.ask("POST", "/periods/close", ADMIN, b'{"period": "2026-10"}')
    assert (status, "may be closed from 2026-11-02 00:00Z on" in refused["error"]) == (409, True)
    now_s += 1
    closed = {"period": "2026-10", "closed_s": now_s, "records": 1}
    assert await service.ask("POST", "/periods/close", ADMIN, b'{"period": "2026-10"}') == (200, closed)
    assert await service.ask("GET", "/periods", ADMIN) == (200, {"periods": [closed]})
    assert (await service.ask("POST", "/periods/close", ADMIN, b'{"period": "2026-10"}'))[0] == 409
    assert (await service.ask("POST", "/periods/close", ADMIN, b'{"period": "x"}'))[0] == 400
    assert (await service.ask("POST", "/periods/close", ADMIN, b"{}"))[0] == 400


async def test_engines(service: Service) -> None:
    await service.post(request(), span())
    _, found = await service.ask("GET", "/engines?period=2026-10", ADMIN)
    (engine,) = found["engines"]
    assert (engine["wall_gpu_ns"], engine["busy_gpu_ns"], engine["attributed_gpu_ns"]) == (10_000, 3_000, 300)
    assert (await service.ask("GET", "/engines", ADMIN))[0] == 400


def gpu_seconds(tenant: str, version: str, phase: str, owner: str, seconds: float) -> str:
    labels = f'model="chat-8b",owner="{owner}",phase="{phase}",tenant="{tenant}",tier="gold",version="{version}"'
    return f"tenantry_gpu_seconds_total{{{labels}}} {seconds}"


OF_ACME = 'model="chat-8b",tenant="acme",version="1.4.0"'


async def test_metrics(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.running.service, "now", lambda: OCTOBER + 3)
    charge = Charge(
        prefill_gpu_ns=1_500_000_000, decode_gpu_ns=500_000_000, input_tokens=1_000, cached_tokens=20, output_tokens=3
    )
    cold = ColdStart(engine="e1", model="chat-8b", version="1.4.0", ended_s=OCTOBER, load_ns=12_000_000_000)
    records: list[Record] = [
        request("r1", charge=charge, peak_kv_bytes=3 * 2**20), request("r2", mirror=True, charge=charge),
        request("r3", tenant="not-in-the-rules", version="9", charge=charge), cold,
        span(wall_ns=10_000_000_000, busy_gpu_ns=7_000_000_000),
    ]  # fmt: skip
    await service.post(*records, records[0])  # twice in a batch
    await service.post(*records)  # known: counted once
    await service.ask("POST", "/records", USAGE, b'{"records": [{}]}')
    _, text = await service.ask("GET", "/metrics")
    lines = set(text.splitlines())
    assert lines >= {
        gpu_seconds("acme", "1.4.0", "prefill", "tenant", 1.5),
        gpu_seconds("acme", "1.4.0", "decode", "tenant", 0.5),
        gpu_seconds("acme", "1.4.0", "prefill", "mirror", 1.5),
        gpu_seconds("other", "other", "prefill", "tenant", 1.5),
        'tenantry_compute_units_total{model="chat-8b",owner="tenant",tenant="acme",tier="gold"} 1.011',
        'tenantry_tokens_total{kind="input",model="chat-8b",tenant="acme"} 2000.0',
        'tenantry_tokens_total{kind="cached",model="chat-8b",tenant="acme"} 40.0',
        'tenantry_tokens_total{kind="output",model="chat-8b",tenant="acme"} 6.0',
        f'tenantry_request_peak_memory_bytes_bucket{{le="4.194304e+06",{OF_ACME}}} 1.0',
        f'tenantry_request_peak_memory_bytes_bucket{{le="1.048576e+06",{OF_ACME}}} 0.0',
        'tenantry_cold_start_seconds_sum{model="chat-8b",phase="load",version="1.4.0"} 12.0',
        'tenantry_engine_busy_gpu_seconds_total{model="chat-8b",version="1.4.0"} 7.0',
        'tenantry_engine_idle_gpu_seconds_total{model="chat-8b",version="1.4.0"} 3.0',
        'tenantry_ledger_unaccounted_gpu_seconds{model="chat-8b",version="1.4.0"} 3.0',
        'tenantry_ledger_records_total{kind="request",result="new"} 3.0',
        'tenantry_ledger_records_total{kind="request",result="known"} 4.0',
        'tenantry_ledger_records_total{kind="unknown",result="refused"} 1.0',
        'tenantry_ledger_delay_seconds_bucket{le="5.0"} 5.0',
        'tenantry_ledger_delay_seconds_bucket{le="2.0"} 0.0',
        "tenantry_ledger_newest_record_timestamp_seconds 1.7934894e+09",
    }


async def test_exemplars_name_the_request_to_who_asks_for_openmetrics(service: Service) -> None:
    await service.post(request("the-request"), request("r" * 128))
    _, plain = await service.ask("GET", "/metrics")
    assert "the-request" not in plain
    _, text = await service.ask("GET", "/metrics", None, None, accept="application/openmetrics-text; version=1.0.0")
    (line,) = (line for line in text.splitlines() if line.startswith("tenantry_gpu_seconds_total") and "decode" in line)
    assert '# {request_id="the-request"} 2e-07' in line
    assert text.endswith("# EOF\n")


async def test_labels_are_bounded_and_the_ledger_is_exact(service: Service) -> None:
    await service.rewrite(yaml.safe_dump(document({"metrics": {"maxTenants": 0}})))
    await service.post(*(request(f"r{number}", tenant=f"t{number}") for number in range(300)))
    _, text = await service.ask("GET", "/metrics")
    labels = {line.split('tenant="')[1].split('"')[0] for line in text.splitlines() if 'tenant="' in line}
    assert labels == {"other"}
    assert len(await service.usage()) == 300


async def test_it_listens_beyond_this_machine_with_mutual_tls_alone(options: LedgerOptions) -> None:
    with pytest.raises(BindError, match=r"the ledger would listen on 0\.0\.0\.0:0, which other hosts can reach"):
        async with ledger_serving(msgspec.structs.replace(options, listen=Address(host="0.0.0.0", port=0))):
            pass


async def test_over_mutual_tls_a_client_needs_an_allowed_name(options: LedgerOptions, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    certificate, key = authority.leaf("server", "127.0.0.1")
    tls = Tls(certificate=certificate, key=key, client_ca=tmp_path / "ca.pem", allowed_sans=frozenset({ENGINE}))

    async def posted(san: str | None) -> int:
        context = authority.client(authority.leaf("client", san) if san else None)
        async with (
            aiohttp.ClientSession() as http,
            http.post(
                f"https://{running.listen}/records", data=batch(request()), ssl=context,
                headers={"authorization": f"Bearer {USAGE}"},
            ) as response,
        ):  # fmt: skip
            return response.status

    async with ledger_serving(msgspec.structs.replace(options, tls=tls)) as running:
        assert await posted(ENGINE) == 200
        assert await posted("spiffe://prod/other") == 403
        with pytest.raises(aiohttp.ClientError):
            await posted(None)


async def test_it_does_not_start_without_rules_tokens_or_a_place(options: LedgerOptions) -> None:
    async def starts(changed: LedgerOptions) -> None:
        async with ledger_serving(changed):
            pass

    with pytest.raises(LedgerUnavailableError, match="--db: expected"):
        await starts(msgspec.structs.replace(options, db="nowhere"))
    (options.secrets / "usage-token").unlink()
    with pytest.raises(SecretsError, match="usage-token"):
        await starts(options)
    with pytest.raises(RulesError, match="No such file"):
        await starts(msgspec.structs.replace(options, rules=options.rules.with_name("gone.yaml")))


async def test_a_database_that_is_away_at_the_start_is_waited_for(options: LedgerOptions, log: io.StringIO) -> None:
    path = Path(options.db.removeprefix("sqlite:"))
    path.mkdir()
    async with ledger_serving(options) as running:
        service = Service(running, options.rules.parent, log)
        assert (await service.ask("GET", "/readyz"))[0] == 503
        path.rmdir()
        assert (await service.post(request()))[0] == 200
        assert (await service.ask("GET", "/readyz"))[0] == 200


async def test_the_kubelet_sees_a_drain(
    options: LedgerOptions, log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the telemetry listener: the other one waits for batches that are being booked, and takes no more."""
    seen: list[int] = []
    end = web.AppRunner.cleanup

    async def look() -> None:
        async with aiohttp.ClientSession() as http, http.get(f"http://{running.telemetry}/readyz") as page:
            seen.append(page.status)

    async def cleanup(runner: web.AppRunner) -> None:
        if len(seen) == 1:  # the first to end is the one for records
            await look()
        await end(runner)

    monkeypatch.setattr(web.AppRunner, "cleanup", cleanup)
    telemetry = Address(host="127.0.0.1", port=0)
    async with ledger_serving(msgspec.structs.replace(options, telemetry=telemetry)) as running:
        await look()
    assert seen == [200, 503]


async def test_over_tls_what_is_counted_is_for_the_admin_token_and_probes_for_any_client_that_is_allowed(
    options: LedgerOptions, log: io.StringIO, tmp_path: Path
) -> None:
    """Engines have a certificate too, and /metrics names every tenant."""
    authority = Authority(tmp_path, "ca")
    certificate, key = authority.leaf("server", "127.0.0.1")
    tls = Tls(certificate=certificate, key=key, client_ca=tmp_path / "ca.pem", allowed_sans=frozenset({ENGINE}))
    context = authority.client(authority.leaf("client", ENGINE))

    async def status(path: str, token: str | None) -> int:
        sent = {"authorization": f"Bearer {token}"} if token else {}
        async with (
            aiohttp.ClientSession(headers=sent) as http,
            http.get(f"https://{running.listen}{path}", ssl=context) as page,
        ):
            return page.status

    async with ledger_serving(msgspec.structs.replace(options, tls=tls)) as running:
        assert [await status("/metrics", token) for token in (None, USAGE, KEYS["acme"], ADMIN)] == [401, 401, 401, 200]
        assert await status("/readyz", None) == 200
