"""The chart says no to an attachment that lacks what the rules need, and says what to write.

The templates are rendered in a chart that holds nothing else.
"""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

CHART = Path(__file__).resolve().parents[2] / "helm" / "tenantry"
TABLE = yaml.safe_load((CHART / "files" / "attachments.yaml").read_text())
NEEDS = {"always", "rollout", "mirror", "stores", "never"}

ROLLOUT = {"models": {"m": {"stable": "1", "rollout": {"candidate": "2"}}}}
MIRROR = {"models": {"m": {"stable": "1", "rollout": {"candidate": "2", "mirrorPercent": 5}}}}
STORES = {"stores": {"docs": {"kind": "milvus"}}}


def helms() -> list[Path]:
    """Every Helm of the environment `helm`."""
    cache = Path(subprocess.run(
        ["python3", str(CHART.parents[1] / "tools" / "env.py"), "helm"], check=True, capture_output=True, text=True
    ).stdout.strip()).parent  # fmt: skip
    return [cache / "helm4", cache / "helm3"]


@pytest.fixture(scope="module")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chart")
    (folder / "Chart.yaml").write_text("apiVersion: v2\nname: attachments\nversion: 0.0.1\n")
    shutil.copytree(CHART / "files", folder / "files")
    (folder / "templates").mkdir()
    shutil.copy(CHART / "templates" / "_attachments.tpl", folder / "templates")
    (folder / "templates" / "check.yaml").write_text('{{ include "tenantry.attachment.check" . }}\n')
    return folder


@pytest.fixture(scope="module", params=["helm4", "helm3"])
def helm(request: pytest.FixtureRequest) -> Path:
    (found,) = (path for path in helms() if path.name == request.param)
    return found


def refusal(helm: Path, chart: Path, kind: str, rules: dict[str, Any] | None = None, *acknowledged: str) -> str:
    """What Helm says; empty when it renders."""
    values = {"attachment": {"kind": kind, "acknowledge": list(acknowledged)}, "rules": rules or {}}
    command = [str(helm), "template", "r", str(chart), "--values", "-"]
    done = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == (not done.stderr), done.stderr
    return done.stderr


def test_the_table_is_whole() -> None:
    for row in TABLE["capabilities"]:
        assert row.keys() == {"name", "title", "needs", "lost", *TABLE["attachments"]}, row["name"]
        assert row["needs"] in NEEDS
        assert all(isinstance(row[kind], str) for kind in TABLE["attachments"]), "YAML reads a bare no as false"
    assert all(row["plain"] == "own" for row in TABLE["capabilities"]), "what the tests run"


@pytest.mark.parametrize(
    ("kind", "rules", "lacking"),
    [
        ("plain", MIRROR | STORES, set()),
        ("none", MIRROR | STORES, set()),
        ("istio", MIRROR | STORES, set()),
        ("envoyGateway", ROLLOUT | STORES, set()),
        ("envoyGateway", MIRROR, {"mirror"}),
        ("kgateway", {}, {"rbacBackstop", "accessLog"}),
        ("kgateway", ROLLOUT, {"rbacBackstop", "accessLog", "rescue"}),
        ("kgateway", MIRROR | STORES, {"rbacBackstop", "accessLog", "rescue", "mirror", "storeGuard"}),
    ],
)
def test_what_is_lacking_is_refused_until_it_is_named(
    helm: Path, chart: Path, kind: str, rules: dict[str, Any], lacking: set[str]
) -> None:
    said = refusal(helm, chart, kind, rules)
    for row in TABLE["capabilities"]:
        assert (f"{row['name']} (" in said) == (row["name"] in lacking)
        assert (row["lost"] in said) == (row["name"] in lacking)
    for one in lacking:
        others = sorted(lacking - {one})
        assert f"{one} (" in refusal(helm, chart, kind, rules, *others), "one is left"
    assert not refusal(helm, chart, kind, rules, *sorted(lacking))


def test_the_message_says_what_to_write(helm: Path, chart: Path) -> None:
    said = refusal(helm, chart, "kgateway", {}, "accessLog")
    assert "attachment: {acknowledge: [accessLog, rbacBackstop]}" in said


def test_what_nobody_knows_is_refused(helm: Path, chart: Path) -> None:
    assert '"rbac" is no capability; there are extProc, rbacBackstop' in refusal(helm, chart, "istio", {}, "rbac")
    assert '"linkerd" is none of envoyGateway, istio, kgateway, plain, none' in refusal(helm, chart, "linkerd")
