"""What an operator may say about an engine's metering, and what is wrong with what else was said."""

from pathlib import Path

import pytest
from tenantry_vllm import config
from tenantry_vllm.config import ConfigError, read, unknown
from tenantry_vllm.gate import Gate

GOOD = {
    "TENANTRY_MODEL": "chat-8b",
    "TENANTRY_VERSION": "1.4.0",
    "TENANTRY_SIDECAR_URLS": "http://127.0.0.1:9001, http://127.0.0.1:9002",
    "TENANTRY_USAGE_TOKEN_FILE": "/run/secrets/usage",
}
LEDGER = {"TENANTRY_LEDGER_URL": "https://ledger:9443", "TENANTRY_SPOOL_DIR": "/var/spool/tenantry"}


def test_sidecars_alone() -> None:
    settings = read(GOOD, engine="host-1-2")
    assert (settings.model, settings.version, settings.part_ns) == ("chat-8b", "1.4.0", 5_000_000_000)
    assert settings.delivery.engine == "host-1-2"
    assert settings.delivery.sidecar_urls == ("http://127.0.0.1:9001", "http://127.0.0.1:9002")
    assert settings.delivery.spool_dir is None


def test_all_that_can_be_said() -> None:
    files = {f"TENANTRY_TLS_{name}": f"/tls/{name}" for name in ("CA", "CERTIFICATE", "KEY")}
    more = {"TENANTRY_DISK_FULL": "count", "TENANTRY_SPOOL_BYTES": "2000000", "TENANTRY_PART_SECONDS": "1"}
    delivery = read(GOOD | LEDGER | files | more).delivery
    assert (delivery.ledger_url, delivery.spool_dir) == ("https://ledger:9443", Path("/var/spool/tenantry"))
    assert (delivery.disk_full, delivery.spool_bytes) == ("count", 2_000_000)
    assert delivery.tls is not None
    assert delivery.tls.key == Path("/tls/KEY")
    assert unknown(GOOD | LEDGER | files | more) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"TENANTRY_MODEL": ""}, "TENANTRY_MODEL is not set"),
        ({"TENANTRY_VERSION": ""}, "TENANTRY_VERSION is not set"),
        ({"TENANTRY_VERSION": "v" * 129}, "TENANTRY_VERSION is longer than 128"),
        ({"TENANTRY_SIDECAR_URLS": ""}, "records go nowhere"),
        ({"TENANTRY_SIDECAR_URLS": "http://sidecar:9001"}, "TENANTRY_SIDECAR_URLS: .* is https"),
        ({"TENANTRY_LEDGER_URL": "https://ledger"}, "TENANTRY_SPOOL_DIR is not set"),
        ({"TENANTRY_SPOOL_DIR": "/spool"}, "TENANTRY_LEDGER_URL is not set"),
        ({"TENANTRY_USAGE_TOKEN_FILE": ""}, "TENANTRY_USAGE_TOKEN_FILE is not set"),
        ({"TENANTRY_DISK_FULL": "drop"}, "'refuse' or 'count', not 'drop'"),
        ({"TENANTRY_TLS_CA": "/ca"}, "TENANTRY_TLS_CERTIFICATE is not set"),
        ({"TENANTRY_SPOOL_BYTES": "4G"}, "TENANTRY_SPOOL_BYTES is a whole number"),
        ({"TENANTRY_PART_SECONDS": "0"}, "from 1 to 3600, not '0'"),
        ({"TENANTRY_PART_SECONDS": "²"}, "whole number"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read(GOOD | change)


def test_a_misspelt_variable_is_noticed_and_others_own_are_not() -> None:
    assert unknown(GOOD | {"TENANTRY_SIDECAR_URL": "x", "TENANTRY_TLS_CERT": "y", "TENANTRY_RECORD": "z"}) == [
        "TENANTRY_SIDECAR_URL",
        "TENANTRY_TLS_CERT",
    ]


def test_metering_is_on_where_the_model_has_a_name() -> None:
    assert config.enabled(GOOD)
    assert not config.enabled({"TENANTRY_MODEL": ""})


def test_the_gate_is_shared_by_the_processes_of_an_engine() -> None:
    environment: dict[str, str] = {}
    api_server, core = Gate.shared(environment), Gate.shared(environment)
    assert not api_server.refusing
    core.refuse(3, True)
    core.refuse(4, True)
    core.refuse(3, False)
    assert api_server.refusing  # one rank is enough
    core.refuse(4, False)
    assert not api_server.refusing


def test_where_the_gate_cannot_be_found_there_is_another() -> None:
    environment = {"TENANTRY_GATE": "/nowhere/to/be/found"}
    assert not Gate.shared(environment).refusing
    assert environment["TENANTRY_GATE"] != "/nowhere/to/be/found"
