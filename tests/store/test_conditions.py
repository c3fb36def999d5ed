"""A condition means what Postgres means by the same text; other SQL is refused, and the message marks the mistake."""

import contextlib
from datetime import date

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Date, Double, Integer, LargeBinary, String, column, select, text, values
from sqlalchemy.dialects import postgresql

from alchemist_core.errors import ConfigError
from alchemist_core.store.conditions import compile_condition

KINDS = {
    "score": float, "caption": str, "width": int, "height": int, "format": str, "licence": str, "crawl_date": date,
    "image_hash": bytes, "is_taken_down": bool,
}  # fmt: skip
COLUMNS = {name: column(name) for name in KINDS}
ROWS = [
    (1, 0.5, "a cat", 640, 480, "JPEG", None, date(2026, 1, 1), b"\x01", True),
    (2, 1.5, "A Cat's hat", 65535, 65535, "PNG", "CC0", date(2026, 1, 2), b"\x02", False),
    (3, -2.0, "", 100, 0, "PNG", "", date(2026, 2, 1), b"\x03", False),
    (4, None, "100% café", 3, 9, "GIF", "it's", date(2026, 2, 1), b"\xff", True),
]
TABLE = values(
    column("id", Integer), column("score", Double), column("caption", String), column("width", Integer), column("height", Integer),
    column("format", String), column("licence", String), column("crawl_date", Date), column("image_hash", LargeBinary),
    column("is_taken_down"), name="rows",
).data(ROWS)  # fmt: skip


def kept(connection: Connection, where: str) -> list[int]:
    condition = compile_condition(where, KINDS, TABLE.c)
    return list(connection.execute(select(TABLE.c.id).where(condition).order_by(TABLE.c.id)).scalars())


def kept_by_postgres(connection: Connection, where: str) -> list[int]:
    """The result of Postgres for the text itself; only a test may run it."""
    condition = text(where.replace(":", r"\:"))
    return list(connection.execute(select(TABLE.c.id).where(condition).order_by(TABLE.c.id)).scalars())


NUMBERS = st.sampled_from(
    ["score", "width", "height", "0.5", "-2", "640", "1e3", "length(caption)", "abs(score)", ".25"]
)
SUMS = st.recursive(
    NUMBERS,
    lambda inner: st.one_of(
        # Not of two integers: Postgres divides them without a remainder, and here they are real numbers.
        st.builds("({} {} {}::float8)".format, inner, st.sampled_from("+-*"), inner),
        st.builds("least({}, {})".format, inner, inner),
        st.builds("greatest({}, {})".format, inner, inner),
        st.builds("coalesce({}, 0.0)".format, inner),
        st.builds("-{}".format, st.sampled_from(["score", "(width)"])),
    ),
    max_leaves=4,
)
MEASURES = st.sampled_from(
    ["score", "width", "height", "length(caption)", "abs(score)", "(score * width)", "least(width, score)"]
)
NAMES = st.sampled_from(["caption", "format", "licence", "lower(caption)", "coalesce(licence, '')"])
TEXTS = st.sampled_from(
    ["caption", "format", "licence", "'a cat'", "'A Cat''s hat'", "lower(caption)", "coalesce(licence, '')"]
)
TESTS = st.one_of(
    st.builds("{} {} {}".format, MEASURES, st.sampled_from(["=", "<>", "!=", "<", "<=", ">", ">="]), SUMS),
    st.builds("{} {} {}".format, NAMES, st.sampled_from(["=", "<>", "<", ">="]), TEXTS),
    st.builds("{} {}between {} and {}".format, MEASURES, st.sampled_from(["", "not "]), SUMS, SUMS),
    st.builds(
        "caption {}{} '{}'".format,
        st.sampled_from(["", "not "]),
        st.sampled_from(["like", "ilike"]),
        st.sampled_from(["%cat%", "a%", "100\\%%", "_ cat"]),
    ),
    st.builds("width {}in ({}, 640, 3)".format, st.sampled_from(["", "not "]), st.sampled_from(["1", "-5"])),
    st.builds(
        "{} is {}null".format, st.sampled_from(["licence", "score", "score + width"]), st.sampled_from(["", "not "])
    ),
    st.builds("crawl_date {} '2026-01-02'".format, st.sampled_from(["<", "=", ">="])),
    st.sampled_from(["is_taken_down", "is_taken_down = false", "image_hash = '\\x02'"]),
)
CONDITIONS = st.recursive(
    TESTS,
    lambda inner: st.one_of(
        st.builds("{} and {}".format, inner, inner), st.builds("{} or {}".format, inner, inner),
        st.builds("not {}".format, inner), st.builds("({})".format, inner),
    ),
    max_leaves=5,
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(CONDITIONS)
@pytest.mark.db
def test_a_condition_keeps_what_postgres_keeps_by_the_same_text(connection: Connection, where: str) -> None:
    # The test adds the cast, because Postgres would calculate with integers; bytes are hex digits without \x here.
    ours = where.replace("::float8", "").replace("'\\x02'", "'02'")
    assert kept(connection, ours) == kept_by_postgres(connection, where)


@pytest.mark.db
@pytest.mark.parametrize(
    ("where", "wanted"),
    [
        ("width * height >= 1000000", [2]),
        ("width * height between 300000 and 400000", [1]),
        ("greatest(width, height) / least(width, height) <= 1.5", [1, 2]),
        ("width / height > 1.3 and width / height < 1.4", [1]),
        ("height / width > 2.9", [4]),
        ("caption ilike 'a cat%'", [1, 2]),
        ("length(caption) between 1 and 5", [1]),
        ("abs(score) >= 1.5", [2, 3]),
        ("coalesce(licence, 'none') <> 'none'", [2, 3, 4]),
        ("score not between -3 and 1", [2]),
        ("not (format in ('PNG', 'GIF') or score is null)", [1]),
    ],
)
def test_conditions_can_use_megapixels_aspect_ratio_and_lengths(
    connection: Connection, where: str, wanted: list[int]
) -> None:
    assert kept(connection, where) == wanted


def test_and_binds_closer_than_or_and_not_closest() -> None:
    found = compile_condition("not score = 1 and width = 2 or height = 3", KINDS, COLUMNS)
    assert str(found) == "score != :param_1 AND width = :param_2 OR height = :param_3"


@given(st.text(max_size=30))
@example("0E")
@example("score < 0E")
def test_any_text_is_a_condition_or_is_refused_with_its_place(given_text: str) -> None:
    with contextlib.suppress(ConfigError):
        compile_condition(given_text, KINDS, COLUMNS)
        return
    with pytest.raises(ConfigError, match=r"\^"):
        compile_condition(given_text, KINDS, COLUMNS)


PIECES = [
    *(
        "score",
        "caption",
        "width",
        "'x'",
        "1",
        ".5",
        "-",
        "(",
        ")",
        ",",
        "and",
        "or",
        "not",
        "in",
        "like",
        "is",
        "null",
        "between",
    ),
    *(
        "=",
        "<",
        ">",
        "<=",
        "*",
        "/",
        "abs(",
        "select",
        ";",
        "--",
        "::int",
        "$1",
        "x'ff'",
        "E'a'",
        '"q"',
        "case",
        "over",
        "[1]",
        "^",
    ),
]


@given(st.lists(st.sampled_from(PIECES), max_size=12))
@example(["width", ">", "$1"])
@example(["width", "[1]", ">", "1"])
def test_any_order_of_sql_is_a_condition_of_bound_values_or_is_refused(pieces: list[str]) -> None:
    with contextlib.suppress(ConfigError):
        found = compile_condition(" ".join(pieces), KINDS, COLUMNS)
        sql = str(found.compile(dialect=postgresql.dialect()))  # type: ignore[no-untyped-call]
        # Values are parameters; of the text only columns, operators and functions are left.
        assert [sign for sign in ("'", '"', ";", "$", "--", "[", "^") if sign in sql] == []
        assert "select" not in sql.lower()


@pytest.mark.parametrize(
    ("where", "place", "message"),
    [
        ("score > > 1", 9, "expected a column or a value, found '>'"),
        ("score 1", 7, "expected an operator, and, or or the end, found '1'"),
        ("score > 1 caption = 'x'", 11, "expected an operator, and, or or the end, found 'caption'"),
        ("score in 1", 10, "expected '(', found '1'"),
        ("(score > 1", 11, "expected ')', found the end"),
        ("caption = 'a cat", 11, "the closing quote is missing"),
        ("score > 1; drop table scores", 10, "unexpected ';'"),
        ("caption like 5", 14, "like requires a text in single quotes"),
        ("and score > 1", 1, "expected a column or a value, found 'and'"),
        ("", 1, "expected a column or a value, found the end"),
        ("score > 1x", 10, "expected an operator, and, or or the end, found 'x'"),
        ("score >", 8, "expected a column or a value, found the end"),
        ("width + caption > 1", 9, "expected a number, found a text"),
        ("width * 2", 1, "expected a condition, found a number"),
        ("caption > 1", 11, "expected a text, found 1"),
        ("width in (1, 'x')", 14, "expected a whole number, found 'x'"),
        ("crawl_date > 'monday'", 14, "expected 'YYYY-MM-DD', found 'monday'"),
        ("pg_sleep(9) = 1", 1, "'PG_SLEEP(9)' is not allowed"),
        ("score > 1 -- all", 9, "unexpected '1'"),
        ("a = 1", 1, "there is no column 'a'"),
        ('"score" > 1', 1, "unexpected '\"score\"'"),
    ],
)
def test_a_mistake_is_shown_at_its_place(where: str, place: int, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        compile_condition(where, KINDS, COLUMNS)
    lines = str(refused.value).splitlines()
    assert lines[0].startswith(f"--where: {message}")
    assert lines[0].endswith(f"(character {place}).")
    assert lines[2].index("^") == place + 1


HOSTILE = (
    *(
        "(select 1) = 1",
        "score = (select max(score) from alchemist.scores)",
        "exists (select 1)",
        "score in (select 1)",
    ),
    *("score = any(array[1])", "score::text = '1'", "cast(score as text) = '1'", "caption ~ 'x'", "caption = $$x$$"),
    *(
        "caption = E'\\x41'",
        "caption = $1",
        "score = 1 union select 1",
        "score = 1 limit 1",
        "score = 1 /* x */",
        "score = :p",
    ),
    *("score = ?", "alchemist.score = 1", "* = 1", "case when score = 1 then score end = 1", "abs(score) over () = 1"),
    *("abs(score) filter (where score > 1) = 1", "coalesce(distinct score) = 1", "least(score order by width) = 1"),
    *("score between symmetric 2 and 1", "caption like 'a' escape 'b'", "current_user = 'x'", "now() > '2026-01-01'"),
    *(
        "(score, width) = (1, 2)",
        "score is distinct from 1",
        "caption || 'x' = 'y'",
        "width % 2 = 0",
        "1 = 1",
        "version() = 'x'",
    ),
    *("length(caption, caption) = 1", "caption = N'x'", "width = 0x10", "width = 1_0", "score = null", "score is 5"),
    *("true is null is null = 1", "caption = 'a' or 1 = 1 --", "sample_id in ()", "caption like", "score = . 5"),
)


@pytest.mark.parametrize("where", HOSTILE)
def test_whatever_is_not_listed_is_refused(where: str) -> None:
    with pytest.raises(ConfigError, match=r"\^"):
        compile_condition(where, KINDS, COLUMNS)


@pytest.mark.parametrize(
    "where",
    [
        "(" * 5_000 + "score = 1", "not " * 2_000 + "score = 1", "score = 1 or " * 5_000, "(" * 49 + "score = 1" + ")" * 49 + ")",
        "score > " + "1 + " * 2_000 + "1", "score > " + "- " * 3_000 + "1", "abs(" * 40 + "score" + ")" * 40 + " > 1" + " = true" * 500,
    ],
)  # fmt: skip
def test_a_monstrous_condition_is_refused_and_breaks_nothing(where: str) -> None:
    with pytest.raises(ConfigError):
        compile_condition(where, KINDS, COLUMNS)


def test_a_long_list_of_alternatives_is_accepted() -> None:
    where = (
        " or ".join(f"width = {n}" for n in range(500))
        + " and caption in ("
        + ", ".join(f"'{n}'" for n in range(300))
        + ")"
    )
    assert compile_condition(where, KINDS, COLUMNS) is not None
