"""A folder of secret files: written fresh, never overwritten."""

import os
import secrets
from pathlib import Path

from tenantry.core.keyring import REQUIRED


def write_missing(folder: Path) -> list[str]:
    """Write each required file that is not there yet (mode 0600, 256 random bits); return their names."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    written = []
    for name in REQUIRED:
        try:
            descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            continue
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
        written.append(name)
    return written
