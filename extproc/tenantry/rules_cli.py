"""`tenantry rules`: a document in parts."""

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from cyclopts.validators import Number
from rich.console import Console

out = Console(highlight=False, emoji=False, soft_wrap=True)

app = App(name="rules", help="The rules document as a folder of parts.")

MIN_BYTES = 1_000
MAX_BYTES = 900_000
"""A ConfigMap holds 1 MiB, names and labels included."""


@app.command
def split(
    rules: Path,
    /,
    *,
    out_folder: Annotated[Path, Parameter(name="--out")],
    max_bytes: Annotated[int, Parameter(validator=Number(gte=MIN_BYTES))] = MAX_BYTES,
) -> None:
    """Write a document as a folder: rules.yaml, and its tenants in tenants-001.yaml and so on. Comments are not kept.

    Parameters
    ----------
    rules
        The rules document, a file or a folder.
    out_folder
        A folder that is not there yet.
    max_bytes
        How large a part may be. A ConfigMap or Secret holds 1 MiB.
    """
    from tenantry.adapters.rules_split import write_split  # noqa: PLC0415

    sizes = write_split(rules, out_folder, max_bytes)
    for name, size in sizes.items():
        out.print(f"{out_folder / name}: {size:,} bytes")
