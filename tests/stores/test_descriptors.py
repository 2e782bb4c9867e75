"""The list of Milvus's messages is what the installed pymilvus says of itself."""

import json
import subprocess
from pathlib import Path

import pytest
from tenantry.core.vector.milvus import METHODS

ROOT = Path(__file__).parent.parent.parent
LIST = ROOT / "tests" / "data" / "milvus_descriptors.json"


def test_the_reviewed_list_is_pymilvuss(environments: dict[str, str | None]) -> None:
    python = environments["milvus30"]
    if python is None:
        pytest.skip("no milvus30 environment: `python3 tools/env.py milvus30` says why")
    printed = subprocess.run(
        [python, ROOT / "tools" / "milvus_descriptors.py", *METHODS], check=True, capture_output=True, text=True
    ).stdout
    installed, reviewed = json.loads(printed), json.loads(LIST.read_text())
    changed = sorted(
        name
        for part in ("methods", "messages")
        for name in installed[part].keys() | reviewed[part].keys()
        if installed[part].get(name) != reviewed[part].get(name)
    )
    assert not changed, (
        f"pymilvus {installed['pymilvus']} differs from {reviewed['pymilvus']}, which was reviewed, in {changed}: "
        "make the list anew and review what tests/contract/test_vector_milvus_wire.py then shows."
    )
