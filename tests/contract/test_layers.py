"""What the core may know, and who may say that somebody is a tenant."""

import ast
import json
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tenantry
import tenantry.core

ROOT = Path(tenantry.__file__).parent
REPOSITORY = ROOT.parents[1]
TREES = (ROOT, REPOSITORY / "plugins", REPOSITORY / "envoy", REPOSITORY / "demo", REPOSITORY / "tools")

ALLOWED = {"msgspec", "tenantry", "typing_extensions"}
"""msgspec itself loads typing_extensions where it is installed."""


def core_modules() -> list[str]:
    found = pkgutil.walk_packages(tenantry.core.__path__, "tenantry.core.")
    return ["tenantry.core", *sorted(module.name for module in found)]


VECTOR = "tenantry.core.vector"


def loaded_by(modules: list[str]) -> set[str]:
    """What a fresh interpreter has loaded once it imported these."""
    code = f"""
import json, sys
before = set(sys.modules)
import importlib
for name in {modules!r}:
    importlib.import_module(name)
print(json.dumps(sorted(set(sys.modules) - before)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded: list[str] = json.loads(done.stdout)
    assert set(modules) <= set(loaded)
    return set(loaded)


def strangers(loaded: set[str]) -> set[str]:
    known = sys.stdlib_module_names | ALLOWED
    return {name for name in loaded if name.partition(".")[0] not in known}


def test_the_core_loads_the_standard_library_and_msgspec_and_nothing_else() -> None:
    """No gRPC, protobuf, asyncio server or log: decisions are functions of what they are given."""
    outside = [name for name in core_modules() if name != VECTOR and not name.startswith(f"{VECTOR}.")]
    assert "tenantry.core.session" in outside
    loaded = loaded_by(outside)
    assert strangers(loaded) == set()
    assert {name for name in loaded if name.startswith("tenantry.") and not name.startswith("tenantry.core")} == set()


def test_the_session_gets_what_reads_stores_messages_from_outside() -> None:
    """It knows a call to a store by its protocol (`vector.calls`), and none of those that there are."""
    loaded = loaded_by(["tenantry.core.session"])
    assert "tenantry.core.vector.calls" in loaded
    assert not {name for name in loaded if name.startswith(f"{VECTOR}.") and "milvus" in name}
    assert "google.protobuf" not in loaded


def test_vector_may_load_protobuf_besides() -> None:
    loaded = loaded_by([name for name in core_modules() if name.startswith(VECTOR)])
    assert {name for name in strangers(loaded) if name.partition(".")[0] != "google"} == set()
    assert {name for name in loaded if name.startswith("google.")} <= {
        name for name in loaded if name == "google.protobuf" or name.startswith(("google.protobuf.", "google._upb"))
    }
    assert {name for name in loaded if name.startswith("tenantry.") and not name.startswith("tenantry.core")} == set()


IMPURE = {
    "asyncio", "threading", "multiprocessing", "subprocess", "socket", "selectors", "ssl", "logging", "os", "io",
    "pathlib", "random", "secrets", "time", "tempfile", "signal", "http", "urllib",
}  # fmt: skip


@pytest.mark.parametrize("path", sorted((ROOT / "core").rglob("*.py")), ids=lambda path: path.stem)
def test_the_core_imports_nothing_that_touches_the_world(path: Path) -> None:
    tree = ast.parse(path.read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} & IMPURE == set()
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert called & {"open", "print", "input", "exec", "eval", "__import__", "datetime.now", "datetime.utcnow"} == set()


def constructions(tree: ast.AST, names: set[str]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in names:
            yield ast.unparse(node.func)
        # A way around the call: a type handed to whoever builds it, such as `convert(x, Tenant)` or `replace`.
        if isinstance(node, ast.Call):
            yield from (name for name in map(ast.unparse, node.args) if name.rpartition(".")[2] in names)


def test_only_identity_makes_proofs_and_tenants() -> None:
    """Invariant 1: whoever asks for a Tenant asks for a request that was authenticated."""
    found = {
        str(path.relative_to(REPOSITORY)): sorted(calls)
        for tree in TREES
        for path in tree.rglob("*.py")
        if (calls := set(constructions(ast.parse(path.read_text()), {"Tenant", "Proof"})))
    }
    assert found == {"extproc/tenantry/core/identity.py": ["Proof", "Tenant"]}


def test_the_check_would_find_them() -> None:
    for code in ("Tenant(profile=p, proof=q)", "tenant.Proof(kind='jwt')", "msgspec.convert(x, Tenant)", "f(Proof)"):
        assert list(constructions(ast.parse(code), {"Tenant", "Proof"})), code
    assert not list(
        constructions(ast.parse("def f(tenant: Tenant) -> Proof: return tenant.proof"), {"Tenant", "Proof"})
    )
