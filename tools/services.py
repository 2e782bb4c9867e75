"""Make sure that a service which tests start by themselves is installed, and nothing more.

    python3 tools/services.py redis           # redis-server on PATH, for tests/state and tests/dataplane
    python3 tools/services.py postgresql      # PostgreSQL's programs, for tests/state
    python3 tools/services.py prometheus      # prometheus and promtool, for tests/dashboards
    python3 tools/services.py chromium        # for tests/console

Where it is missing, Debian's package is installed if we are root on a machine with apt; the Debian service that comes
with it neither starts now nor with the next boot. Anywhere else this says what to install, and exits 1.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGES = {
    "redis": "redis-server", "postgresql": "postgresql", "prometheus": "prometheus", "chromium": "chromium",
}  # fmt: skip
"""The Debian package of each service; the service is called so, too."""

PROGRAMS = {"redis": "redis-server", "postgresql": "postgres", "prometheus": "prometheus", "chromium": "chromium"}
VERSIONS = Path("/usr/lib/postgresql")
"""Debian keeps each version's programs here, off PATH."""

DEFAULT_CLUSTER = Path("/etc/postgresql-common/createcluster.conf")
"""Where Debian's PostgreSQL reads whether an installation makes a database of its own; tests make theirs."""

POLICY = Path("/usr/sbin/policy-rc.d")
"""What Debian's packages ask before they start a service; 101 means: do not."""

INSTALL = ("apt-get", "-o", "DPkg::Lock::Timeout=120", "install", "-y", "--no-install-recommends")


def main() -> int:
    """Install what is missing; print the program's path as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(PACKAGES))
    name = parser.parse_args().name
    program, package = PROGRAMS[name], PACKAGES[name]
    if _find(program) is None:
        if shutil.which("apt-get") is None or os.geteuid() != 0:
            return _fail(f"no {program} here: install {package} (Debian, Ubuntu), or as root run this again")
        _say(f"installing {package}")
        if name == "postgresql" and not DEFAULT_CLUSTER.exists():
            DEFAULT_CLUSTER.parent.mkdir(parents=True, exist_ok=True)
            DEFAULT_CLUSTER.write_text("create_main_cluster = false\n")
        with _no_service_starts():
            for command in (["apt-get", "update"], [*INSTALL, package]):
                if (failure := _run(command)) is not None:
                    return _fail(failure)
        _keep_off(package)
    found = _find(program)
    if found is None:
        return _fail(f"{package} is installed, but no {program} is found (PATH {os.environ.get('PATH', '')})")
    print(found)
    return 0


def _find(program: str) -> str | None:
    """Return a program on PATH, or the newest of Debian's PostgreSQL."""
    newest = sorted(VERSIONS.glob(f"*/bin/{program}"), key=lambda path: int(path.parts[-3]))
    return str(newest[-1]) if newest else shutil.which(program)


@contextlib.contextmanager
def _no_service_starts() -> Iterator[None]:
    """Keep packages from starting services inside the `with` block; a policy that stands there stays as it is."""
    try:
        with POLICY.open("x") as policy:
            policy.write("#!/bin/sh\nexit 101\n")
    except FileExistsError:
        yield
        return
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()


def _keep_off(unit: str) -> None:
    """Take the service off the list of what starts with the machine; where nothing keeps such a list, all is well."""
    if Path("/run/systemd/system").exists():
        _run(["systemctl", "disable", "--now", unit])
    elif shutil.which("update-rc.d") is not None:
        _run(["update-rc.d", unit, "disable"])


def _run(command: list[str]) -> str | None:
    """Run a command; return what went wrong."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    return None if done.returncode == 0 else f"{' '.join(command)} failed:\n{done.stdout[-2000:]}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _fail(text: str) -> int:
    print(f"error: {text}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
