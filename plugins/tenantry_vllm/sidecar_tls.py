"""Mutual TLS to a sidecar: which files, and a connection to one address that is verified under another name.

A name may stand for many sidecars, so the connection goes to an address; what the certificate must be for (and SNI
asks for) is the name in the URL. The files are read for each new connection: rotated ones count from the next on.

Under TLS 1.3 a client is through with the handshake before the server has looked at its certificate (RFC 8446, 4.4.2):
a refused one shows as an alert, or as a reset, where the answer should be. `refused` says so.
"""

import ssl
from http.client import HTTPConnection
from pathlib import Path

from msgspec import Struct

__all__ = ["TlsError", "TlsFiles", "TlsHTTPConnection"]


class TlsError(OSError):
    """No TLS connection came about. The message names files and names, and never what is in a file."""


class TlsFiles(Struct, frozen=True, kw_only=True):
    """PEM files: the authorities that may vouch for a sidecar, and the certificate and key that this engine shows."""

    ca: Path
    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """Read the files; raise TlsError that says which one is no good."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks the chain and the host name
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        for path in (self.ca, self.certificate, self.key):  # OpenSSL's "No such file" would not say which
            try:
                path.read_bytes()
            except (OSError, ValueError) as error:
                raise TlsError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
        try:
            context.load_verify_locations(self.ca)
        except OSError as error:
            raise TlsError(f"{self.ca} holds no PEM certificates of authorities: {_reason(error)}") from None
        try:
            context.load_cert_chain(self.certificate, self.key, password=self._no_password)
        except TlsError:
            raise
        except OSError as error:
            text = f"{self.certificate} and {self.key} are no certificate with its key, in PEM: {_reason(error)}"
            raise TlsError(text) from None
        return context

    def _no_password(self) -> str:
        # Without this OpenSSL would ask on the engine's terminal, and wait.
        raise TlsError(f"{self.key} is encrypted: nobody is there to type its password")


class TlsHTTPConnection(HTTPConnection):
    """An HTTP connection to `address` over TLS with whoever proves to be `name`."""

    def __init__(self, address: str, port: int, *, name: str, files: TlsFiles, timeout: float) -> None:
        super().__init__(address, port, timeout=timeout)
        self._name = name.rstrip(".")  # certificates and SNI have no root dot
        self._files = files

    def connect(self) -> None:
        """Connect and shake hands; raise TlsError, or another OSError if nobody listens."""
        context = self._files.context()
        super().connect()
        # Apart from the handshake, so that `sock` is what a handshake that hangs can be woken by.
        secured = context.wrap_socket(self.sock, server_hostname=self._name, do_handshake_on_connect=False)
        self.sock = secured
        try:
            secured.do_handshake()
        except ssl.SSLCertVerificationError as error:
            text = f"its certificate does not pass as one for {self._name} of {self._files.ca}: {error.verify_message}"
            raise TlsError(text) from None
        except (ssl.SSLError, ConnectionError) as error:  # a reset may overtake the alert that explains it
            raise TlsError(f"no TLS there, or none for {self._files.certificate}: {_reason(error)}") from None

    def refused(self, error: OSError) -> TlsError:
        """Return what an `error` in place of the first answer means."""
        return TlsError(f"it hung up on {self._files.certificate}; is that of its --tls-client-ca? {_reason(error)}")


def _reason(error: OSError) -> str:
    """Return OpenSSL's word, such as TLSV1_ALERT_UNKNOWN_CA, without the line of _ssl.c."""
    if isinstance(error, ssl.SSLError) and error.reason:
        return str(error.reason)
    return error.strerror or str(error)
