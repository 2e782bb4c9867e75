"""What must hold of retrieval: own rows only, nothing lost, every attack in vain."""

from collections.abc import Iterator

from demo.report import Expectation, VectorReport
from demo.retrieval_run import RetrievalRun
from demo.retrieval_story import DOCUMENTS, QUESTIONS

IN_VAIN = ("refused", "harmless")


def retrieval_expectations(run: RetrievalRun, report: VectorReport) -> Iterator[Expectation]:
    """Return each expectation with whether it held; none when retrieval did not run."""
    if run.not_run:
        return
    failed = sum(tenant.failed for tenant in report.tenants.values())
    yield Expectation(
        what="the store is proven to keep tenants apart, and every question is answered",
        held=not run.error and report.standing == "safe" and not failed
        and all(tenant.queries >= len(QUESTIONS) for tenant in report.tenants.values()),
        detail=run.error
        or f"{report.engine}: {report.standing}; {report.queries} questions, "
        f"{failed} failed",
    )  # fmt: skip
    rows = sum(tenant.rows_answered for tenant in report.tenants.values())
    yield Expectation(
        what="no row of another tenant comes back, to a question or to an attack",
        held=report.foreign_rows == 0 and rows > 0,
        detail=f"{report.foreign_rows} foreign rows in {report.queries} answers ({rows:,} rows) and "
        f"{report.attacks} attacks",
    )
    yield Expectation(
        what="both ask the same, and each is answered from its own document",
        held=all(_own_answer(report, index) for index in range(len(QUESTIONS))),
        detail="; ".join(
            f"{question.title}: " + " | ".join(" / ".join(texts) or "nothing" for texts in question.answers.values())
            for question in report.questions[:1]
        )
        + f"; {len(report.questions)} questions",
    )
    outcomes = [attack.outcome for attack in report.tried]
    bad = [attack.what for attack in report.tried if attack.outcome not in IN_VAIN]
    yield Expectation(
        what="every attack is refused or harmless",
        held=not bad and 0 < len(outcomes) == run.attacks_known,
        detail=f"{outcomes.count('refused')} refused, {outcomes.count('harmless')} harmless, of "
        f"{run.attacks_known}" + (f"; not: {', '.join(bad)}" if bad else ""),
    )
    yield Expectation(
        what="the engine holds at the end what it held before the attacks, and no row of nobody's",
        held=report.rows_lost == 0
        and len(run.after) == sum(map(len, DOCUMENTS.values()))
        and all(
            tenant.rows_before == tenant.rows_after == len(DOCUMENTS[name]) and len(tenant.collections) == 1
            for name, tenant in report.tenants.items()
        ),
        detail=", ".join(
            f"{name} {tenant.rows_before} before, {tenant.rows_after} after" for name, tenant in report.tenants.items()
        )
        + f"; {report.rows_lost} lost, {len(run.after)} rows in all (read from the engine by its operator)",
    )
    yield Expectation(
        what="the sidecar verified the rows that came back, and had to withhold none",
        held=report.rows_verified >= rows and report.answers_withheld == 0,
        detail=f"{report.rows_verified:,} rows verified, {report.answers_withheld} answers withheld",
    )


def _own_answer(report: VectorReport, index: int) -> bool:
    question = report.questions[index]
    return all(
        texts == [next(own.text for own in DOCUMENTS[name] if own.title == question.title)]
        for name, texts in question.answers.items()
    )
