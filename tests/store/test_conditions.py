"""The language of conditions: every tree has a text that parses to it, and a mistake is shown at its place."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alchemist_core.errors import ConfigError
from alchemist_core.store.conditions import Compare, Condition, Group, Not, parse_condition

COLUMNS = st.sampled_from(["score", "caption", "width"])
VALUES = st.one_of(
    st.integers(-(10**12), 10**12), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=8), st.booleans()
)
COMPARES = st.one_of(
    st.builds(
        lambda c, op, v: Compare(c, op, (v,), 0), COLUMNS, st.sampled_from(["=", "<>", "<", "<=", ">", ">="]), VALUES
    ),
    st.builds(lambda c, v: Compare(c, "in", tuple(v), 0), COLUMNS, st.lists(VALUES, min_size=1, max_size=3)),
    st.builds(lambda c, v: Compare(c, "like", (v,), 0), COLUMNS, st.text(max_size=8)),
    st.builds(lambda c: Compare(c, "is null", (), 0), COLUMNS),
)
TREES = st.recursive(
    COMPARES,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(
            lambda w, parts: Group(w, tuple(parts)),
            st.sampled_from(["and", "or"]),
            st.lists(inner, min_size=2, max_size=3),
        ),
    ),
    max_leaves=6,
)


def literal(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else repr(value)


def rendered(tree: Condition) -> str:
    if isinstance(tree, Not):
        return f"not ({rendered(tree.part)})"
    if isinstance(tree, Group):
        return f" {tree.word} ".join(f"({rendered(part)})" for part in tree.parts)
    if tree.op == "in":
        return f"{tree.column} in ({', '.join(map(literal, tree.values))})"
    return " ".join([tree.column, tree.op, *map(literal, tree.values)])


def without_places(tree: Condition) -> Condition:
    if isinstance(tree, Not):
        return Not(without_places(tree.part))
    if isinstance(tree, Group):
        return Group(tree.word, tuple(without_places(part) for part in tree.parts))
    return Compare(tree.column, tree.op, tree.values, 0)


@given(TREES)
def test_a_tree_is_what_its_text_parses_to(tree: Condition) -> None:
    assert without_places(parse_condition(rendered(tree))) == tree


def test_and_binds_closer_than_or_and_not_closest() -> None:
    found = without_places(parse_condition("not a = 1 and b = 2 or c = 3"))
    a, b, c = (Compare(name, "=", (value,), 0) for name, value in (("a", 1), ("b", 2), ("c", 3)))
    assert found == Group("or", (Group("and", (Not(a), b)), c))


@given(st.text(max_size=30))
def test_any_text_is_a_condition_or_is_refused_with_its_place(text: str) -> None:
    with contextlib.suppress(ConfigError):
        parse_condition(text)
        return
    with pytest.raises(ConfigError, match=r"\^"):
        parse_condition(text)


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("score > > 1", 9, "expected a number or a text in single quotes, found '>'"),
        ("score 1", 7, "expected a comparison, in, like or is, found '1'"),
        ("score > 1 caption = 'x'", 11, "expected and, or or the end, found 'caption'"),
        ("score in 1", 10, "expected '(', found '1'"),
        ("(score > 1", 11, "expected ')', found the end"),
        ("caption = 'a cat", 11, "a text without its closing quote"),
        ("score > 1; drop table scores", 10, "unexpected ';'"),
        ("caption like 5", 14, "like takes a text in single quotes"),
        ("and score > 1", 1, "expected a column, found 'and'"),
        ("", 1, "expected a column, found the end"),
        ("score > 1x", 9, "unexpected '1'"),
    ],
)
def test_a_mistake_is_shown_at_its_place(text: str, place: int, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_condition(text)
    lines = str(refused.value).splitlines()
    assert lines[0] == f"--where: {message} (character {place})."
    assert lines[2].index("^") == place + 1


@pytest.mark.parametrize("text", ["(" * 5_000 + "a = 1", "not " * 2_000 + "a = 1", "a = 1 or " * 5_000])
def test_a_monstrous_condition_is_refused_and_breaks_nothing(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_condition(text)
