"""What the operator says about an engine's metering: environment variables, read when the engine starts.

| variable | what it says |
|---|---|
| `TENANTRY_MODEL` | the model's name in the rules; metering is on where it is set |
| `TENANTRY_VERSION` | the version of the rules that this engine serves |
| `TENANTRY_SIDECAR_URLS` | the sidecars, separated by commas: `http://127.0.0.1:9001` |
| `TENANTRY_LEDGER_URL`, `TENANTRY_SPOOL_DIR` | the ledger, and the folder on local disk for what it has not got yet |
| `TENANTRY_USAGE_TOKEN_FILE` | the file with the token that sidecars and ledger ask for |
| `TENANTRY_TLS_CA`, `_CERTIFICATE`, `_KEY` | PEM files; for https URLs |
| `TENANTRY_DISK_FULL` | `refuse` new work (default) or `count` what is lost |
| `TENANTRY_SPOOL_BYTES` | the most that the spool may hold (4 GiB) |
| `TENANTRY_PART_SECONDS` | how often a long request sends a part (5) |

It is read in each of vLLM's processes, in the first one before the model is loaded: what is wrong is said within
seconds, and not to the first request.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from tenantry_vllm.delivery import DeliveryOptions
from tenantry_vllm.sidecar_http import parse_url
from tenantry_vllm.sidecar_tls import TlsFiles

__all__ = ["ConfigError", "EngineConfig", "enabled", "read"]

_PREFIX = "TENANTRY_"
_MAX_NAME = 128
_NAMES = frozenset(
    f"{_PREFIX}{name}"
    for name in (
        "MODEL", "VERSION", "SIDECAR_URLS", "LEDGER_URL", "SPOOL_DIR", "USAGE_TOKEN_FILE", "TLS_CA", "TLS_CERTIFICATE",
        "TLS_KEY", "DISK_FULL", "SPOOL_BYTES", "PART_SECONDS",
    )
)  # fmt: skip


class ConfigError(ValueError):
    """The environment says something that metering cannot work with; the message names the variable."""


class EngineConfig(Struct, frozen=True, kw_only=True):
    """The environment, read. `delivery` lacks the engine's id, which only EngineCore knows."""

    model: str
    version: str
    delivery: DeliveryOptions
    part_ns: int


def enabled(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether the operator wants metering."""
    return bool(environment.get("TENANTRY_MODEL"))


def read(environment: Mapping[str, str] = os.environ, *, engine: str = "") -> EngineConfig:
    """Read the environment of the engine with that id; raise ConfigError."""
    model, version = (_name(environment, f"{_PREFIX}{name}") for name in ("MODEL", "VERSION"))
    urls = tuple(url.strip() for url in environment.get("TENANTRY_SIDECAR_URLS", "").split(",") if url.strip())
    for url in urls:
        try:
            parse_url(url)
        except ValueError as error:
            raise ConfigError(f"TENANTRY_SIDECAR_URLS: {error}") from None
    ledger, spool = environment.get("TENANTRY_LEDGER_URL", ""), environment.get("TENANTRY_SPOOL_DIR", "")
    if bool(ledger) != bool(spool):
        absent = "TENANTRY_SPOOL_DIR" if ledger else "TENANTRY_LEDGER_URL"
        raise ConfigError(f"{absent} is not set: records wait in the spool until the ledger has them, so it takes both")
    if not urls and not ledger:
        raise ConfigError(
            "records go nowhere: set TENANTRY_SIDECAR_URLS, or TENANTRY_LEDGER_URL with TENANTRY_SPOOL_DIR, or both"
        )
    token = environment.get("TENANTRY_USAGE_TOKEN_FILE", "")
    if not token:
        raise ConfigError(
            "TENANTRY_USAGE_TOKEN_FILE is not set: sidecars and ledger take records only with their token"
        )
    rule = environment.get("TENANTRY_DISK_FULL") or "refuse"
    if rule not in {"refuse", "count"}:
        raise ConfigError(f"TENANTRY_DISK_FULL is 'refuse' or 'count', not '{rule}'")
    delivery = DeliveryOptions(
        engine=engine,
        sidecar_urls=urls,
        ledger_url=ledger,
        spool_dir=Path(spool) if spool else None,
        token_file=Path(token),
        tls=_tls(environment),
        disk_full="refuse" if rule == "refuse" else "count",
        spool_bytes=_number(environment, "TENANTRY_SPOOL_BYTES", 4 * 1024**3, 1024**2, 2**50),
    )
    part_s = _number(environment, "TENANTRY_PART_SECONDS", 5, 1, 3600)
    return EngineConfig(model=model, version=version, delivery=delivery, part_ns=part_s * 1_000_000_000)


def unknown(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return variables that look like ours and are not: a slip of the pen must not go unnoticed."""
    ours = ("TENANTRY_TLS_", "TENANTRY_SPOOL", "TENANTRY_SIDECAR", "TENANTRY_LEDGER", "TENANTRY_USAGE", "TENANTRY_DISK")
    return sorted(name for name in environment if name.startswith(ours) and name not in _NAMES)


def _name(environment: Mapping[str, str], variable: str) -> str:
    value = environment.get(variable, "")
    if not value:
        raise ConfigError(
            f"{variable} is not set: a record bears the engine's model and version, as the rules name them"
        )
    if len(value) > _MAX_NAME:
        raise ConfigError(f"{variable} is longer than {_MAX_NAME} characters")
    return value


def _tls(environment: Mapping[str, str]) -> TlsFiles | None:
    names = ("TENANTRY_TLS_CA", "TENANTRY_TLS_CERTIFICATE", "TENANTRY_TLS_KEY")
    values = [environment.get(name, "") for name in names]
    if not any(values):
        return None
    for name, value in zip(names, values, strict=True):
        if not value:
            raise ConfigError(f"{name} is not set: mutual TLS takes {', '.join(names)}")
    ca, certificate, key = (Path(value) for value in values)
    return TlsFiles(ca=ca, certificate=certificate, key=key)


def _number(environment: Mapping[str, str], variable: str, default: int, least: int, most: int) -> int:
    text = environment.get(variable, "")
    if not text:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and least <= int(text) <= most):
        raise ConfigError(f"{variable} is a whole number from {least} to {most}, not '{text[:40]}'")
    return int(text)
