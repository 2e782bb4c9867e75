"""What a reader of a long table asks for: a word to search, an order, a page. An answer never has more than a page."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from msgspec import Struct

PAGE_ROWS = 25
MAX_PAGE = 100_000
MAX_WORD = 100

Row = TypeVar("Row")


class Ask(Struct, frozen=True, kw_only=True):
    """`word` is searched for without regard to case, `sort` is a column, `page` counts from 0."""

    word: str = ""
    sort: str = ""
    descending: bool = False
    page: int = 0


class Page(Struct, frozen=True, kw_only=True):
    """The rows of one page; `found` of `of` rows match the word."""

    rows: tuple[object, ...]
    found: int
    of: int
    page: int
    pages: int
    sort: str
    descending: bool


def ask_of(query: Mapping[str, str], prefix: str, columns: Sequence[str]) -> Ask:
    """Return what a query asks of the table with this prefix; the first column is the order unless it names another.

    Raises ValueError for what is not understood.
    """
    word = query.get(f"{prefix}_word", "")
    if len(word) > MAX_WORD:
        raise ValueError(f"{prefix}_word has {len(word)} characters: at most {MAX_WORD}")
    sort = query.get(f"{prefix}_sort", columns[0])
    if sort not in columns:
        raise ValueError(f"{prefix}_sort is {sort[:50]!r}: {', '.join(columns)}")
    order = query.get(f"{prefix}_order", "up")
    if order not in ("up", "down"):
        raise ValueError(f"{prefix}_order is {order[:20]!r}: up or down")
    page = query.get(f"{prefix}_page", "0")
    if not (page.isascii() and page.isdigit() and len(page) <= 6 and int(page) <= MAX_PAGE):
        raise ValueError(f"{prefix}_page is {page[:20]!r}: 0 to {MAX_PAGE}")
    return Ask(word=word.casefold(), sort=sort, descending=order == "down", page=int(page))


def cut(ordered: Sequence[Row], ask: Ask, of: int, show: Callable[[Row], object]) -> Page:
    """Return the asked page of the rows that were found; past the end it is the last one."""
    pages = max(1, -(-len(ordered) // PAGE_ROWS))
    page = min(ask.page, pages - 1)
    rows = tuple(show(row) for row in ordered[page * PAGE_ROWS : (page + 1) * PAGE_ROWS])
    return Page(
        rows=rows, found=len(ordered), of=of, page=page, pages=pages, sort=ask.sort, descending=ask.descending
    )  # fmt: skip
