"""A small recorded run of the demo's retrieval, written down by hand: each tenant asks each question, two attacks."""

from demo.retrieval_run import AskedCall, AttackCall, RetrievalRun, Verdict, Verified
from demo.retrieval_story import ATTACKER, DOCUMENTS, QUESTIONS, TENANT, TENANTS, Document
from demo.retrieval_wire import Asked, Attacked, Hit, Stored

OWN, FOREIGN = DOCUMENTS[ATTACKER][0], DOCUMENTS[TENANT][0]


def hit(document: Document) -> Hit:
    return Hit(id=document.id, title=document.title, text=document.text)


def asked(tenant: str, question: int, *documents: Document, error: str = "") -> AskedCall:
    answer = Asked(hits=[hit(document) for document in documents], ms=4.0, error=error)
    return AskedCall(tenant=tenant, question=question, answer=answer)


def stored(tenant: str) -> tuple[Stored, ...]:
    """Every document of a tenant, in the collection that is its own."""
    return tuple(
        Stored(collection=f"{tenant}_handbook", tenant=tenant, id=document.id, text=document.text)
        for document in DOCUMENTS[tenant]
    )


def clean_retrieval() -> RetrievalRun:
    """Nothing went wrong."""
    everything = stored(TENANT) + stored(ATTACKER)
    return RetrievalRun(
        engine="Milvus Lite 3.2.2",
        sdk="pymilvus 3.0.2",
        verdict=Verdict(standing="safe", version="milvus_lite-3.2.2", reasons=()),
        asked=tuple(
            asked(tenant, index, next(own for own in DOCUMENTS[tenant] if own.title == question.title))
            for tenant in TENANTS
            for index, question in enumerate(QUESTIONS)
        ),
        attacks=(
            AttackCall(name="filter a) or (b", answer=Attacked(refused="INVALID_ARGUMENT", message="at position 1")),
            AttackCall(name="no filter at all", answer=Attacked(said=str([OWN.text]))),
        ),
        attacks_known=2,
        before=everything,
        after=everything,
        verified=Verified(rows=20, foreign=0),
    )
