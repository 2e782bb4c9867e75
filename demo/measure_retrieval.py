"""From what was recorded of retrieval to its part of the report. Pure.

A row is foreign when its text is not the asking tenant's own. What an attack got back is searched for the texts of
all documents, in whatever form it came, and a count is compared with what the attacker has.
"""

from collections import Counter

from demo.quantiles import quantiles
from demo.report import VectorAttackReport, VectorQuestionReport, VectorReport, VectorTenantReport
from demo.retrieval_run import AttackCall, RetrievalRun
from demo.retrieval_story import ATTACKER, DOCUMENTS, QUESTIONS, TENANTS, documents_in
from demo.retrieval_wire import Failed, Hit, Stored

EMBEDDINGS = "all-MiniLM-L6-v2, a small real model, 384 dimensions"
MAX_SHOWN = 120


def vector_report(run: RetrievalRun) -> VectorReport:
    """Return the report of retrieval; of one that did not run it says why."""
    if run.not_run:
        return VectorReport(not_run=run.not_run)
    attacks = [_attack(call) for call in run.attacks]
    tenants = {name: _tenant(run, name) for name in TENANTS}
    return VectorReport(
        queries=len(run.asked),
        attacks=len(attacks),
        foreign_rows=sum(tenant.foreign_rows for tenant in tenants.values())
        + sum(attack.foreign_rows for attack in attacks),
        rows_lost=sum(_lost(run, name) for name in TENANTS),
        error=run.error,
        engine=run.engine,
        sdk=run.sdk,
        embeddings=EMBEDDINGS,
        standing=run.verdict.standing if run.verdict else "unproven",
        proven=run.verdict.version if run.verdict else "",
        rows_verified=run.verified.rows if run.verified else 0,
        answers_withheld=run.verified.foreign if run.verified else 0,
        tenants=tenants,
        questions=[_question(run, index) for index in range(len(QUESTIONS))],
        tried=attacks,
    )


def _tenant(run: RetrievalRun, name: str) -> VectorTenantReport:
    asked = [call.answer for call in run.asked if call.tenant == name]
    hits = [hit for answer in asked for hit in answer.hits]
    stored = [row for row in run.after if row.tenant == name]
    return VectorTenantReport(
        queries=len(asked),
        failed=sum(bool(answer.error) for answer in asked),
        rows_answered=len(hits),
        foreign_rows=sum(not _is_own(name, hit) for hit in hits),
        answer_ms=quantiles(answer.ms for answer in asked if not answer.error),
        rows_before=sum(row.tenant == name for row in run.before),
        rows_after=len(stored),
        collections=sorted({row.collection for row in stored}),
    )


def _is_own(tenant: str, hit: Hit) -> bool:
    return any((hit.id, hit.title, hit.text) == (own.id, own.title, own.text) for own in DOCUMENTS[tenant])


def _lost(run: RetrievalRun, tenant: str) -> int:
    """Return how many rows, counted with what stands in them, are not there any more as they were."""

    def kept(rows: tuple[Stored, ...]) -> Counter[tuple[str, int, str]]:
        return Counter((row.collection, row.id, row.text) for row in rows if row.tenant == tenant)

    return (kept(run.before) - kept(run.after)).total()


def _question(run: RetrievalRun, index: int) -> VectorQuestionReport:
    question = QUESTIONS[index]
    answers: dict[str, list[str]] = {}
    titles: dict[str, list[str]] = {}
    for name in TENANTS:
        found = [call.answer.hits for call in run.asked if (call.tenant, call.question) == (name, index)]
        # Each time it was asked: one answer, unless something is wrong.
        answers[name] = list(dict.fromkeys(hits[0].text for hits in found if hits))
        titles[name] = list(dict.fromkeys(", ".join(hit.title for hit in hits) for hits in found))
    return VectorQuestionReport(question=question.text, title=question.title, answers=answers, titles=titles)


def _attack(call: AttackCall) -> VectorAttackReport:
    answer = call.answer
    if isinstance(answer, Failed):
        return VectorAttackReport(what=call.name, outcome="failed", status="", message=answer.error)
    found = Counter(tenant for tenant, _ in documents_in(f"{answer.said} {answer.message}"))
    own, foreign = found[ATTACKER], found.total() - found[ATTACKER]
    if answer.count is not None:
        own = min(answer.count, len(DOCUMENTS[ATTACKER]))
        foreign += answer.count - own
    outcome = "leaked" if foreign else "refused" if answer.refused else "harmless"
    return VectorAttackReport(
        what=call.name, outcome=outcome, status=answer.refused, own_rows=own, foreign_rows=foreign,
        message=answer.message or _summary(answer.said, own),
    )  # fmt: skip


def _summary(said: str, own: int) -> str:
    said = " ".join(said.split())
    return f"{own} rows, all its own" if own else f"answer: {said[:MAX_SHOWN] or 'empty'}"
