"""`GET /invoice` by itself: who may ask, and for what."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tenantry_testing.documents import KEYS, document, secret_files
from tenantry_testing.ledger_service import LedgerElsewhere

NOW = datetime(2026, 11, 25, 12, 30, tzinfo=UTC).timestamp()
ADMIN = secret_files()["admin-token"].decode()


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LedgerElsewhere]:
    folder: Path = tmp_path_factory.mktemp("ledger")
    with LedgerElsewhere(folder, document(), NOW) as made:
        yield made


def asked(ledger: LedgerElsewhere, query: str, **headers: str) -> tuple[int, Any]:
    async def ask() -> tuple[int, Any]:
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"http://{ledger.address}/invoice{query}", headers=headers) as response,
        ):
            return response.status, await response.json()

    return ledger.do(ask())


def test_the_present_period_is_the_default(ledger: LedgerElsewhere) -> None:
    status, bills = asked(ledger, "", authorization=f"Bearer {ADMIN}")
    assert (status, bills["invoices"], bills["statement"]["period"]) == (200, [], "2026-11")


@pytest.mark.parametrize("name", ["authorization", "api-key"])
def test_a_tenants_key_is_read_where_its_clients_put_it(ledger: LedgerElsewhere, name: str) -> None:
    value = KEYS["acme"] if name == "api-key" else f"Bearer {KEYS['acme']}"
    status, bills = asked(ledger, "?tenant=acme", **{name: value})
    assert status == 200
    assert [(invoice["tenant"], invoice["total"]) for invoice in bills["invoices"]] == [("acme", "0.00")]
    assert bills["statement"] is None


@pytest.mark.parametrize("credential", ["", "Bearer wrong", f"Bearer {KEYS['nobody']}", "Bearer usage-token....."])
def test_no_other_credential_opens_it(ledger: LedgerElsewhere, credential: str) -> None:
    status, answer = asked(ledger, "", authorization=credential)
    assert status == 401
    assert credential.removeprefix("Bearer ") not in answer["error"] or credential == ""


@pytest.mark.parametrize(
    ("query", "status", "message"),
    [
        ("?perod=2026-11", 400, "no parameter is called 'perod': period, tenant"),
        ("?period=11", 400, "'11' is no period"),
        ("?period=2027-01", 400, "2027-01 has not begun"),
        ("?tenant=nobody", 404, "no tenant 'nobody' in the rules or the period"),
    ],
)
def test_what_cannot_be_answered(ledger: LedgerElsewhere, query: str, status: int, message: str) -> None:
    found, answer = asked(ledger, query, authorization=f"Bearer {ADMIN}")
    assert found == status
    assert message in answer["error"]
    assert asked(ledger, "?tenant=globex", authorization=f"Bearer {KEYS['acme']}")[0] == 403
