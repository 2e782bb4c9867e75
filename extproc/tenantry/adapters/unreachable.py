"""Why a service did not answer, in words for the person who typed its address."""

import os

import aiohttp


def why(error: Exception) -> str:
    """Return the reason of a failed request: `Connection refused`, not the name of a class."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate does not pass: {error.certificate_error}"
    if isinstance(error, TimeoutError):  # aiohttp's are some, too
        return "no answer in time"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "it hung up"
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, OSError) and cause.errno:
        # A failed look-up has a number of its own kind, below 0, and asyncio words the others with the whole address.
        return cause.strerror or str(cause) if cause.errno < 0 else os.strerror(cause.errno)
    return str(cause) or type(error).__name__
