"""The options by which commands reach a ledger, the same for all of them."""

from dataclasses import dataclass
from pathlib import Path

from cyclopts import Parameter

from tenantry.adapters.ledger.client import LedgerClient, LedgerTls

LEDGER = "127.0.0.1:9400"
SECRETS = Path(".tenantry/secrets")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Reach:
    """Where the ledger is.

    Parameters
    ----------
    ledger
        The ledger's service: HOST:PORT, unix:/PATH or an https URL.
    token_file
        A file with the credential: the admin token (default: .tenantry/secrets/admin-token), or a tenant's own API
        key, which opens that tenant's own. To book records: the usage token (default: .tenantry/secrets/usage-token).
    ledger_ca
        The CA of the ledger's certificate.
    ledger_cert
        A client certificate, where the ledger asks for one.
    ledger_key
        Its key.
    """

    ledger: str = LEDGER
    token_file: Path | None = None
    ledger_ca: Path | None = None
    ledger_cert: Path | None = None
    ledger_key: Path | None = None


HERE = Reach()


def client_of(reach: Reach, default_token: str) -> LedgerClient:
    """Return the client; `default_token` is the file in the secrets folder that counts without --token-file."""
    tls = LedgerTls(ca=reach.ledger_ca, certificate=reach.ledger_cert, key=reach.ledger_key)
    return LedgerClient(reach.ledger, reach.token_file or SECRETS / default_token, tls)
