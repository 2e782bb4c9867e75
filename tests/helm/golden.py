"""Golden pairs: golden/NAME.values.yaml, and NAME.yaml, which the chart makes of it (anew by `make golden`).

Their diff is the review of a change to the templates. Alerts and dashboards are in none: they have their own tests.
"""

from pathlib import Path

from helm.helm import template

FOLDER = Path(__file__).parent / "golden"
SUFFIX = ".values.yaml"
NAMES = sorted(path.name.removesuffix(SUFFIX) for path in FOLDER.glob(f"*{SUFFIX}"))


def rendered(name: str, helm: str = "helm4") -> str:
    """Return what the chart makes of a pair's values."""
    done = template((FOLDER / f"{name}{SUFFIX}").read_text(), helm)
    assert done.returncode == 0, done.stderr
    return "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines())


def main() -> None:
    """Write each pair's second half."""
    for name in NAMES:
        (FOLDER / f"{name}.yaml").write_text(rendered(name))


if __name__ == "__main__":
    main()
