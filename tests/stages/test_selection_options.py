"""What options of a selection exclude and rank by: duplicates, evaluation images, conditions, heuristics; and how many samples remain."""

from typing import Any

import pytest
from sqlalchemy import Engine, text

from alchemist_core.cli.sample import TakedownConfig, takedown
from alchemist_core.errors import AlchemistError, ConfigError
from alchemist_core.selection.config import SelectionPolicy
from alchemist_core.selection.curves import read_curve
from alchemist_core.store.subsets import find_subset
from alchemist_core.subsets.selected import manifest_of, reselect
from tests.scored_nights import add_rater
from tests.selectable_store import add_to_bench, change, draw, fill, member_ids, members, pairs, set_duplicates

pytestmark = pytest.mark.db

ALL: dict[str, Any] = {"retention": 1.0, "strategy": "random"}


@pytest.fixture
def store(engine: Engine) -> Engine:
    fill(engine)
    return engine


def test_of_a_group_of_near_duplicates_the_first_seen_is_kept(store: Engine) -> None:
    set_duplicates(store, [(11, 10), (12, 10), (350, 30)])
    report = draw(dedup="near", **ALL)
    assert (report.n_eligible, report.n_samples, report.n_removed) == (397, 397, {"duplicate": 3})
    assert {11, 12, 350}.isdisjoint(member_ids(store))
    assert {10, 30} <= member_ids(store)


def test_where_the_first_of_a_group_may_not_be_selected_the_next_one_replaces_it(store: Engine) -> None:
    set_duplicates(store, [(11, 10), (12, 10), (350, 30)])
    first = list(pairs(store, "image_hash"))[9]
    takedown(TakedownConfig(image_hash=bytes(first.image_hash).hex(), reason="asked"))
    draw(**ALL)
    assert {10, 11, 12} & member_ids(store) == {11}
    draw(dataset="books", **ALL)
    assert 350 in member_ids(store), "its first pair is of another dataset"


def test_duplicates_may_be_kept(store: Engine) -> None:
    set_duplicates(store, [(11, 10), (12, 10)])
    assert draw(dedup="off", **ALL).n_samples == 400


def test_near_duplicates_stay_by_default_and_of_one_image_the_first_seen_sample(store: Engine) -> None:
    set_duplicates(store, [(11, 10), (12, 10), (13, 10), (350, 30)])
    # 12 and 13 have one image, a near-duplicate of that of 10; 350 has the image of 30.
    change(
        store,
        """
        UPDATE alchemist.samples SET image_hash = first.image_hash FROM alchemist.samples AS first
        WHERE (samples.sample_id, first.sample_id) IN ((13, 12), (350, 30));
        UPDATE alchemist.duplicate_samples SET is_same_image = true WHERE sample_id = 350
    """,
    )
    report = draw(dedup=SelectionPolicy().dedup, **ALL)
    assert report.n_removed == {"duplicate": 2}
    assert {10, 11, 12, 13, 30, 350} & member_ids(store) == {10, 11, 12, 30}


def test_images_of_an_evaluation_set_and_those_that_look_like_one_are_left_out(store: Engine) -> None:
    known = list(pairs(store, "sample_id, image_hash, perceptual_hash"))
    add_to_bench(store, bytes(known[4].image_hash), 1)
    add_to_bench(store, b"y" * 32, known[6].perceptual_hash ^ (1 << 63) - (1 << 64) ^ 1, ordinal=1)
    add_to_bench(store, b"z" * 32, known[8].perceptual_hash ^ 0b10101, ordinal=2)
    report = draw(decontaminate="bench", **ALL)
    assert report.n_removed == {"contaminated": 2}
    assert {5, 7, 9} & member_ids(store) == {9}, "the last differs in three bits"


@pytest.mark.parametrize(("name", "message"), [("web", "is a training dataset"), ("benhc", "is not registered")])
def test_only_a_known_evaluation_dataset_decontaminates(store: Engine, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        draw(decontaminate=name)


def test_a_heuristic_ranks_the_samples_that_have_it_on_a_scale_of_its_own(store: Engine) -> None:
    draw(0.2)
    report = draw(0.2, rank_by="aesthetic", strategy="auto", name="pretty")
    assert (report.strategy, report.n_eligible, report.n_removed) == ("top_k", 300, {"unscored": 100})
    with store.connect() as connection:
        ranked = connection.execute(text("""
            SELECT sample_id, aesthetic FROM alchemist.heuristic_scores ORDER BY aesthetic DESC
        """)).all()  # fmt: skip
        scales = connection.execute(text("SELECT score FROM alchemist.rank_scales ORDER BY 1")).scalars().all()
    sure = {row.sample_id for row in ranked if row.aesthetic > ranked[59].aesthetic}
    possible = {row.sample_id for row in ranked if row.aesthetic >= ranked[59].aesthetic}
    assert sure <= member_ids(store, "pretty") <= possible
    assert scales == ["aesthetic", "rater"]


def test_a_score_that_a_crawl_brought_along_ranks_too(store: Engine) -> None:
    assert draw(0.2, rank_by="imported.likes").n_eligible == 300
    with pytest.raises(
        AlchemistError,
        match=r"the scores of --rank-by imported.dislikes. Numbers of the crawl come with alchemist ingest",
    ):
        draw(0.2, rank_by="imported.dislikes")


def test_a_refusal_names_a_retention_that_is_accepted_and_is_the_largest(store: Engine) -> None:
    for options in ({}, {"max_share": 0.4}, {"max_share": 0.3, "max_share_of": "source"}, {"stratify": True}):
        with pytest.raises(ConfigError, match="largest possible retention is") as refusal:
            draw(1.0, **options)
        largest = float(str(refusal.value).split("retention is ")[1].split()[0].rstrip("."))
        report = draw(largest, **options)
        assert report.n_samples == round(largest * 400)
        with pytest.raises(ConfigError):
            draw(largest + 0.0026, **options)
        assert draw(1.0, allow_fewer=True, **options).n_samples == report.n_samples


def test_a_dataset_has_no_more_than_its_cap(store: Engine) -> None:
    report = draw(0.3, max_share=0.5)
    assert report.datasets == {"web": 60, "books": 60}
    assert report.n_removed["cap"] > 0


def test_a_cap_of_datasets_on_one_alone_names_what_was_meant(store: Engine) -> None:
    with pytest.raises(ConfigError, match="the only one here; to cap hosts, use --max-share-of source"):
        draw(0.3, dataset="web", max_share=0.9)


def test_a_source_has_no_more_than_its_cap_and_unknown_sources_are_free(store: Engine) -> None:
    draw(0.1, max_share=0.25, max_share_of="source")
    hosts = {pair.sample_id: pair.source_url for pair in pairs(store, "sample_id, source_url")}
    assert sum(hosts[i] == "https://one.example/p.jpg" for i in member_ids(store)) == 10
    change(store, "UPDATE alchemist.samples SET source_url = NULL WHERE sample_id % 5 <> 0")
    assert draw(0.1, max_share=0.25, max_share_of="source").n_removed == {}


def test_strata_give_every_dataset_its_share(store: Engine) -> None:
    assert draw(0.3, stratify=True).datasets == {"web": 90, "books": 30}


@pytest.mark.parametrize(
    "options",
    [
        # Each alone: the next row has both.
        pytest.param({"max_share": 0.7}, marks=pytest.mark.slow),
        pytest.param({"max_share": 0.9, "max_share_of": "source"}, marks=pytest.mark.slow),
        pytest.param({"stratify": True}, marks=pytest.mark.slow),
        {"stratify": True, "max_share": 0.7, "max_share_of": "source", "strategy": "gsample"},
        {"decontaminate": "bench", "where": "sample_id > 20"},
        {"rank_by": "aesthetic", "strategy": "top_k"},
        {"p_rank": "inclusion"},
    ],
    ids=str,
)
def test_with_every_option_20_percent_are_contained_in_50_and_a_stored_version_is_selected_again(
    store: Engine, options: dict[str, Any]
) -> None:
    set_duplicates(store, [(11, 10), (12, 10), (350, 30)])
    add_to_bench(store, bytes(next(pairs(store, "image_hash")).image_hash), 1)
    for retention in (0.2, 0.5):
        draw(retention, name=f"s{retention}", **options)
    assert members(store, "s0.2") < members(store, "s0.5")
    for name in ("s0.2", "s0.5"):
        subset = find_subset(store, name)
        assert manifest_of(reselect(store, subset)).sha256() == subset.manifest_sha256


def test_the_same_options_again_give_the_version_that_exists(store: Engine) -> None:
    options: dict[str, Any] = {"where": "sample_id > 20", "max_share": 0.5, "max_share_of": "source", "retention": 0.1}
    assert draw(**options).is_new
    again = draw(**options)
    assert (again.version, again.is_new) == (1, False)
    assert draw(**(options | {"where": "sample_id > 21"})).version == 2


def test_a_rater_that_is_not_in_production_is_named_in_the_commands_that_make_samples_selectable(store: Engine) -> None:
    with store.begin() as connection:
        add_rater(connection, rater_id=2, name="tried", state="candidate")
    told = r"under rater tried: none of its nights is published. Run alchemist score --rater tried, .* publish --rater tried first"
    with pytest.raises(ConfigError, match=told):
        draw(rater="tried")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stratify": True, "max_share": 0.5}, "contradicts --stratify"),
        ({"strategy": "top_k", "p_rank": "inclusion"}, "does not sample"),
        ({"strategy": "random", "mean_rank": 0.5}, "does not use mean_rank"),
    ],
)
def test_options_that_contradict_each_other_are_refused(store: Engine, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        draw(**options)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("web,boks", r"'boks' is not registered \(registered: bench, books, web\)"),
        ("bench", "bench is an evaluation dataset. Only training datasets can be selected from"),
        ("web,bench", "bench is an evaluation dataset"),
    ],
)
def test_a_dataset_that_cannot_be_selected_from_is_refused_and_not_passed_over(
    store: Engine, dataset: str, message: str
) -> None:
    for dry_run in (True, False):
        with pytest.raises(ConfigError, match=message):
            draw(dataset=dataset, dry_run=dry_run)


def test_with_equal_scores_a_drop_top_ratio_that_leaves_no_sample_is_refused(store: Engine) -> None:
    change(store, "UPDATE alchemist.scores SET score = 0.5")
    with pytest.raises(ConfigError, match=r"Strategy shift_gsample excludes all 400 eligible samples.*drop-top-ratio"):
        draw()
    with pytest.raises(ConfigError, match="excludes all"):
        draw(allow_fewer=True)
    assert draw(strategy="gsample").n_samples == 80


@pytest.mark.parametrize("options", [{}, {"stratify": True}])
def test_a_retention_that_keeps_none_is_refused_with_the_smallest_that_keeps_one(
    store: Engine, options: dict[str, bool]
) -> None:
    for dry_run in (True, False):
        with pytest.raises(
            ConfigError, match=r"keeps none of 400 eligible samples\. The smallest that keeps one is about 0\.001251\."
        ):
            draw(retention=0.001, dry_run=dry_run, **options)
    assert draw(retention=0.001251, **options).n_samples == 1


def test_a_number_of_a_crawl_that_no_float_holds_counts_as_none(store: Engine) -> None:
    change(store, """
        UPDATE alchemist.heuristic_scores SET imported = '{"likes": 1e400}' WHERE sample_id = 1;
        UPDATE alchemist.heuristic_scores SET imported = '{"likes": -1e-400}' WHERE sample_id = 2;
        UPDATE alchemist.heuristic_scores SET imported = '{"likes": 0}' WHERE sample_id = 3
    """)  # fmt: skip
    assert draw(1.0, rank_by="imported.likes", strategy="random").n_samples == 298
    assert {1, 2, 3} & member_ids(store) == {3}


def test_what_the_selection_did_to_the_ranks_is_stored_beside_what_was_wanted(store: Engine) -> None:
    for retention, is_saturated in ((0.05, False), (0.7, True)):
        report = draw(retention)
        stored = find_subset(store, "s").curves
        assert stored is not None
        curve = read_curve(stored)
        assert (curve.n_kept.sum(), curve.n_pool.sum()) == (report.n_samples, 400)
        assert curve.n_kept.reshape(20, 2).sum(axis=1).tolist() == report.rank_histogram
        assert stored["is_saturated"] == curve.is_saturated == is_saturated
        assert (curve.target * curve.n_pool).sum() == pytest.approx(report.n_samples, abs=0.01)
        assert (curve.expected * curve.n_pool).sum() == pytest.approx(report.n_samples, abs=0.01)


def test_the_inclusion_reading_selects_another_subset_and_reports_it_in_its_spec_and_curve(store: Engine) -> None:
    draw(0.5, name="draws")
    draw(0.5, name="inclusion", p_rank="inclusion")
    assert members(store, "draws") != members(store, "inclusion")
    subset = find_subset(store, "inclusion")
    assert subset.spec["p_rank"] == "inclusion"
    assert "p_rank" not in find_subset(store, "draws").spec
    assert subset.curves is not None
    # c = 3.05: around the mean every sample is kept.
    curve = read_curve(subset.curves)
    assert curve.expected.max() == 1.0
    assert (curve.n_kept[23:27] == curve.n_pool[23:27]).all()
