"""A small language for conditions, from text to a tree: comparisons, `in`, `like`, `is null`, `and`, `or`, `not`, parentheses.

    score > 1.5 and (dataset = 'web' or caption like '%cat%') and not width in (64, 128)

Values never become SQL text: the tree holds them as Python values, and `store/export.py` binds them. Knows no columns.
"""

import re
from dataclasses import dataclass
from typing import Any, NoReturn

from alchemist_core.errors import ConfigError

MAX_CHARS, MAX_DEPTH = 10_000, 50
COMPARISONS = ("<=", ">=", "<>", "!=", "=", "<", ">")
TOKEN = re.compile(
    r"\s*(?:(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?![A-Za-z_])|(?P<text>'(?:[^']|'')*')"
    r"|(?P<word>[A-Za-z_][A-Za-z0-9_]*)|(?P<sign><=|>=|<>|!=|[=<>(),])|(?P<end>$)|(?P<bad>.))",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Compare:
    """A column against values: `op` is a comparison, `in`, `like` or `is null`; `at` is where it stands in the text."""

    column: str
    op: str
    values: tuple[Any, ...]
    at: int


@dataclass(frozen=True, slots=True)
class Not:
    """What must not hold."""

    part: "Condition"


@dataclass(frozen=True, slots=True)
class Group:
    """Several conditions under `and` or `or`."""

    word: str
    parts: "tuple[Condition, ...]"


Condition = Compare | Not | Group


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of the text, and where it begins."""

    kind: str
    text: str
    at: int

    def __str__(self) -> str:
        """Return it as an error names it."""
        return repr(self.text) if self.text else "the end"


def refuse(text: str, at: int, message: str) -> NoReturn:
    """Refuse a condition, with a mark under the place.

    Raises:
        ConfigError: Always.
    """
    raise ConfigError(f"--where: {message} (character {at + 1}).\n  {text}\n  {' ' * at}^")


def parse_condition(text: str) -> Condition:
    """Parse a condition.

    >>> parse_condition("score > 1 and caption like '%cat%'").word
    'and'

    Raises:
        ConfigError: If it is no condition; the text shows where.
    """
    if len(text) > MAX_CHARS:
        raise ConfigError(f"--where: {len(text):,} characters; the limit is {MAX_CHARS:,}.")
    parser = _Parser(text)
    condition = parser.alternatives(0)
    if parser.token.kind != "end":
        refuse(text, parser.token.at, f"expected and, or or the end, found {parser.token.text!r}")
    return condition


def _tokens(text: str) -> list[Token]:
    found: list[Token] = []
    at = 0
    while not found or found[-1].kind != "end":
        match = TOKEN.match(text, at)
        assert match is not None
        assert match.lastgroup is not None
        token = Token(match.lastgroup, match[match.lastgroup], match.start(match.lastgroup))
        if token.kind == "bad":
            what = "a text without its closing quote" if token.text == "'" else f"unexpected {token.text!r}"
            refuse(text, token.at, what)
        found.append(token)
        at = match.end()
    return found


class _Parser:
    """Descends through the tokens; one method a rule of the grammar."""

    def __init__(self, text: str) -> None:
        self.text, self._tokens, self._next = text, _tokens(text), 0

    @property
    def token(self) -> Token:
        return self._tokens[self._next]

    def take(self, *words: str) -> bool:
        """Step over the token if it is one of these signs or words."""
        is_there = self.token.kind in ("word", "sign") and self.token.text.lower() in words
        self._next += is_there
        return is_there

    def require(self, sign: str) -> None:
        if not self.take(sign):
            refuse(self.text, self.token.at, f"expected {sign!r}, found {self.token}")

    def alternatives(self, depth: int) -> Condition:
        if depth > MAX_DEPTH:
            refuse(self.text, self.token.at, f"nested deeper than {MAX_DEPTH}")
        return self._joined("or", lambda: self._joined("and", lambda: self._negated(depth)))

    def _joined(self, word: str, part: Any) -> Condition:
        parts = [part()]
        while self.take(word):
            parts.append(part())
        return parts[0] if len(parts) == 1 else Group(word, tuple(parts))

    def _negated(self, depth: int) -> Condition:
        if depth > MAX_DEPTH:
            refuse(self.text, self.token.at, f"nested deeper than {MAX_DEPTH}")
        if self.take("not"):
            return Not(self._negated(depth + 1))
        if self.take("("):
            inside = self.alternatives(depth + 1)
            self.require(")")
            return inside
        return self._comparison()

    def _comparison(self) -> Condition:
        column = self.token
        if column.kind != "word" or column.text.lower() in ("and", "or", "in", "like", "is", "null"):
            refuse(self.text, column.at, f"expected a column, found {column}")
        self._next += 1
        if self.take("is"):
            is_negated = self.take("not")
            self.require("null")
            found: Condition = Compare(column.text.lower(), "is null", (), column.at)
            return Not(found) if is_negated else found
        if self.take("not"):
            return Not(self._membership(column))
        if self.token.text.lower() in ("in", "like"):
            return self._membership(column)
        sign = self.token.text
        if not self.take(*COMPARISONS):
            refuse(self.text, self.token.at, f"expected a comparison, in, like or is, found {self.token}")
        return Compare(column.text.lower(), "<>" if sign == "!=" else sign, (self._value(),), column.at)

    def _membership(self, column: Token) -> Compare:
        if self.take("like"):
            if self.token.kind != "text":
                refuse(self.text, self.token.at, "like takes a text in single quotes")
            return Compare(column.text.lower(), "like", (self._value(),), column.at)
        if not self.take("in"):
            refuse(self.text, self.token.at, f"expected in or like, found {self.token}")
        self.require("(")
        values = [self._value()]
        while self.take(","):
            values.append(self._value())
        self.require(")")
        return Compare(column.text.lower(), "in", tuple(values), column.at)

    def _value(self) -> Any:
        token = self.token
        self._next += 1
        if token.kind == "text":
            return token.text[1:-1].replace("''", "'")
        if token.kind == "number":
            return float(token.text) if re.search(r"[.eE]", token.text) else int(token.text)
        if token.text.lower() in ("true", "false"):
            return token.text.lower() == "true"
        return refuse(self.text, token.at, f"expected a number or a text in single quotes, found {token}")
