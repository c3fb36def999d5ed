"""Conditions and --rank-by name the scores of scorers and imported scores; a sample without such a score has null there."""

import re
from typing import Any

import pytest
from sqlalchemy import Engine, text

from alchemist_core.errors import ConfigError, DataError
from alchemist_core.store.export import FILTER_COLUMNS, filter_rows, read_known, require_score_name
from alchemist_core.store.queries import load_query
from alchemist_core.store.registry import retire_shard
from alchemist_core.store.subsets import find_subset
from alchemist_core.subsets.selected import manifest_of, reselect
from tests.given import insert_rows
from tests.selectable_store import change, draw, fill, member_ids
from tests.sql.test_shift_gsample import PAPER, by_python, by_sql
from tests.stages.test_selection_options import ALL

pytestmark = pytest.mark.db

N_SAMPLES, CLIP, BOUGHT = 400, 2, 3
CONDITIONS = (
    "clip_score > 0.28 and width * height >= 64 * 64",
    "not clip_score > 0.28",
    "clip_score is null",
    "coalesce(clip_score, 1.0) > 0.28",
    "clip_score < 0.5 or bought > 150",
    "bought between 17 and 90 and sample_id > 20",
    "CLIP_SCORE > 0.9",
    "caption like '%clip_score%' or bought < 9",
)


@pytest.fixture
def store(engine: Engine) -> Engine:
    """Three of four samples have a score of the scorer clip_score, which is retired; the first 200 have imported scores."""
    fill(engine)
    with engine.begin() as connection:
        raters = [
            {"rater_id": CLIP, "name": "clip_score", "kind": "scorer", "rule": "scorer", "state": "retired"},
            {"rater_id": BOUGHT, "name": "bought", "kind": "imported", "rule": "imported"},
        ]
        insert_rows(connection, {"raters": raters})
        connection.execute(text(f"""
            SELECT alchemist.add_partition('scores', {CLIP}), alchemist.add_partition('scores', {BOUGHT});
            INSERT INTO alchemist.scores (rater_id, sample_id, score)
            SELECT {CLIP}, sample_id, sample_id % 64 / 64.0 FROM alchemist.samples WHERE sample_id % 4 <> 0
            UNION ALL
            SELECT {BOUGHT}, sample_id, sample_id FROM alchemist.samples WHERE sample_id <= 200
        """))  # fmt: skip
    return engine


def ids_of(engine: Engine, condition: str) -> set[int]:
    """The samples of a condition over clip_score, bought and the columns of samples, as Postgres understands it."""
    statement = text(f"""
        SELECT samples.sample_id FROM alchemist.samples
        LEFT JOIN (SELECT sample_id, score AS clip_score FROM alchemist.scores WHERE rater_id = {CLIP}) AS one USING (sample_id)
        LEFT JOIN (SELECT sample_id, score AS bought FROM alchemist.scores WHERE rater_id = {BOUGHT}) AS other USING (sample_id)
        WHERE {condition}
    """)
    with engine.connect() as connection:
        return set(connection.execute(statement).scalars())


def test_a_condition_means_what_postgres_means_with_null_where_a_sample_has_no_score(store: Engine) -> None:
    for number, condition in enumerate(CONDITIONS):
        expected = ids_of(store, condition)
        report = draw(where=condition, name=f"s{number}", **ALL)
        assert member_ids(store, f"s{number}") == expected, condition
        assert report.n_removed == {"predicate": N_SAMPLES - len(expected)}, condition


def test_a_selection_reports_how_many_samples_have_no_score_that_its_condition_names(store: Engine) -> None:
    warnings = draw(where="clip_score > 0.28 and bought > 1", **ALL).warnings
    assert "100 of 400 scored samples have no score clip_score: no comparison with it holds for them." in warnings
    assert "200 of 400 scored samples have no score bought: no comparison with it holds for them." in warnings
    assert not any("have no score" in warning for warning in draw(where="sample_id > 9", **ALL).warnings)


def test_the_score_of_a_scorer_ranks_the_samples_that_have_it_on_a_scale_of_its_own(store: Engine) -> None:
    draw(0.2)
    report = draw(0.2, rank_by="clip_score", strategy="auto", name="pretty")
    assert (report.strategy, report.n_eligible, report.n_removed) == ("top_k", 300, {"unscored": 100})
    best = ids_of(
        store, "clip_score >= (SELECT score FROM alchemist.scores WHERE rater_id = 2 ORDER BY 1 DESC OFFSET 59 LIMIT 1)"
    )
    assert member_ids(store, "pretty") <= best
    assert ids_of(store, "clip_score > 0.85") <= member_ids(store, "pretty")
    with store.connect() as connection:
        scales = connection.execute(text("SELECT score, rater_id FROM alchemist.rank_scales ORDER BY 1")).all()
    assert [tuple(scale) for scale in scales] == [("clip_score", 1), ("rater", 1)]


@pytest.mark.parametrize(
    ("rank_by", "n", "lack"),
    [
        ("clip_score", 100, "have no score clip_score"),
        ("rater+clip_score", 100, "have no score clip_score"),
        ("rater+clip_score+bought", 250, "lack at least one of the scores that rank (clip_score 100, bought 200)"),
    ],
)
def test_samples_that_drop_out_because_they_lack_a_score_that_ranks_are_told(
    store: Engine, rank_by: str, n: int, lack: str
) -> None:
    warning = (
        f"{n} samples {lack}, so they cannot be selected. Scores come from alchemist score (of a rater, or of a scorer by --scorer NAME), "
        "or alchemist import scores."
    )
    report = draw(0.2, rank_by=rank_by, strategy="top_k")
    assert report.n_removed == {"unscored": n}
    assert warning in report.warnings
    assert not any("cannot be selected" in other for other in draw(0.2).warnings)


@pytest.mark.parametrize("rank_by", ["bought", "rater+bought"])
def test_a_score_that_no_sample_has_is_named_with_what_gives_it(store: Engine, rank_by: str) -> None:
    change(store, f"DELETE FROM alchemist.scores WHERE rater_id = {BOUGHT}")
    named = (
        "Nothing is selectable: no sample of the published nights has the scores of --rank-by bought. Scores come from"
    )
    with pytest.raises(ConfigError, match=f"^{named} .* or alchemist import scores"):
        draw(0.2, rank_by=rank_by, strategy="top_k")


@pytest.mark.parametrize(
    ("rank_by", "remedy"),
    [
        ("imported.likes", "Numbers of the crawl come with alchemist ingest --imported-scores NAMES."),
        ("aesthetic", "Scores come from alchemist score-aesthetics."),
    ],
)
def test_what_only_an_ingest_gives_is_not_asked_of_a_scorer(store: Engine, rank_by: str, remedy: str) -> None:
    change(store, "UPDATE alchemist.heuristic_scores SET aesthetic = NULL, imported = '{}'")
    with pytest.raises(ConfigError, match=f"--rank-by {re.escape(rank_by)}. {re.escape(remedy)}"):
        draw(0.2, rank_by=rank_by, strategy="top_k")


def test_nights_whose_shards_were_all_retired_are_told_so(store: Engine) -> None:
    with store.begin() as connection:
        for shard_id in connection.execute(text("SELECT shard_id FROM alchemist.shards")).scalars().all():
            retire_shard(connection, shard_id, reason="gone")
    with pytest.raises(
        ConfigError, match="Nothing is selectable: of the published nights every sample was taken down, or its shard"
    ):
        draw(0.2)


@pytest.mark.parametrize("rank_by", ["rater", "rater+clip_score"])
def test_nights_whose_samples_were_all_taken_down_are_told_so(store: Engine, rank_by: str) -> None:
    change(
        store,
        "INSERT INTO alchemist.takedowns (image_hash, reason, requested_by) "
        "SELECT image_hash, 'rights', 'a' FROM alchemist.samples ON CONFLICT DO NOTHING",
    )
    with pytest.raises(ConfigError, match="Nothing is selectable: of the published nights every sample was taken down"):
        draw(0.2, rank_by=rank_by, strategy="top_k")


def test_a_condition_and_a_ranking_by_the_same_score_go_together(store: Engine) -> None:
    report = draw(0.5, where="clip_score <= 0.5", rank_by="clip_score", strategy="top_k")
    assert report.n_removed == {"predicate": len(ids_of(store, "clip_score > 0.5")), "unscored": 100}
    assert member_ids(store) <= ids_of(store, "clip_score <= 0.5 and clip_score > 0.2")


def test_sql_selects_the_members_of_python_by_a_scorers_score(store: Engine) -> None:
    snapshot_id, expected = by_python(store, rank_by="bought")
    with store.connect() as connection:
        assert by_sql(connection, snapshot_id, **PAPER) == expected


def test_sql_selects_the_members_of_python_by_another_raters_score(store: Engine) -> None:
    change(store, f"UPDATE alchemist.raters SET name = 'old-loss', kind = 'trained' WHERE rater_id = {CLIP}")
    snapshot_id, expected = by_python(store, rank_by="old_loss")
    with store.connect() as connection:
        assert by_sql(connection, snapshot_id, **PAPER) == expected


@pytest.mark.parametrize(
    "options", [{"where": "clip_score > 0.28"}, {"rank_by": "clip_score", "strategy": "top_k"}], ids=str
)
def test_a_stored_version_is_selected_again_until_a_scorer_scores_old_samples(
    store: Engine, options: dict[str, Any]
) -> None:
    first = draw(**options)
    again = draw(**options)
    assert (again.version, again.is_new) == (first.version, False)
    subset = find_subset(store, "s")
    assert manifest_of(reselect(store, subset)).sha256() == subset.manifest_sha256
    change(store, f"INSERT INTO alchemist.scores (rater_id, sample_id, score) VALUES ({CLIP}, 4, 0.99)")
    later = draw(**options)
    assert (later.version, later.is_new, later.n_eligible) == (2, True, first.n_eligible + 1)
    with pytest.raises(DataError, match="differ from those of snapshot"):
        # Its files are gone, as on another machine.
        reselect_without_files(store)


def reselect_without_files(engine: Engine) -> None:
    from alchemist_core.store.eligible import forget_kept

    forget_kept()
    reselect(engine, find_subset(engine, "s", version=1))


@pytest.mark.parametrize("option", ["where", "rank_by"])
def test_an_unknown_name_is_refused_with_the_known_ones(store: Engine, option: str) -> None:
    policy: dict[str, Any] = {option: {"where": "clip_scoer > 1", "rank_by": "clip_scoer"}[option]}
    with pytest.raises(ConfigError, match=r"there is no .*aesthetic.*clip_score, bought"):
        draw(**policy)


def test_a_score_is_named_by_its_rater_alone(store: Engine) -> None:
    draw(where="r > 0 or r <= 0")
    with pytest.raises(ConfigError, match="there is no column"):
        draw(where="score > 0")


HOSTILE = (
    'x"; DROP TABLE alchemist.samples; --', "x'); DELETE FROM alchemist.scores; --", "and", "null", "or", "width", "%s", ":name",
    "clip_score > 1 or true",
)  # fmt: skip


def test_a_hostile_name_of_a_rater_changes_no_condition(store: Engine) -> None:
    condition = "clip_score > 0.28 and width = 64 or bought is not null and caption <> 'x'"
    for number, name in enumerate(HOSTILE):
        change(store, "DELETE FROM alchemist.raters WHERE rater_id = 9")
        with store.begin() as connection:
            insert_rows(connection, {"raters": [{"rater_id": 9, "name": name, "kind": "imported"}]})
        expected = ids_of(store, condition)
        draw(where=condition, name=f"s{number}", **ALL)
        assert member_ids(store, f"s{number}") == expected, name
        if name not in FILTER_COLUMNS:
            with pytest.raises(ConfigError):
                draw(where=f"{name} > 0 and 1 = 1", name=f"s{number}", **ALL)


@pytest.mark.parametrize(
    "name", ["width", "rank", "score", "rater", "aesthetic", "and", "null", "in", "between", "true"]
)
def test_scores_are_not_named_by_a_column_or_a_word_of_sql(name: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot be named '{name}'"):
        require_score_name(name)


@pytest.mark.parametrize("name", ["clip_score", "abs", "length", "x", "vlm_quality", "imported"])
def test_any_other_name_can_name_scores(name: str) -> None:
    require_score_name(name)


def test_only_the_partitions_of_the_named_scores_are_read(store: Engine) -> None:
    span = {"after_sample_id": 0, "last_sample_id": 99}
    moment = {
        "rater_id": 1, "night_ids": [1], "last_takedown_id": 0, "last_compared_id": 0, "duplicates": "exact", "last_retirement_id": 0,
    }  # fmt: skip
    with store.connect() as connection:
        found = read_known(connection)
        known = found.scores
        statement = filter_rows("filterable_samples", FILTER_COLUMNS, "bought > 1", span, known=found)
        assert partitions_read(connection, statement, span) == {"scores_3"}
        query = load_query("candidate_samples")
        by_scorer = moment | span | {"score": "clip_score", "score_rater_id": known["clip_score"]}
        assert partitions_read(connection, query, by_scorer) == {"scores_1", "scores_2"}
        assert partitions_read(connection, query, by_scorer | {"score": "rater", "score_rater_id": None}) == {
            "scores_1"
        }


def partitions_read(connection: Any, statement: Any, parameters: dict[str, Any]) -> set[str]:
    compiled = statement.compile(connection)
    plan = connection.connection.cursor()
    plan.execute("EXPLAIN " + str(compiled), compiled.construct_params(parameters))
    words = {word for (line,) in plan.fetchall() for word in line.split()}
    return {word for word in words if word.startswith("scores_") and word.removeprefix("scores_").isdigit()}
