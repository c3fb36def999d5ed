"""Selection by several scores at once: the mean of the ranks by each, on scales that stay, explained for each sample."""

from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, text

from alchemist_core.cli.sample import ExplainConfig, explain
from alchemist_core.errors import ConfigError
from alchemist_core.selection.fusion import fuse_ranks, fused_quantile
from alchemist_core.store.eligible import forget_kept
from alchemist_core.store.raters import record_held_out
from alchemist_core.store.subsets import find_subset
from alchemist_core.subsets.ablation import members_without
from alchemist_core.subsets.selected import Selected, manifest_of, reselect
from tests.given import insert_rows
from tests.scored_nights import add_night
from tests.selectable_store import change, draw, fill, normal

pytestmark = pytest.mark.db

CRITIC, ECHO = 2, 3
FUSED: dict[str, Any] = {"rank_by": "rater+critic", "strategy": "top_k", "retention": 0.2}


@pytest.fixture
def store(engine: Engine) -> Engine:
    """Scores of a critic for three of four samples, and of a scorer that repeats the rater's."""
    fill(engine)
    with engine.begin() as connection:
        raters = [
            {"rater_id": number, "name": name, "kind": "scorer", "rule": "scorer"}
            for number, name in ((CRITIC, "critic"), (ECHO, "echo"))
        ]
        insert_rows(connection, {"raters": raters})
    add_scores(engine)
    return engine


def add_scores(engine: Engine) -> None:
    with engine.begin() as connection:
        for rater_id in (CRITIC, ECHO):
            connection.execute(text(f"SELECT alchemist.add_partition('scores', {rater_id})"))
        connection.execute(text(f"""
            INSERT INTO alchemist.scores (rater_id, sample_id, score)
            SELECT {CRITIC}, sample_id, sample_id * 37 % 101 FROM alchemist.samples WHERE sample_id % 4 <> 0
            UNION ALL SELECT {ECHO}, sample_id, score * 10 FROM alchemist.scores WHERE rater_id = 1
            ON CONFLICT DO NOTHING
        """))  # fmt: skip


def rater_name(engine: Engine) -> str:
    with engine.connect() as connection:
        return str(connection.execute(text("SELECT name FROM alchemist.raters WHERE rater_id = 1")).scalar())


def by_hand(engine: Engine) -> dict[bytes, float]:
    """1 − the mean of percent_rank() by each score, as Postgres computes it, of the samples that have both."""
    statement = text("""
        WITH ranked AS (
            SELECT rater_id, sample_id, percent_rank() OVER (PARTITION BY rater_id ORDER BY score DESC) AS rank
            FROM alchemist.scores WHERE rater_id IN (1, 2)
        )
        SELECT pair_hash, 1 - (one.rank + other.rank) / 2 FROM ranked AS one
        INNER JOIN ranked AS other ON one.sample_id = other.sample_id AND one.rater_id < other.rater_id
        INNER JOIN alchemist.samples ON samples.sample_id = one.sample_id
    """)
    with engine.connect() as connection:
        return {bytes(row[0]): row[1] for row in connection.execute(statement)}


def again(engine: Engine, version: int | None = None) -> Selected:
    forget_kept()
    return reselect(engine, find_subset(engine, "s", version=version))


def score_of(drawn: Selected) -> dict[bytes, float]:
    pairs = drawn.snapshot.pairs
    return dict(zip((row.tobytes() for row in pairs.pair_hash_N32), pairs.score_N.tolist(), strict=True))


def test_the_mean_of_the_ranks_selects_and_equals_what_postgres_computes(store: Engine) -> None:
    report = draw(**FUSED)
    assert (report.n_eligible, report.n_samples, report.n_removed) == (300, 60, {"unscored": 100})
    expected, drawn = by_hand(store), again(store)
    found = score_of(drawn)
    assert found.keys() == expected.keys()
    assert max(abs(found[pair] - expected[pair]) for pair in expected) < 1e-12
    best = sorted(expected.values(), reverse=True)[59]
    assert {row.tobytes() for row in drawn.snapshot.pairs.pair_hash_N32[drawn.member_K]} <= {
        pair for pair, score in expected.items() if score >= best - 1e-12
    }
    # A preview reads the same, and a repetition is the stored version.
    assert draw(**FUSED, dry_run=True).manifest_sha256 == report.manifest_sha256
    assert draw(**FUSED).is_new is False
    assert manifest_of(drawn).sha256() == report.manifest_sha256
    assert draw(**FUSED | {"rank_by": "critic+rater"}, name="t").manifest_sha256 == report.manifest_sha256


@pytest.mark.slow
def test_old_samples_keep_their_scores_when_a_night_arrives_until_a_rescale(store: Engine) -> None:
    draw(**FUSED)
    before = score_of(again(store))
    add_night(
        store,
        "2026-01-05",
        {"b.tar": [score + 2 for score in normal(np.random.default_rng(5), 80)]},
        state="selectable",
    )
    add_scores(store)
    # Another selection fits a new scale for one of the signals: the fusion keeps its own.
    draw(0.2, rescale=True, name="alone", dedup="exact")
    grown = draw(**FUSED)
    after = score_of(again(store))
    assert grown.n_eligible > len(before) - 100
    assert {pair: after[pair] for pair in before} == before
    # Now two snapshots have these scales.
    assert draw(**FUSED, dry_run=True).manifest_sha256 == grown.manifest_sha256
    rescaled = draw(**FUSED, rescale=True)
    assert rescaled.manifest_sha256 != grown.manifest_sha256
    assert score_of(again(store)) != after


@pytest.mark.parametrize("other", ["critic", "old_loss"])
def test_each_score_is_explained_for_a_sample_and_for_the_whole_selection(store: Engine, other: str) -> None:
    if other == "old_loss":
        change(store, f"UPDATE alchemist.raters SET name = 'old-loss', kind = 'trained' WHERE rater_id = {CRITIC}")
    report = draw(**FUSED | {"rank_by": f"rater+{other}"})
    drawn = again(store)
    pairs = drawn.snapshot.pairs
    assert pairs.signal_N is not None
    place = int(drawn.member_K[0])
    found = explain(ExplainConfig(sample=pairs.pair_hash_N32[place].tobytes().hex(), subset="s"))
    assert found.signal_ranks == dict(zip(("rater", other), pairs.signal_N[place].tolist(), strict=True))
    assert "(rater 0." in found.because
    assert pairs.score_N[place] == fuse_ranks(pairs.signal_N[place : place + 1])[0]
    statement = text("SELECT signal, rank FROM alchemist.signal_ranks(:snapshot, :sample)")
    with store.connect() as connection:
        rows = connection.execute(statement, {"snapshot": drawn.snapshot.snapshot_id, "sample": found.sample_id}).all()
    assert {row.signal: row.rank for row in rows} == found.signal_ranks
    assert report.fused is not None
    assert report.fused.startswith(f"Mean of the ranks by rater and {other}. Of the members, ")


def test_auto_accepts_a_fused_score_by_what_held_out_validation_samples_get(store: Engine) -> None:
    with pytest.raises(
        ConfigError,
        match=r"r \(rule alignment\) was not measured on held-out validation samples.*alchemist train-rater",
    ):
        draw(**FUSED, accept="auto")
    # Good samples: above the middle by the rater, the upper quarter by the critic.
    record_held_out(store, [rater_name(store)], np.linspace(0, 3, 101).tolist())
    with pytest.raises(ConfigError, match="critic was not measured on held-out validation samples"):
        draw(**FUSED, accept="auto")
    record_held_out(store, ["critic"], np.linspace(75, 100, 101).tolist())
    found = draw(**FUSED | {"retention": "auto"}, accept_loss=0.1)
    assert found.accepted is not None
    assert (
        "10.0% of the validation samples that trained nothing have a lower fused score, if rater and critic err"
        in found.accepted
    )
    drawn = again(store)
    assert drawn.policy.min_score == fused_quantile(
        [
            scale.rank(np.linspace(*ends, 101))
            for scale, ends in zip(drawn.snapshot.signal_scales, ((0, 3), (75, 100)), strict=True)
        ],
        0.1,
    )
    assert found.n_samples == sum(score >= drawn.policy.min_score for score in score_of(drawn).values())
    assert 0 < found.n_samples < 100
    # A score alone is accepted by its own quantile.
    alone = draw("auto", name="alone", rank_by="critic", strategy="top_k", accept_loss=0.2)
    assert alone.accepted is not None
    assert (
        "a score of at least 80: 20.0% of the validation samples that trained nothing have a lower score"
        in alone.accepted
    )


@pytest.mark.slow
def test_leaving_out_a_score_that_repeats_another_one_changes_nothing(store: Engine) -> None:
    draw(**FUSED | {"rank_by": "rater+echo", "retention": 0.25})
    assert members_without(again(store)) == {"rater": 1.0, "echo": 1.0}
    draw(**FUSED)
    stays = members_without(again(store))
    assert all(0.2 < share < 0.9 for share in stays.values())


def test_what_each_score_decides_is_told_where_accepted_samples_are_repeated(store: Engine) -> None:
    draw(**FUSED | {"retention": 0.5, "min_score": 0.6, "fill": "repeat"})
    stays = members_without(again(store))
    assert stays.keys() == {"rater", "critic"}
    assert all(0.2 < share < 1 for share in stays.values())


def test_a_score_that_is_equal_for_all_samples_fails_no_selection_that_excludes_the_highest_ranks(
    store: Engine,
) -> None:
    with store.begin() as connection:
        connection.execute(text(f"UPDATE alchemist.scores SET score = 1 WHERE rater_id = {CRITIC}"))
    found = draw(**FUSED | {"strategy": "shift_gsample"})
    assert (found.version, found.fused is not None) == (1, True)
    # Without the rater's score all samples have the highest rank.
    assert members_without(again(store))["rater"] == 0


def test_a_preview_of_a_fusion_follows_the_scores_of_its_rater(store: Engine) -> None:
    flush = "SELECT pg_stat_force_next_flush()"
    with store.begin() as connection:
        connection.execute(
            text("CREATE TABLE taken AS SELECT * FROM alchemist.scores WHERE rater_id = 1 AND sample_id % 10 = 1")
        )
        connection.execute(text("DELETE FROM alchemist.scores WHERE rater_id = 1 AND sample_id % 10 = 1"))
        connection.execute(text(flush))
    draw(**FUSED)
    before = draw(**FUSED, dry_run=True).n_eligible
    with store.begin() as connection:
        connection.execute(text("INSERT INTO alchemist.scores SELECT * FROM taken"))
        connection.execute(text(flush))
    assert draw(**FUSED, dry_run=True).n_eligible > before


@pytest.mark.parametrize(
    ("rank_by", "message"),
    [
        ("rater+nobody", "--rank-by nobody: there is no score"),
        ("critic+critic", "names one score twice"),
        ("rater+", "rank_by"),
    ],
)
def test_a_wrong_fusion_is_refused(store: Engine, rank_by: str, message: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=message):
        draw(**FUSED | {"rank_by": rank_by})


def test_sql_refuses_to_select_from_a_fused_snapshot(store: Engine) -> None:
    draw(**FUSED)
    snapshot_id = find_subset(store, "s").snapshot_id
    statement = text("SELECT * FROM alchemist.shift_gsample(snapshot => :id, retention => 0.2)")
    with store.connect() as connection, pytest.raises(Exception, match="fuses several scores"):
        connection.execute(statement, {"id": snapshot_id})
