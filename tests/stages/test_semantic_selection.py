"""Selections by embeddings: semantic duplicates are left out, and clusters are strata or capped, reproducibly."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, text

from alchemist_core.embeddings.reading import find_embedding_scorer
from alchemist_core.errors import ConfigError
from alchemist_core.experiments.arms import parse_arm
from alchemist_core.experiments.clusters import find_user_clusters
from alchemist_core.experiments.config import TrialsConfig
from alchemist_core.experiments.trial import Trial
from alchemist_core.selection.config import SelectionPolicy, hash_spec, policy_spec
from alchemist_core.selection.strategies import STRATEGIES
from alchemist_core.stages.select import SelectConfig
from alchemist_core.store import snapshots
from alchemist_core.store.eligible import forget_kept
from alchemist_core.store.samples import take_down
from alchemist_core.store.subsets import find_subset
from alchemist_core.subsets.selected import manifest_of, reselect
from tests.given import insert_rows
from tests.selectable_store import draw, fill, member_ids, set_duplicates

pytestmark = pytest.mark.db

ALL: dict[str, Any] = {"retention": 1.0, "strategy": "random"}
CLIP = 20
real_semantic = snapshots._semantic


@pytest.fixture
def store(engine: Engine) -> Engine:
    """400 samples of which the first 390 lie in 5 clusters; 5 of them are semantic duplicates of sample 10 or 30."""
    fill(engine)
    add_clusters(engine, CLIP, "clip")
    add_semantic(engine, [(11, 10, 0.99), (12, 10, 0.96), (13, 10, 0.91), (350, 30, 0.95), (31, 30, 0.92)])
    return engine


def add_clusters(engine: Engine, rater_id: int, name: str) -> None:
    scorer = {"rater_id": rater_id, "name": name, "kind": "scorer", "rule": "scorer", "config": {"name": name}}
    members = [
        {"rater_id": rater_id, "sample_id": number, "cluster": min(number % 7, 4), "block_id": 1}
        for number in range(1, 391)
    ]
    centroids = {"rater_id": rater_id, "n_clusters": 5, "threshold": 0.9, "last_block_id": 1}
    with engine.begin() as connection:
        insert_rows(connection, {"raters": [scorer], "cluster_centroids": [centroids], "clusters": members})


def add_semantic(engine: Engine, found: Sequence[tuple[int, int, float]], *, block_id: int = 1) -> None:
    rows = [
        {"rater_id": CLIP, "sample_id": later, "first_sample_id": first, "similarity": cosine, "block_id": block_id}
        for later, first, cosine in found
    ]
    with engine.begin() as connection:
        insert_rows(connection, {"semantic_duplicates": rows})
        connection.execute(text("UPDATE alchemist.cluster_centroids SET last_block_id = :n"), {"n": block_id})


def take_down_sample(engine: Engine, sample_id: int) -> None:
    with engine.connect() as connection:
        statement = text("SELECT image_hash FROM alchemist.samples WHERE sample_id = :id")
        image_hash = bytes(connection.execute(statement, {"id": sample_id}).scalar_one())
    take_down(engine, [image_hash], "asked", actor="ann")


@pytest.mark.parametrize(
    ("threshold", "removed"), [(None, {11, 12, 13, 31, 350}), (0.95, {11, 12, 350}), (0.97, {11}), (1.0, set())]
)
def test_semantic_duplicates_from_a_cosine_on_are_left_out(
    store: Engine, threshold: float | None, removed: set[int]
) -> None:
    report = draw(dedup="semantic", semantic_threshold=threshold, **ALL)
    assert set(range(1, 401)) - member_ids(store) == removed
    assert report.n_removed == ({"semantic_duplicate": len(removed)} if removed else {})
    assert draw(name="near", dedup="near", **ALL).n_samples == 400


def test_near_duplicates_are_left_out_first_and_the_next_of_a_group_takes_its_firsts_place(store: Engine) -> None:
    set_duplicates(store, [(10, 9)])
    report = draw(dedup="semantic", **ALL)
    assert report.n_removed == {"duplicate": 1, "semantic_duplicate": 4}
    assert {9, 10, 11, 12, 13} & member_ids(store) == {9, 11}


def test_the_best_of_a_group_may_be_kept_instead_of_the_first(store: Engine) -> None:
    with store.connect() as connection:
        rows = connection.execute(text("SELECT sample_id, score FROM alchemist.scores WHERE rater_id <> 20")).all()
    score_of = {row.sample_id: row.score for row in rows}
    best = max((10, 11, 12, 13), key=lambda one: (score_of[one], -one))
    draw(dedup="semantic", dedup_keep="best", **ALL)
    assert {10, 11, 12, 13} & member_ids(store) == {best}


def test_after_a_takedown_of_their_first_sample_copies_of_later_nights_stay_in_its_group(
    store: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_down_sample(store, 10)
    # As find-semantic stores copies of two later nights: each with an earlier one of the group, whose first sample is gone.
    add_semantic(store, [(14, 11, 0.99)], block_id=2)
    take_down_sample(store, 11)
    add_semantic(store, [(15, 14, 0.99)], block_id=3)
    group = set(range(10, 16))
    best = {name: {"dedup": "semantic", "dedup_keep": name} for name in ("best", "first")}
    with monkeypatch.context() as patch:
        patch.setattr(snapshots, "_semantic", lambda *given: real_semantic(*given) | {"follows_firsts": False})
        former = draw(name="former", **best["best"], **ALL)
    assert len(group & member_ids(store, "former")) == 3
    draw(**best["best"], **ALL)
    assert len(group & member_ids(store)) == 1
    draw(name="first", **best["first"], **ALL)
    assert group & member_ids(store, "first") == {12}
    # At 0.97, sample 12 is no copy of 10.
    draw(name="nearer", semantic_threshold=0.97, **best["first"], **ALL)
    assert group & member_ids(store, "nearer") == {12, 13, 14}
    # A version that was selected by separate groups keeps its members.
    forget_kept()
    assert manifest_of(reselect(store, find_subset(store, "former"))).sha256() == former.manifest_sha256


def test_what_is_found_later_changes_no_stored_version(store: Engine) -> None:
    first = draw(0.4, dedup="semantic", strategy="random", stratify=True, stratify_by="cluster")
    add_semantic(store, [(14, 10, 0.99)], block_id=2)
    subset = find_subset(store, "s", version=first.version)
    forget_kept()
    assert manifest_of(reselect(store, subset)).sha256() == first.manifest_sha256
    again = draw(0.4, dedup="semantic", strategy="random", stratify=True, stratify_by="cluster")
    assert again.n_removed == {"semantic_duplicate": 6}
    assert again.eligible_hash != first.eligible_hash


@pytest.mark.parametrize("options", [
    {"variety": 1.0},
    {"variety": 0.4, "stratify": True},
    {"variety": 0.5, "max_share": 0.5, "max_share_of": "source", "allow_fewer": True},
    {"stratify": True, "stratify_by": "cluster"},
    {"max_share": 0.25, "max_share_of": "cluster", "allow_fewer": True},
    {"stratify": True, "max_share": 0.3, "max_share_of": "cluster", "allow_fewer": True},
    {"stratify": True, "stratify_by": "cluster", "max_share": 0.5, "max_share_of": "source", "allow_fewer": True},
])  # fmt: skip
@pytest.mark.parametrize("strategy", ["random", "top_k", "shift_gsample"])
@pytest.mark.slow
def test_selections_by_cluster_are_exact_nested_and_the_same_by_the_same_seed(
    store: Engine, options: dict[str, Any], strategy: str
) -> None:
    before: set[int] = set()
    for retention in (0.1, 0.2, 0.35):
        report = draw(retention, name=f"r{retention:g}".replace(".", ""), strategy=strategy, **options)
        again = draw(retention, name=f"r{retention:g}".replace(".", ""), strategy=strategy, **options)
        assert (again.is_new, again.manifest_sha256) == (False, report.manifest_sha256)
        chosen = member_ids(store, report.name)
        if "allow_fewer" not in options:
            assert len(chosen) == round(retention * report.n_eligible)
        assert before <= chosen
        before = chosen


def test_strata_have_the_share_of_each_cluster_and_a_cap_leaves_none_more(store: Engine) -> None:
    cluster_of = np.array([0, *(min(number % 7, 4) + 1 for number in range(1, 391)), *[0] * 10])
    report = draw(0.5, strategy="random", stratify=True, stratify_by="cluster")
    kept = np.bincount(cluster_of[sorted(member_ids(store))], minlength=6)
    there = np.bincount(cluster_of[1:], minlength=6)
    assert (np.abs(kept - there / 2) < 1.5).all()
    assert any("members have no cluster: they are a stratum of their own" in warning for warning in report.warnings)
    report = draw(0.3, name="capped", strategy="top_k", max_share=0.2, max_share_of="cluster", allow_fewer=True)
    kept = np.bincount(cluster_of[sorted(member_ids(store, "capped"))], minlength=6)
    assert kept[1:].max() <= np.ceil(0.2 * report.n_samples)
    assert any("members have no cluster: the cap does not apply" in warning for warning in report.warnings)


def test_full_variety_takes_clusters_in_turns_and_less_of_it_is_nearer_to_the_plain_draw(store: Engine) -> None:
    cluster_of = np.array([0, *(min(number % 7, 4) + 1 for number in range(1, 391)), *[0] * 10])

    def kept(name: str) -> list[int]:
        return sorted(np.bincount(cluster_of[sorted(member_ids(store, name))], minlength=6).tolist())

    draw(0.3, name="plain", strategy="random")
    for strength in (0.0, 0.5, 1.0):
        report = draw(0.3, name=f"v{strength:g}", strategy="random", variety=strength)
        assert report.n_samples == 120
    # 10 samples have no cluster and count as one; the other five have the same number.
    assert kept("v1") == [10, 22, 22, 22, 22, 22]
    assert member_ids(store, "v0") == member_ids(store, "plain")
    assert kept("v1")[-1] < kept("v0.5")[-1] < kept("plain")[-1]
    assert any("members have no cluster: they count as one cluster" in warning for warning in report.warnings)
    assert "variety" not in find_subset(store, "plain").spec
    # The best of each cluster, with a strategy that does not sample.
    draw(0.015, name="best", strategy="top_k", variety=1.0)
    with store.connect() as connection:
        rows = connection.execute(text("SELECT sample_id, score FROM alchemist.scores WHERE rater_id <> 20")).all()
    best = [max(row.score for row in rows if cluster_of[row.sample_id] == cluster) for cluster in range(6)]
    chosen = member_ids(store, "best")
    assert sorted(row.score for row in rows if row.sample_id in chosen) == sorted(best)


def test_a_sample_outside_a_varied_subset_is_told_the_key_that_counts(store: Engine) -> None:
    draw(0.3, strategy="random", variety=1.0)
    drawn = reselect(store, find_subset(store, "s"))
    outside = np.flatnonzero(~drawn.is_member_N)
    assert (drawn.final_key_N[drawn.member_K] >= drawn.threshold).all()
    assert (drawn.final_key_N[outside] < drawn.threshold).all()


def test_one_of_several_scorers_is_named(store: Engine) -> None:
    add_clusters(store, 21, "siglip")
    with pytest.raises(ConfigError, match=r"compared by several scorers: clip, siglip\. Name one: --semantic-scorer"):
        draw(dedup="semantic", **ALL)
    assert draw(dedup="semantic", semantic_scorer="clip", **ALL).n_removed == {"semantic_duplicate": 5}
    assert draw(dedup="semantic", semantic_scorer="siglip", **ALL).n_removed == {}
    with pytest.raises(ConfigError, match="With scorer 'dino' no samples were compared"):
        draw(dedup="semantic", semantic_scorer="dino", **ALL)


def test_clusters_of_experiments_are_not_taken_unless_they_are_named_or_the_only_ones(store: Engine) -> None:
    varied: dict[str, Any] = {"retention": 0.2, "strategy": "top_k", "variety": 0.5}
    for number, name in ((21, "clusters_1a2b00000000"), (22, "clusters_3c4d00000000")):
        add_clusters(store, number, name)
    named = draw(name="named", semantic_scorer="clip", **varied)
    assert draw(**varied).manifest_sha256 == named.manifest_sha256
    delete_centroids(store, CLIP)
    with pytest.raises(
        ConfigError, match="Only experiments compared samples: clusters_1a2b00000000, clusters_3c4d00000000"
    ):
        draw(name="none", **varied)
    assert draw(name="other", semantic_scorer="clusters_1a2b00000000", **varied).n_samples == 80
    delete_centroids(store, 21)
    assert draw(name="only", **varied).n_samples == 80


def delete_centroids(engine: Engine, rater_id: int) -> None:
    with engine.begin() as connection:
        for table in ("semantic_duplicates", "clusters", "cluster_centroids"):
            connection.execute(text(f"DELETE FROM alchemist.{table} WHERE rater_id = :id"), {"id": rater_id})


def add_embeddings(engine: Engine, rater_ids: Sequence[int]) -> None:
    with engine.begin() as connection:
        scored_shard = text("SELECT shard_id, night_id FROM alchemist.shard_scores ORDER BY shard_id LIMIT 1")
        shard_id, night_id = connection.execute(scored_shard).one()
        ids = [{"rater_id": number, "shard_id": shard_id} for number in rater_ids]
        scored, embedded = (
            [{**row, "night_id": night_id, "n_scored": 2} for row in ids],
            [{**row, "n_samples": 2, "dim": 4} for row in ids],
        )
        insert_rows(connection, {"shard_scores": scored, "shard_embeddings": embedded})


def test_arms_take_clusters_of_the_user_only_where_every_scored_sample_has_one(store: Engine) -> None:
    add_embeddings(store, [CLIP])
    assert find_user_clusters("web") == "clip"
    # The last ten of books have no cluster.
    assert find_user_clusters("books") is None
    with store.begin() as connection:
        connection.execute(text("DELETE FROM alchemist.scores WHERE sample_id > 391"))
    assert find_user_clusters("books") is None
    take_down_sample(store, 391)
    assert find_user_clusters("books") == "clip", "only samples that can be selected count"


def test_embeddings_of_experiments_are_not_taken_and_their_arms_take_those_of_the_user(store: Engine) -> None:
    scorers = {CLIP: "clip", 21: "clusters_1a2b00000000", 22: "clusters_3c4d00000000"}
    for number in (21, 22):
        add_clusters(store, number, scorers[number])
    add_embeddings(store, list(scorers))
    assert find_embedding_scorer(store, None) == ("clip", CLIP)
    trial = Trial(TrialsConfig(dataset="web", evaluation="t", rater="r"), 0)
    for options in ("dedup=semantic", "variety=1"):
        policy = parse_arm(f"random;{options}", retention=0.2).policy
        assert policy is not None
        assert trial.stored_policy(policy)["semantic_scorer"] == "clip"
    with store.begin() as connection:
        connection.execute(text("DELETE FROM alchemist.shard_embeddings WHERE rater_id = :id"), {"id": CLIP})
    with pytest.raises(ConfigError, match="No scorer of your own has embeddings"):
        find_embedding_scorer(store, None)
    assert find_embedding_scorer(store, "clusters_1a2b00000000") == ("clusters_1a2b00000000", 21)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"dedup": "semantic", "semantic_threshold": 0.8},
            r"0\.8 is below 0\.9, from which on .*--restart --threshold 0\.8 --no-whiten",
        ),
        ({"semantic_threshold": 0.95}, "--semantic-threshold is used only with --dedup semantic"),
        ({"semantic_scorer": "clip"}, "--semantic-scorer is used only with"),
        ({"stratify_by": "cluster"}, "--stratify-by cluster is used only with --stratify"),
        (
            {"variety": 0.5, "stratify": True, "stratify_by": "cluster"},
            "--variety contradicts --stratify-by cluster",
        ),
        ({"dedup": "off", "dedup_keep": "best"}, "--dedup-keep best is not used with --dedup off"),
        (
            {"stratify": True, "stratify_by": "cluster", "max_share": 0.5, "max_share_of": "cluster"},
            "--max-share of clusters contradicts --stratify",
        ),
    ],
)
def test_options_that_mean_nothing_are_refused(store: Engine, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        draw(**ALL | options)


def test_without_clusters_the_command_that_makes_them_is_named(engine: Engine) -> None:
    fill(engine)
    for options in ({"dedup": "semantic"}, {"stratify": True, "stratify_by": "cluster"}, {"variety": 0.1}):
        with pytest.raises(ConfigError, match="alchemist duplicates find-semantic"):
            draw(**ALL | options)


def test_sql_refuses_a_snapshot_whose_duplicates_only_python_excludes(store: Engine) -> None:
    draw(0.4, dedup="semantic")
    with store.connect() as connection:
        snapshot = connection.execute(text("SELECT max(snapshot_id) FROM alchemist.rank_snapshots")).scalar_one()
        with pytest.raises(Exception, match="only alchemist select knows"):
            connection.execute(text(f"SELECT count(*) FROM alchemist.shift_gsample({snapshot}, 0.4)"))


def test_the_hash_of_a_spec_and_of_a_config_without_the_new_options_is_the_former_one() -> None:
    """Values of commit 6656aaf, before the options existed."""
    policy = SelectionPolicy(retention=0.25, stratify=True, max_share=0.5, max_share_of="source", dedup="near", seed=3)
    assert hash_spec(policy_spec(policy, STRATEGIES["top_k"]())) == "16ec440fbeff9579"
    assert SelectConfig(dataset=("web",), policy=policy).fingerprint() == "7eeebe7c75a173f1"
