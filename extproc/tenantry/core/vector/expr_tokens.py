r"""Tokens of Milvus's filter language, and the one printed form of a string that all engines read alike.

Three lexers were asked, through pymilvus, and they disagree:

    in quotes                  Milvus 2.3.5 (Go)   milvus-lite 2.5.1 (C++)   milvus-lite 3.2.2 (Python)
    a backslash before \ "     that character      that character            that character
    \n                         a line feed         the letter n              a line feed
    \u00e9                     the character       u00e9                     refused
    any other, as it is        the character       the character             the character

So escapes are decoded when read, and only a backslash and a double quote are ever escaped again. A string that has no
form which all read alike is refused: one with a line feed, a carriage return or a lone surrogate. So are other control
characters except the tab: nobody needs them, and milvus-lite 2.5.1 skips a NUL.
"""

import re
from itertools import islice

from tenantry.core.errors import BadRequestError

MAX_CHARACTERS = 65_536
MAX_TOKENS = 32_768
"""Fits a list of 16,000 keys, if they are short."""

MAX_DEPTH = 64
MAX_TERMS = 512
"""Of one chain of `and` or `or`. Milvus 2.3.5 and milvus-lite 3.2.2 take as many, milvus-lite 2.5.1 does not."""

MAX_INTEGER = 2**63 - 1
META = "$meta"
END = ""
"""Stands behind the last token."""

_BLANK = " \t\r\n"
_GOOD = r"""
    [A-Za-z_][A-Za-z0-9_]*+
  | "(?:[^"\\\r\n]|\\[^\r\n])*+"
  | '(?:[^'\\\r\n]|\\[^\r\n])*+'
  | 0[xX][0-9a-fA-F]++
  | (?:[0-9]++(?:\.[0-9]*+)?+|\.[0-9]++)(?:[eE][+-]?[0-9]++)?+
  | [!=<>]= | && | \|\| | \*\* | [-+*/%<>!=()\[\],{}]
  | \$meta(?![A-Za-z0-9_])
"""
# What is no token takes the rest of the text with it. Going on behind it would read an unfinished string of n quotes
# n times.
_TOKEN = re.compile(rf"[ \t\r\n]*+({_GOOD}|[\s\S]++)", re.VERBOSE)
_ONE = re.compile(_GOOD, re.VERBOSE)

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*+")
DECIMAL = re.compile(r"(?:0|[1-9][0-9]{0,18})")
INTEGERS = re.compile(r"(?:(?:0|[1-9][0-9]{0,17})(?:,|\Z))++")
"""Many of them, comma behind comma, each of at most 18 digits."""

_HEXADECIMAL = re.compile(r"0[xX]0*+[0-9a-fA-F]{0,16}")
_FLOAT = re.compile(r"[0-9.]++(?:[eE][+-]?[0-9]{1,4})?")

_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([\s\S]))")
_ESCAPED = {"\\": "\\", '"': '"', "'": "'", "n": "\n", "r": "\r", "t": "\t"}
_UNLIKE = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\ud800-\udfff]")

WORDS = frozenset({"and", "or", "not", "in", "like", "is", "null", "exists", "true", "false"})
"""Never a field, in no mixture of cases: milvus-lite 3.2.2 reads `And` as `and`, the others as a name."""

FUNCTIONS = frozenset(
    f"{kind}_contains{which}" for kind in ("json", "array") for which in ("", "_all", "_any")
) | frozenset({"array_length", "text_match", "phrase_match"})


class FilterError(BadRequestError):
    """A filter that was not understood whole, or that asks for what is not the client's.

    `position` counts characters from 0; it is None where no single place is at fault. The message never repeats more of
    the client's text than an operator, a keyword, or the kind of a token.
    """

    def __init__(self, message: str, *, position: int | None = None) -> None:
        where = "" if position is None else f" at position {position}"
        super().__init__("invalid_filter", f"The filter cannot be used{where}: {message}", param="filter")
        self.position = position


def tokens_of(text: str) -> list[str]:
    """Return the tokens, END last. Takes time in proportion to the text's length."""
    if len(text) > MAX_CHARACTERS:
        raise FilterError(f"it has {len(text)} characters, {MAX_CHARACTERS} are the most.")
    stripped = text.rstrip(_BLANK)
    found: list[str] = _TOKEN.findall(stripped)
    if len(found) > MAX_TOKENS:
        raise FilterError(f"it has more than {MAX_TOKENS} words, numbers and signs.")
    if found and _ONE.fullmatch(found[-1]) is None:
        raise FilterError(f"found {_kind_of_bad(found[-1][0])}.", position=len(stripped) - len(found[-1]))
    found.append(END)
    return found


def position_of(text: str, index: int) -> int:
    """Return where the token with this index begins; needed for errors only, so it is not kept while reading."""
    match = next(islice(_TOKEN.finditer(text.rstrip(_BLANK)), index, None), None)
    return len(text) if match is None else match.start(1)


def kind_of(token: str) -> str:
    """Return what may be told about a token."""
    if token == END:
        return "the end"
    if token[0] in "\"'":
        return "a string"
    if token[0].isdigit() or (token[0] == "." and len(token) > 1):
        return "a number"
    if NAME.fullmatch(token) is None:
        return f"`{token}`"
    return f"`{token.lower()}`" if token.lower() in WORDS else "a name"


def _kind_of_bad(character: str) -> str:
    if character in "\"'":
        return "a string without its closing quote"
    if character in "&|~^":
        return f"`{character}`; operators on bits are not supported (write `and`, `or`, `not`)"
    if "!" <= character <= "~":
        return f"`{character}`, which is no part of a filter"
    return "a control character" if character < " " or character == "\x7f" else "a character outside of ASCII, unquoted"


def number_of(token: str) -> int | float:
    """Return a number's value. Integers are those of 64 bits with a sign; octal ones are refused: 010 is 8 or 10."""
    if DECIMAL.fullmatch(token) is not None:
        value = int(token)
    elif token[:2] in {"0x", "0X"}:
        if _HEXADECIMAL.fullmatch(token) is None:
            raise ValueError("an integer is at most 9223372036854775807")
        value = int(token, 16)
    elif token.isdigit():
        if token[0] == "0":
            raise ValueError("write integers without leading zeros: engines disagree about them")
        raise ValueError("an integer is at most 9223372036854775807")
    else:
        return _float_of(token)
    if value > MAX_INTEGER:
        raise ValueError("an integer is at most 9223372036854775807")
    return value


def _float_of(token: str) -> float:
    value = float(token) if _FLOAT.fullmatch(token) is not None else float("inf")
    if value == float("inf"):
        raise ValueError("a number is at most about 1.8e308")
    return value


def string_of(token: str) -> str:
    """Return a quoted string's value."""
    inner = token[1:-1]
    return _ESCAPE.sub(_character, inner) if "\\" in inner else inner


def _character(escape: re.Match[str]) -> str:
    four, eight, one = escape.groups()
    if one is not None:
        character = _ESCAPED.get(one)
        if character is None:
            raise ValueError(r"escapes are \\ \" \' \n \r \t, \u with four and \U with eight hexadecimal digits")
        return character
    code = int(four or eight, 16)
    if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
        raise ValueError("an escape names no character")
    return chr(code)


def quoted(value: str) -> str:
    """Return a string as all engines read it; raise ValueError if there is no such form."""
    if _UNLIKE.search(value) is not None:
        raise ValueError("engines do not read its control characters or surrogates alike")
    if "\\" in value or '"' in value:
        value = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{value}"'
