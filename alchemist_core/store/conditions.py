"""Conditions on samples: an SQL expression over known columns, parsed by sqlglot and rebuilt from a list of allowed nodes.

    score > 1.5 and (dataset = 'web' or caption ilike '%cat%') and width * height >= 1e6
    megapixels >= 1 and aspect_ratio between 0.5 and 2 and length(coalesce(licence, '')) between 1 and 20

The text itself never reaches the database: columns and functions are looked up by name, and values are bound parameters. Everything else is
refused, with a mark under its position. Division is in floating point; division by 0 gives null.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import date
from typing import Any, NamedTuple, NoReturn

import sqlglot
from sqlalchemy import ColumnElement, Double, and_, cast, func, literal, not_, or_
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.tokens import Token, TokenType  # type: ignore[attr-defined]  # re-exported here

from alchemist_core.errors import ConfigError
from alchemist_core.shards.faults import is_storable

MAX_CHARS, MAX_DEPTH = 10_000, 50
T = TokenType
VALUES = {T.VAR, T.NUMBER, T.STRING, T.NULL, T.TRUE, T.FALSE}
COMPARISONS: dict[type[exp.Expr], Callable[[Any, Any], Any]] = {
    exp.EQ: operator.eq, exp.NEQ: operator.ne, exp.LT: operator.lt, exp.LTE: operator.le, exp.GT: operator.gt,
    exp.GTE: operator.ge,
}  # fmt: skip
ARITHMETIC: dict[type[exp.Expr], Callable[[Any, Any], Any]] = {
    exp.Add: operator.add, exp.Sub: operator.sub, exp.Mul: operator.mul,
    exp.Div: lambda one, other: one / func.nullif(other, 0.0),
}  # fmt: skip
# A dot can begin a number such as .5.
PREFIXES = {T.NOT, T.L_PAREN, T.DASH, T.PLUS, T.DOT}
INFIXES = {
    T.EQ, T.NEQ, T.LT, T.LTE, T.GT, T.GTE, T.PLUS, T.DASH, T.STAR, T.SLASH, T.AND, T.OR, T.LIKE, T.ILIKE, T.BETWEEN, T.IS,
    T.COMMA, T.IN, T.NOT,
}  # fmt: skip
# What a column's name cannot change the meaning of, whatever it is.
NEVER_COLUMNS = {T.IDENTIFIER, T.STRING, *PREFIXES, *INFIXES}
WANTED: dict[type, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    date: "'YYYY-MM-DD'",
    bytes: "hex digits in quotes",
    bool: "true or false",
}
# Type of the arguments (None: any, but all equal), type of the result (None: that of the arguments), and the name in Postgres.
FUNCTIONS: dict[type[exp.Expr], tuple[type | None, type | None, str]] = {
    exp.Abs: (float, float, "abs"),
    exp.Least: (float, float, "least"),
    exp.Greatest: (float, float, "greatest"),
    exp.Length: (str, int, "length"),
    exp.Lower: (str, str, "lower"),
    exp.Upper: (str, str, "upper"),
    exp.Coalesce: (None, None, "coalesce"),
}
# Attributes of sqlglot's nodes, beside the operands, that do not change the meaning here.
NOTES = {"this", "expression", "expressions", "low", "high", "ignore_nulls", "typed", "safe", "is_string", "quoted"}


class Operand(NamedTuple):
    """A part of a condition: an expression and its type. `value` is set for a literal, whose type depends on the other operand."""

    element: ColumnElement[Any] | None
    kind: type
    at: int
    value: Any = None

    @property
    def is_number(self) -> bool:
        """Whether it is an integer or a float."""
        return self.kind in (int, float)


def refuse(text: str, at: int, message: str) -> NoReturn:
    """Refuse a condition, with a mark under the position.

    Raises:
        ConfigError: Always.
    """
    raise ConfigError(f"--where: {message} (character {at + 1}).\n  {text}\n  {' ' * at}^")


def compile_condition(text: str, kinds: Mapping[str, type[Any]], columns: Any) -> ColumnElement[bool]:
    """Return a condition as an expression over columns.

    Args:
        text: The condition.
        kinds: The allowed columns, with the types of their values.
        columns: The SQLAlchemy columns, by name.

    Raises:
        ConfigError: It is not a valid condition, or not an allowed one; the message shows the position.
    """
    if len(text) > MAX_CHARS:
        raise ConfigError(f"--where: {len(text):,} characters; the limit is {MAX_CHARS:,}.")
    _check_tokens(text, kinds)
    try:
        tree = sqlglot.parse_one(text, read="postgres", into=exp.Condition)
    except RecursionError:
        refuse(text, 0, f"nested deeper than {MAX_DEPTH}")
    except (SqlglotError, ValueError) as error:
        refuse(text, len(text), f"not a condition: {str(error).partition('.')[0].partition(' Line')[0]}")
    return _Compiler(text, kinds, columns).condition(tree)


def names_in(text: str) -> set[str]:
    """Return the words of a condition, in small letters: the names of its columns are among them.

    >>> sorted(names_in("clip_score > .5 and caption like '%width%'"))
    ['.', '5', '>', 'and', 'caption', 'clip_score', 'like']
    """
    return {token.text.lower() for token in _tokens(text) if token.token_type != T.STRING}


def _check_tokens(text: str, kinds: Mapping[str, type[Any]]) -> None:
    """Refuse invalid characters and words, and tokens in a wrong position: sqlglot's errors do not name the position."""
    wants_value, before, depth = True, None, 0
    for token in _tokens(text):
        is_column = token.text.lower() in kinds and token.token_type not in NEVER_COLUMNS
        kind = T.VAR if is_column else token.token_type
        depth += (kind == T.L_PAREN) - (kind == T.R_PAREN)
        if depth > MAX_DEPTH:
            refuse(text, token.start, f"nested deeper than {MAX_DEPTH}")
        if token.comments or kind not in {*VALUES, *PREFIXES, *INFIXES, T.R_PAREN} or _is_odd(text, token, kind):
            refuse(text, token.start, f"unexpected {text[token.start : token.end + 1]!r}")
        if before == T.IN and kind != T.L_PAREN:
            refuse(text, token.start, f"expected '(', found {text[token.start : token.end + 1]!r}")
        is_call = kind == T.L_PAREN and before in (T.VAR, T.IN)
        # After `not`, `is` or an operator comes a value, except in `x not in`, `x is not null` and `x in (`.
        is_part = (before, kind) in {
            (T.NOT, T.IN),
            (T.NOT, T.LIKE),
            (T.NOT, T.ILIKE),
            (T.NOT, T.BETWEEN),
            (T.IS, T.NOT),
        }
        if wants_value and not is_part and kind not in {*VALUES, *PREFIXES}:
            refuse(text, token.start, f"expected a column or a value, found {text[token.start : token.end + 1]!r}")
        if not wants_value and not is_call and kind not in {*INFIXES, T.R_PAREN}:
            refuse(
                text,
                token.start,
                f"expected an operator, and, or or the end, found {text[token.start : token.end + 1]!r}",
            )
        wants_value, before = kind not in {*VALUES, T.R_PAREN}, kind
    if wants_value or depth > 0:
        refuse(
            text,
            len(text),
            "expected a column or a value, found the end" if wants_value else "expected ')', found the end",
        )


def _tokens(text: str) -> Sequence[Token]:
    rest = text.replace("''", "  ")
    if rest.count("'") % 2:
        refuse(text, rest.rindex("'"), "the closing quote is missing")
    try:
        return sqlglot.tokenize(text, read="postgres")
    except SqlglotError:
        return refuse(text, 0, "not a condition")


def _is_odd(text: str, token: Token, kind: TokenType) -> bool:
    """Return whether it is a text without single quotes, such as $$x$$, or a dot that does not begin a number."""
    if kind == T.DOT:
        return not text[token.end + 1 : token.end + 2].isdigit()
    return kind == T.STRING and text[token.start] != "'"


class _Compiler:
    """Converts a sqlglot tree to a SQLAlchemy expression over known columns."""

    def __init__(self, text: str, kinds: Mapping[str, type[Any]], columns: Any) -> None:
        self._text, self._kinds, self._columns = text, kinds, columns

    def condition(self, tree: exp.Expr, depth: int = 0) -> ColumnElement[bool]:
        """Return the tree as a boolean expression."""
        found = self._build(tree, depth)
        if found.kind is not bool:
            self._refuse(tree, f"expected a condition, found {WANTED[found.kind]}")
        return self._bound(found, bool)

    def _build(self, node: exp.Expr, depth: int) -> Operand:
        if depth > MAX_DEPTH:
            self._refuse(node, f"nested deeper than {MAX_DEPTH}")
        if more := {name for name, value in node.args.items() if value} - NOTES - {"negate"}:
            self._refuse(node, f"{', '.join(sorted(more))} is not allowed here")
        found = self._part(node, depth + 1)
        if not node.args.get("negate"):
            return found
        assert found.element is not None
        return found._replace(element=not_(found.element))

    def _part(self, node: exp.Expr, depth: int) -> Operand:
        at, kind = self._place(node), type(node)
        if isinstance(node, exp.Paren):
            return self._build(node.this, depth)
        if isinstance(node, (exp.And, exp.Or)):
            parts = [self.condition(part, depth) for part in node.flatten()]
            return Operand(and_(*parts) if isinstance(node, exp.And) else or_(*parts), bool, at)
        if isinstance(node, exp.Not):
            return Operand(not_(self.condition(node.this, depth)), bool, at)
        if isinstance(node, exp.Column):
            return self._column(node)
        if isinstance(node, (exp.Literal, exp.Boolean, exp.Neg)):
            return self._value(node, depth)
        return self._call(node, depth) if kind in FUNCTIONS else self._operation(node, depth)

    def _operation(self, node: exp.Expr, depth: int) -> Operand:
        kind = type(node)
        if kind in COMPARISONS:
            one, other = (self._build(part, depth) for part in (node.this, node.expression))
            return self._compare(COMPARISONS[kind], node, one, other)
        if kind in ARITHMETIC:
            numbers = [self._number(part, depth) for part in (node.this, node.expression)]
            return Operand(ARITHMETIC[kind](*numbers), float, self._place(node))
        return self._test(node, depth)

    def _test(self, node: exp.Expr, depth: int) -> Operand:
        """Convert `between`, `in`, `like`, `ilike` and `is null`; refuse every other node."""
        at = self._place(node)
        if isinstance(node, exp.Between):
            tested, low, high = (self._build(part, depth) for part in (node.this, node.args["low"], node.args["high"]))
            ends = (self._compare(operator.ge, node, tested, low), self._compare(operator.le, node, tested, high))
            return Operand(and_(*(self._bound(end, bool) for end in ends)), bool, at)
        if isinstance(node, exp.In) and node.expressions:
            tested = self._build(node.this, depth)
            values = [self._compare(operator.eq, node, tested, self._build(part, depth)) for part in node.expressions]
            return Operand(or_(*(self._bound(value, bool) for value in values)), bool, at)
        if isinstance(node, (exp.Like, exp.ILike)):
            return self._like(node, depth)
        if isinstance(node, exp.Is) and isinstance(node.expression, exp.Null):
            tested = self._build(node.this, depth)
            return Operand(self._bound(tested, tested.kind).is_(None), bool, at)
        return self._refuse(node, f"{node.sql('postgres')[:40]!r} is not allowed: use comparisons, between, in, like, is null, + - * / "
                     f"and {', '.join(name for _, _, name in FUNCTIONS.values())}")  # fmt: skip

    def _like(self, node: exp.Like | exp.ILike, depth: int) -> Operand:
        tested, pattern = self._build(node.this, depth), self._build(node.expression, depth)
        if not isinstance(pattern.value, str):
            self._refuse(node.expression, "like requires a text in single quotes")
        if tested.kind is not str:
            self._refuse(node.this, f"like requires a text column; this column is compared with {WANTED[tested.kind]}")
        element, text = self._bound(tested, str), self._bound(pattern, str)
        return Operand(element.ilike(text) if isinstance(node, exp.ILike) else element.like(text), bool, tested.at)

    def _column(self, node: exp.Column) -> Operand:
        name, at = node.name.lower(), self._place(node)
        if name not in self._kinds:
            refuse(self._text, at, f"there is no column {name!r} (columns: {', '.join(self._kinds)})")
        return Operand(self._columns[name], self._kinds[name], at)

    def _value(self, node: exp.Expr, depth: int) -> Operand:
        at = self._place(node)
        if isinstance(node, exp.Boolean):
            return Operand(None, bool, at, value=bool(node.this))
        if isinstance(node, exp.Literal):
            value = node.this if node.is_string else _number(node.this)
            if value is None:
                self._refuse(node, f"{node.this!r} is not a number")
            return Operand(None, type(value), at, value=value)
        inner = self._build(node.this, depth)
        if inner.is_number and inner.value is not None:
            return inner._replace(value=-inner.value)
        return Operand(-self._number(node.this, depth), float, at)

    def _number(self, node: exp.Expr, depth: int) -> ColumnElement[float]:
        """Return an operand of arithmetic as a double, so that products of integers cannot overflow."""
        found = self._build(node, depth)
        if not found.is_number:
            self._refuse(node, f"expected a number, found {WANTED[found.kind]}")
        return cast(self._bound(found, float), Double)

    def _call(self, node: exp.Expr, depth: int) -> Operand:
        wanted, result, name = FUNCTIONS[type(node)]
        parts = [node.this, *node.expressions]
        if wanted is float:
            return Operand(
                getattr(func, name)(*(self._number(part, depth) for part in parts)), float, self._place(node)
            )
        found = [self._build(part, depth) for part in parts]
        kind = wanted or next((one.kind for one in found if one.element is not None), found[0].kind)
        if kind is int and any(one.kind is float for one in found):
            kind = float
        element = getattr(func, name)(*(self._bound(one, kind) for one in found))
        return Operand(element, result or kind, self._place(node))

    def _compare(self, compare: Callable[[Any, Any], Any], node: exp.Expr, one: Operand, other: Operand) -> Operand:
        kind = one.kind if one.element is not None or other.element is None else other.kind
        if one.element is None and other.element is None:
            self._refuse(node, "expected a column, found only values")
        if one.is_number and other.is_number:
            kind = int if (one.kind, other.kind) == (int, int) else float
        return Operand(compare(self._bound(one, kind), self._bound(other, kind)), bool, self._place(node))

    def _bound(self, operand: Operand, kind: type) -> ColumnElement[Any]:
        """Return an operand as an expression of a type; a literal becomes a bound value."""
        if operand.element is not None:
            if operand.kind is not kind and not (operand.is_number and kind in (int, float)):
                refuse(self._text, operand.at, f"expected {WANTED[kind]}, found {WANTED[operand.kind]}")
            return operand.element
        return (
            literal(self._converted(operand, kind), Double)
            if kind is float
            else literal(self._converted(operand, kind))
        )

    def _converted(self, operand: Operand, kind: type) -> Any:
        value, is_number = operand.value, operand.is_number
        try:
            if kind is float and is_number:
                return float(value)
            if kind is int and is_number and value == int(value):
                return int(value)
            if kind is date and isinstance(value, str):
                return date.fromisoformat(value)
            if kind is bytes and isinstance(value, str):
                return bytes.fromhex(value)
            if kind is str and isinstance(value, str) and is_storable(value):
                return value
            if kind is bool and isinstance(value, bool):
                return value
        except (ValueError, OverflowError):
            pass
        return refuse(self._text, operand.at, f"expected {WANTED[kind]}, found {value!r}")

    def _place(self, node: exp.Expr) -> int:
        return min((part.meta["start"] for part in node.walk() if "start" in part.meta), default=0)

    def _refuse(self, node: exp.Expr, message: str) -> NoReturn:
        refuse(self._text, self._place(node), message)


def _number(text: str) -> int | float | None:
    """Return the number, or None for what the SQL parser accepts as one and Python does not, such as 0E."""
    for read in (int, float):
        with suppress(ValueError):
            return read(text)
    return None
