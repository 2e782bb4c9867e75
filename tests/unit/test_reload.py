"""Rules and secrets reloaded while traffic flows: all or nothing (invariant 9)."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import structlog
import yaml
from tenantry.adapters import logs, reload
from tenantry.adapters.envoy_clusters import ClustersNotReadyError, EnvoyClusters
from tenantry.adapters.metrics import Metrics
from tenantry.adapters.reload import Reloader
from tenantry.adapters.rules_file import Source
from tenantry.adapters.sidecar import Sidecar
from tenantry.core.rules import Rules
from tenantry_testing.documents import document, secret_files


class Clusters(EnvoyClusters):
    """What Envoy was told, by stable version; `missing` says that it never gets what it is told."""

    def __init__(self) -> None:
        super().__init__(None, (), lambda *_: {})
        self.told: list[tuple[str, ...]] = []
        self.missing = False
        self.broken: Exception | None = None

    def publish(self, *documents: Rules) -> None:
        if self.broken is not None:
            raise self.broken
        self.told.append(tuple(rules.models["embed"].stable for rules in documents))

    async def wait_for(self, rules: Rules, timeout_seconds: float) -> None:
        if self.missing:
            raise ClustersNotReadyError("Envoy has no cluster x")


class House:
    """A reloader with its files. Documents differ in the stable version of one model."""

    def __init__(self, folder: Path) -> None:
        self.path, secrets = folder / "rules.yaml", folder / "secrets"
        secrets.mkdir()
        for name, content in secret_files().items():
            (secrets / name).write_bytes(content)
        self.secret = secrets / "engine"
        self.write("1")
        source = Source(self.path, secrets)
        raw, files = source.read()
        self.sidecar = Sidecar(source.build(raw, files), Metrics())
        self.clusters = Clusters()
        self.reloader = Reloader(source, self.sidecar, self.clusters, source.digest(raw, files))

    def write(self, version: str) -> None:
        """Write a document whole: a rename, as editors and `tenantry key` do it."""
        versions = {version: {"endpoints": ["h:1"]}}
        fresh = self.path.with_name(".fresh")
        fresh.write_text(yaml.safe_dump(document({"models.embed": {"stable": version, "versions": versions}})))
        fresh.replace(self.path)

    @property
    def live(self) -> str:
        return self.sidecar.snapshot.book.rules.models["embed"].stable

    def metric(self, name: str, result: str | None = None) -> float | None:
        labels = {} if result is None else {"result": result}
        return self.sidecar.metrics.registry.get_sample_value(f"tenantry_rules_{name}", labels)


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    logs.configure(stream)
    yield stream
    structlog.reset_defaults()


@pytest.fixture
def house(tmp_path: Path, log: io.StringIO) -> House:
    return House(tmp_path)


def lines(log: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.getvalue().splitlines()]


async def test_a_good_document_goes_live(house: House, log: io.StringIO) -> None:
    house.write("2")
    await house.reloader.check()
    assert (house.live, house.sidecar.generation) == ("2", 2)
    assert (house.reloader.status.state, house.reloader.status.problems) == ("live", ())
    assert (house.metric("last_reload_ok"), house.metric("generation"), house.metric("reloads_total", "live")) == (
        1,
        2,
        2,
    )
    (line,) = lines(log)
    assert (line["event"], line["generation"], line["models"], line["tenants"]) == ("rules live", 2, 2, 3)
    assert line["digest"] == house.reloader.status.digest


async def test_the_same_bytes_are_no_reload(house: House, log: io.StringIO) -> None:
    await house.reloader.check()
    house.path.write_bytes(house.path.read_bytes())
    await house.reloader.check()
    assert (house.sidecar.generation, house.clusters.told, lines(log)) == (1, [], [])
    assert house.reloader.status.state == "live"


BAD = {
    "not YAML": b"{",
    "not rules": b"version: 2",
    "empty": b"",
    "a dangling name": b"version: 1\nmodels: {}\ntiers: {a: {}}\ndefaultTier: b",
    "a tag on the wrong value": b"!!bool x",
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("raw", BAD.values(), ids=BAD)
async def test_a_bad_document_changes_nothing_and_is_told(house: House, log: io.StringIO, raw: bytes) -> None:
    """Invariant 9."""
    before = house.sidecar.snapshot
    house.path.write_bytes(raw)
    for _ in range(3):  # told once, however often it is looked at
        await house.reloader.check()
    assert house.sidecar.snapshot is before
    assert (house.sidecar.generation, house.clusters.told) == (1, [])
    assert (house.metric("last_reload_ok"), house.metric("reloads_total", "refused")) == (0, 1)
    assert house.reloader.status.state == "refused"
    (line,) = lines(log)
    assert (line["level"], line["event"]) == ("error", "rules refused; the last good document stays live")
    assert line["problems"] == list(house.reloader.status.problems) != []


async def test_every_problem_is_told(house: House, log: io.StringIO) -> None:
    house.path.write_bytes(b"version: 1\nmodels: {}\ntiers: {a: {}}\ndefaultTier: b\ntenants: {x: {tier: c}}")
    await house.reloader.check()
    assert [each.partition(":")[0] for each in house.reloader.status.problems] == ["defaultTier", "tenants.x.tier"]


async def test_each_bad_document_is_told_and_the_next_good_one_is_live(house: House, log: io.StringIO) -> None:
    for raw in (b"version: 2", b"version: 3"):
        house.path.write_bytes(raw)
        await house.reloader.check()
    assert house.metric("reloads_total", "refused") == 2
    house.write("1")  # the very bytes that are live
    await house.reloader.check()
    assert (house.reloader.status.state, house.metric("last_reload_ok"), house.live) == ("live", 1, "1")
    assert [line["level"] for line in lines(log)] == ["error", "error", "info"]


async def test_a_file_that_is_gone_for_a_while(house: House, log: io.StringIO) -> None:
    house.path.rename(house.path.with_suffix(".away"))
    for _ in range(2):
        await house.reloader.check()
    assert (house.live, house.metric("reloads_total", "refused")) == ("1", 1)
    assert "No such file" in lines(log)[0]["problems"][0]
    house.path.with_suffix(".away").rename(house.path)
    await house.reloader.check()
    assert house.reloader.status.state == "live"


async def test_secrets_are_reloaded_and_refused_alike(house: House, log: io.StringIO) -> None:
    house.secret.write_bytes(b"fresh-token")
    await house.reloader.check()
    assert house.sidecar.snapshot.keyring.engine_secret("embed") == "fresh-token"
    house.secret.write_bytes(b"CANARY CANARY")
    await house.reloader.check()
    assert house.sidecar.snapshot.keyring.engine_secret("embed") == "fresh-token"
    assert house.reloader.status.state == "refused"
    assert "'engine' must hold visible ASCII" in house.reloader.status.problems[0]
    assert "CANARY" not in log.getvalue()


async def test_new_clusters_are_told_and_awaited_before_the_document_is_live(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is routed to a version that Envoy does not have."""
    seen = []

    async def wait_for(rules: Rules, timeout_seconds: float) -> None:
        seen.append((house.live, house.clusters.told[-1], rules.models["embed"].stable, timeout_seconds))

    monkeypatch.setattr(house.clusters, "wait_for", wait_for)
    house.write("2")
    await house.reloader.check()
    assert seen == [("1", ("1", "2"), "2", reload.CLUSTER_TIMEOUT_SECONDS)]


async def test_an_envoy_that_never_gets_the_clusters_keeps_the_old_document_and_is_asked_again(
    house: House, log: io.StringIO
) -> None:
    house.clusters.missing = True
    house.write("2")
    for _ in range(2):
        await house.reloader.check()
    assert house.live == "1"
    assert house.reloader.status.state == "refused"
    assert house.reloader.status.problems == ("Envoy has no cluster x",)
    assert house.clusters.told == [("1", "2"), ("1",), ("1", "2"), ("1",)]  # what is not used is taken back
    assert len(lines(log)) == 1
    house.clusters.missing = False
    await house.reloader.check()
    assert (house.live, house.reloader.status.state) == ("2", "live")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ZeroDivisionError("CANARY")])
async def test_whatever_goes_wrong_the_last_good_document_serves_on_and_is_watched(
    house: House, log: io.StringIO, error: Exception
) -> None:
    """Invariant 9."""
    house.clusters.broken = error
    house.write("2")
    await house.reloader.check()
    assert (house.live, house.reloader.status.state, house.metric("last_reload_ok")) == ("1", "refused", 0)
    told = "[Errno 28] No space left on device" if isinstance(error, OSError) else "internal error: ZeroDivisionError"
    assert house.reloader.status.problems == (told,)
    assert (lines(log)[0]["error"], "CANARY" in log.getvalue()) == (type(error).__name__, False)
    house.clusters.broken = None
    house.write("3")
    await house.reloader.check()
    assert house.live == "3"


async def test_a_bug_of_whoever_follows_the_rules_does_not_end_the_watch(
    house: House, log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The live rules once were half the new ones then, and nobody looked at the file any more."""
    right = house.sidecar.metrics.rules_live
    monkeypatch.setattr(house.sidecar.metrics, "rules_live", lambda *_: 1 / 0)
    house.write("2")
    await house.reloader.check()
    assert (house.live, house.sidecar.generation, house.reloader.status.state) == ("1", 1, "refused")
    monkeypatch.setattr(house.sidecar.metrics, "rules_live", right)
    house.write("3")
    await house.reloader.check()
    assert (house.live, house.sidecar.generation) == ("3", 2)


async def until(condition: Callable[[], bool], *, seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


async def test_old_clusters_stay_for_a_while(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decisions on their way to Envoy must still find them."""
    monkeypatch.setattr(reload, "LINGER_SECONDS", 0.1)
    begin = asyncio.get_running_loop().time()
    house.write("2")
    await house.reloader.check()
    assert house.clusters.told == [("1", "2")]
    await until(lambda: len(house.clusters.told) > 1)
    assert asyncio.get_running_loop().time() - begin >= 0.1
    assert house.clusters.told == [("1", "2"), ("2",)]


async def test_a_reload_that_follows_quickly_does_not_cut_it_short(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next document once took away at once what requests decided by the last but one still needed."""
    monkeypatch.setattr(reload, "LINGER_SECONDS", 1.0)
    house.write("2")
    await house.reloader.check()
    house.write("3")
    await house.reloader.check()
    house.clusters.missing = True
    house.write("4")
    await house.reloader.check()
    assert house.clusters.told == [("1", "2"), ("1", "2", "3"), ("1", "2", "3", "4"), ("1", "2", "3")]
    await until(lambda: len(house.clusters.told) > 4)
    assert house.clusters.told[4:] == [("3",)]
    await asyncio.sleep(0.1)
    assert len(house.clusters.told) == 5  # and then there is peace


async def test_every_old_document_has_its_own_time(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many reloads follow one another, nothing lingers longer than it must."""
    monkeypatch.setattr(reload, "LINGER_SECONDS", 0.15)
    for version in "23456":
        house.write(version)
        await house.reloader.check()
        await asyncio.sleep(0.06)
    assert max(map(len, house.clusters.told)) <= 5
    assert house.clusters.told[-1][0] != "1"
    await until(lambda: house.clusters.told[-1] == ("6",))


@asynccontextmanager
async def watching(house: House) -> AsyncIterator[None]:
    task = asyncio.create_task(house.reloader.run())
    await asyncio.sleep(0.2)  # for the watch to stand
    yield
    assert not task.done()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def replace(house: House) -> None:
    house.write("2")


async def write_in_place(house: House) -> None:
    """For a moment the file is empty; whoever reads it then keeps the last good document."""
    text = house.path.read_text()
    house.path.write_text(text.replace("stable: '1'", "stable: '2'").replace("'1':", "'2':"))


async def remove_and_create(house: House) -> None:
    house.path.unlink()
    await asyncio.sleep(0.1)
    house.write("2")


@pytest.mark.parametrize("change", [replace, write_in_place, remove_and_create])
async def test_a_change_on_disk_is_seen(house: House, change: Callable[[House], Awaitable[None]]) -> None:
    async with watching(house):
        await change(house)
        await until(lambda: house.live == "2", seconds=reload.RECHECK_MILLISECONDS / 2e3)


async def test_a_secret_is_watched_too(house: House) -> None:
    async with watching(house):
        house.secret.write_bytes(b"fresh")
        await until(lambda: house.sidecar.generation == 2, seconds=reload.RECHECK_MILLISECONDS / 2e3)


async def test_the_kubelets_way_of_updating_a_config_map(tmp_path: Path, house: House) -> None:
    """A new folder, and the symlink `..data` swapped to it: the file itself is never written."""

    def publish(number: int) -> None:
        folder = tmp_path / f"..2027_01_{number}"
        folder.mkdir()
        house.path.replace(folder / "rules.yaml")
        (tmp_path / "..data_tmp").symlink_to(folder.name)
        (tmp_path / "..data_tmp").replace(tmp_path / "..data")

    publish(1)
    house.path.symlink_to("..data/rules.yaml")
    async with watching(house):
        await house.reloader.check()
        link = house.path.readlink()
        staged = tmp_path / "staged"
        staged.mkdir()
        house.path = staged / "rules.yaml"  # not watched
        house.write("2")
        publish(2)
        assert (tmp_path / "rules.yaml").readlink() == link
        await until(lambda: house.live == "2", seconds=reload.RECHECK_MILLISECONDS / 2e3)
    assert house.sidecar.generation == 2


async def test_parts_of_a_folder_are_watched(tmp_path: Path, log: io.StringIO) -> None:
    """A part added, changed, moved away; a double changes nothing, an editor's file is not looked at."""
    house = House(tmp_path)
    folder = tmp_path / "parts"
    folder.mkdir()
    house.path.replace(folder / "rules.yaml")
    source = Source(folder, house.secret.parent)
    house.reloader = Reloader(source, house.sidecar, house.clusters, source.digest(*source.read()))

    def tenants() -> set[str]:
        return set(house.sidecar.snapshot.book.rules.tenants) - {"acme", "globex", "initech"}

    def put(name: str, text: str) -> None:
        (folder / f".{name}").write_text(text)
        (folder / f".{name}").replace(folder / name)

    seconds = reload.RECHECK_MILLISECONDS / 2e3
    async with watching(house):
        put("tenants-001.yaml", "tenants: {hooli: {tier: gold}}")
        await until(lambda: tenants() == {"hooli"}, seconds=seconds)
        put("tenants-002.yaml", "tenants: {hooli: {tier: gold}, stark: {tier: gold}}")
        await until(lambda: house.reloader.status.state == "refused", seconds=seconds)
        (problem,) = house.reloader.status.problems
        assert problem.startswith("tenants-002.yaml: tenants.hooli: it stands in tenants-001.yaml already")
        assert tenants() == {"hooli"}
        (folder / "tenants-001.yaml").unlink()
        await until(lambda: tenants() == {"hooli", "stark"}, seconds=seconds)
        generation = house.sidecar.generation
        (folder / "tenants-003.yaml~").write_text("{")
        await house.reloader.check()
        assert house.sidecar.generation == generation


async def test_a_mounted_folder_is_swapped_whole(tmp_path: Path, log: io.StringIO) -> None:
    house = House(tmp_path)
    volume = tmp_path / "volume"

    def publish(number: int, **parts: str) -> None:
        made = volume / f"..{number}"
        made.mkdir(parents=True)
        for name, text in parts.items():
            (made / f"{name}.yaml").write_text(text)
        (volume / "..data_tmp").symlink_to(made.name)
        (volume / "..data_tmp").replace(volume / "..data")

    base = house.path.read_text()
    publish(1, rules=base, more="tenants: {hooli: {tier: gold}}")
    for name in ("rules.yaml", "more.yaml"):
        (volume / name).symlink_to(f"..data/{name}")
    source = Source(volume, house.secret.parent)
    house.reloader = Reloader(source, house.sidecar, house.clusters, source.digest(*source.read()))
    async with watching(house):
        publish(2, rules=base, more="tenants: {stark: {tier: gold}}")
        await until(
            lambda: "stark" in house.sidecar.snapshot.book.rules.tenants, seconds=reload.RECHECK_MILLISECONDS / 2e3
        )
    assert "hooli" not in house.sidecar.snapshot.book.rules.tenants


async def test_without_events_the_bytes_are_compared_now_and_then(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems send none."""
    monkeypatch.setattr(reload, "RECHECK_MILLISECONDS", 100)
    hidden = house.path.parent / "hidden"
    hidden.mkdir()
    house.path.replace(hidden / "rules.yaml")
    house.path.symlink_to("hidden/rules.yaml")  # what is behind the link is in no watched folder
    async with watching(house):
        house.path = hidden / "rules.yaml"
        house.write("2")
        await until(lambda: house.live == "2", seconds=2)


async def test_fifty_reloads_in_a_row(house: House) -> None:
    async with watching(house):
        for number in range(50):
            house.write(f"v{number}")
            await until(lambda wanted=f"v{number}": house.live == wanted)  # type: ignore[misc]
    assert house.metric("reloads_total", "live") == 51
    assert house.metric("reloads_total", "refused") in (None, 0)
