"""Real Milvus engines, one of each kind for a module; where an environment is missing, tests are listed as not run."""

import subprocess
from collections.abc import Iterator

import pytest

from tools.milvus_engines import ENVIRONMENTS, KINDS, Engine, Kind, interpreter, start


@pytest.fixture(scope="session")
def environments() -> dict[str, str | None]:
    """The interpreter of each environment that engines or SDKs need; None where it cannot be set up."""
    found: dict[str, str | None] = {}
    for name in ENVIRONMENTS.values():
        try:
            found[name] = interpreter(name)
        except subprocess.CalledProcessError:
            found[name] = None
    return found


@pytest.fixture(scope="session")
def sdks(environments: dict[str, str | None]) -> None:
    """Every SDK can run, or the test does not."""
    for name, python in environments.items():
        if python is None:
            _not_run(name)


@pytest.fixture(scope="module")
def lite3(environments: dict[str, str | None], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    yield from _engine("lite3", environments, tmp_path_factory)


@pytest.fixture(scope="module")
def lite25(environments: dict[str, str | None], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    yield from _engine("lite25", environments, tmp_path_factory)


@pytest.fixture(scope="module")
def m23(environments: dict[str, str | None], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    yield from _engine("m23", environments, tmp_path_factory)


@pytest.fixture(scope="module", params=KINDS)
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each kind in turn; tests use collections of their own."""
    running: Engine = request.getfixturevalue(request.param)
    return running


def _engine(kind: Kind, environments: dict[str, str | None], folders: pytest.TempPathFactory) -> Iterator[Engine]:
    if environments[ENVIRONMENTS[kind]] is None:
        _not_run(ENVIRONMENTS[kind])
    with start(kind, folders.mktemp(kind)) as running:
        yield running


def _not_run(environment: str) -> None:
    pytest.skip(f"no {environment} environment: `python3 tools/env.py {environment}` says why")
