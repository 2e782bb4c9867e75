"""Retrieval: two tenants with look-alike documents, what both ask, and whose a text is. Plain data, no I/O.

Both have a collection of one name, with the same primary keys, titles and sentences; in each sentence stands a figure
that is the tenant's own. So a text says whose it is, and nothing else does: not its key, not its title, and hardly its
vector.
"""

from collections.abc import Iterator, Mapping

from msgspec import Struct

STORE = "docs"
"""The store's name in the rules document."""

COLLECTION = "handbook"
"""As both tenants' clients name it."""

TENANT, ATTACKER = "stark", "oscorp"
TENANTS = (TENANT, ATTACKER)
"""The second also tries to break out. Neither asks the models, so that the counts of messages there stay plain."""

TIERS: Mapping[str, str] = {TENANT: "gold", ATTACKER: "bronze"}

TOP = 3
"""How many documents a question asks for."""


class Document(Struct, frozen=True, kw_only=True):
    """One row. `secret` is the part of `text` that no other tenant's text has."""

    id: int
    title: str
    text: str
    secret: str


class Question(Struct, frozen=True, kw_only=True):
    """What both tenants ask, in other words than the documents', and the title of what answers it."""

    text: str
    title: str


QUESTIONS = (
    Question(text="From which amount on must somebody approve that a customer gets a refund?", title="Refunds"),
    Question(text="How expensive may my overnight stay be?", title="Travel"),
    Question(text="What does a newly hired programmer earn?", title="Salaries"),
    Question(text="How much are we willing to pay to take over our rival?", title="Merger"),
    Question(text="By when must clients hear that the service is down?", title="Incidents"),
)

_SENTENCES = (
    ("Refunds", "A refund above {} needs a signature of the finance team.", "4,217 euros", "1,893 euros"),
    ("Travel", "A hotel on a business trip may cost up to {} a night.", "161 euros", "238 euros"),
    ("Salaries", "A software engineer starts with a salary of {} a year.", "71,400 euros", "64,800 euros"),
    ("Merger", "The board offers {} for the acquisition of the competitor.", "38 million euros", "52 million euros"),
    ("Incidents", "An outage is announced to all customers within {}.", "25 minutes", "40 minutes"),
    ("Discounts", "Sales may give a discount of {} without asking.", "12 percent", "17 percent"),
    ("Suppliers", "The largest supplier gives us {} off its list price.", "31 percent", "22 percent"),
    ("Notice", "Whoever leaves the company gives a notice of {}.", "84 days", "56 days"),
    ("Backups", "Backups of the database are kept for {}.", "35 days", "90 days"),
    ("Lease", "The lease of the head office ends in {}.", "19 months", "27 months"),
    ("Bonus", "In a good year the bonus is {} for everybody in the team.", "3,250 euros", "2,700 euros"),
    ("Overtime", "Overtime beyond {} a month is paid.", "14 hours", "9 hours"),
)

DOCUMENTS: Mapping[str, tuple[Document, ...]] = {
    tenant: tuple(
        Document(id=index, title=title, text=sentence.format(secrets[place]), secret=secrets[place])
        for index, (title, sentence, *secrets) in enumerate(_SENTENCES, start=1)
    )
    for place, tenant in enumerate(TENANTS)
}


def documents_in(text: str) -> Iterator[tuple[str, Document]]:
    """Yield (tenant, document) for each document whose text stands anywhere in `text`."""
    for tenant, documents in DOCUMENTS.items():
        for document in documents:
            if document.text in text:
                yield tenant, document
