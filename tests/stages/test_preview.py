"""A preview shows the exact selection and everything a person needs to decide, and writes no row."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine, text

from alchemist_core.__main__ import main
from alchemist_core.cli.flags import describe, flag_fields
from alchemist_core.cli.subset import PublishSubsetConfig, WithdrawSubsetConfig, publish, withdraw
from alchemist_core.errors import CheckFailedError, ConfigError
from alchemist_core.files import artifact_path
from alchemist_core.project import load_project
from alchemist_core.report.gathering import describe_strategy
from alchemist_core.selection.rank_window import FittedWindow, RankWindow
from alchemist_core.settings import load_settings
from alchemist_core.stages.select import SelectConfig, SelectResult
from alchemist_core.store.manifests import hash_rows, hashes_sha256, read_first_bits, read_manifest
from alchemist_core.store.rank_windows import store_window
from alchemist_core.store.subsets import find_subset
from alchemist_core.subsets.preview import MAX_DATES
from tests.given import insert_rows
from tests.scored_nights import add_night
from tests.selectable_store import WEB, change, draw, fill, members, normal, pairs, set_duplicates

pytestmark = pytest.mark.db


@pytest.fixture
def store(engine: Engine) -> Engine:
    fill(engine)
    return engine


def n_rows(engine: Engine) -> dict[str, int]:
    """Rows of every table, runs and leases too."""
    with engine.connect() as connection:
        tables = (
            connection.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'alchemist'")).scalars().all()
        )
        return {
            name: connection.execute(text(f"SELECT count(*) FROM alchemist.{name}")).scalar_one() for name in tables
        }


def test_a_preview_writes_no_row_and_no_manifest(store: Engine) -> None:
    before = n_rows(store)
    report = draw(dry_run=True, where="width > 1", stratify=True)
    assert (report.version, report.n_samples) == (None, 80)
    assert n_rows(store) == before
    assert not (load_settings().home / "subsets").exists()


def test_a_preview_equals_the_later_selection(store: Engine) -> None:
    set_duplicates(store, [(11, 10)])
    preview, report = draw(dry_run=True), draw()
    same = {"version", "is_new"}
    assert preview.model_dump(exclude=same) == report.model_dump(exclude=same)
    assert preview.manifest_sha256 == hashes_sha256(hash_rows(list(members(store))))


def test_a_preview_counts_members_by_dataset_and_date_and_estimates_their_bytes(store: Engine) -> None:
    change(store, "UPDATE alchemist.shards SET size_bytes = n_samples * CASE dataset_id WHEN 1 THEN 1000 ELSE 50 END")
    report = draw(dry_run=True)
    assert sum(report.datasets.values()) == sum(report.crawl_dates.values()) == report.n_samples == 80
    assert set(report.datasets) == {"web", "books"}
    assert list(report.crawl_dates) == ["2026-01-01", "2026-01-02"]
    assert report.n_bytes == 1000 * report.datasets["web"] + 50 * report.datasets["books"]


def test_the_warning_of_a_drop_top_ratio_that_scores_have_left_counts_the_scored_samples(store: Engine) -> None:
    assert not any("drifted" in warning for warning in draw().warnings)
    higher = [score + 3 for score in normal(np.random.default_rng(5), 100)]
    add_night(store, "2026-01-05", {"b.tar": higher}, state="selectable")
    (warning,) = [text for text in draw(where="sample_id <= 400").warnings if "--drop-top-ratio" in text]
    found = re.match(r"--drop-top-ratio 0\.25 drops (0\.\d+) of the scored samples: their scores have drifted", warning)
    assert found is not None
    assert float(found[1]) == pytest.approx((100 + 0.25 * 400) / 500, abs=0.02)


@pytest.mark.parametrize("n_without", [0, 40])
def test_a_preview_counts_members_that_a_cap_of_sources_cannot_hold(store: Engine, n_without: int) -> None:
    address = f"CASE WHEN sample_id > {n_without} THEN 'https://' || sample_id || '.example/x' END"
    change(store, f"UPDATE alchemist.samples SET source_url = {address}")
    report = draw(strategy="random", dry_run=True, max_share=0.9, max_share_of="source")
    printed = [text for text in report.warnings if "source_url" in text]
    assert len(printed) == (n_without > 0)
    assert all(0 < int(text.split()[0]) < n_without for text in printed)


def test_the_recipe_paper_selects_80_percent_and_warns_that_nesting_ends(
    store: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    select = "select --dataset web,books --recipe paper --json --retention"
    found = {}
    for retention in ("0.5", "0.8"):
        assert main([*select.split(), retention]) == 0
        found[retention] = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["0.8"]["n_samples"] == 320
    printed = {
        retention: [text for text in report["warnings"] if "nested" in text] for retention, report in found.items()
    }
    assert (printed["0.5"], len(printed["0.8"])) == ([], 1)
    assert "--drop-top-ratio 0.15" in printed["0.8"][0]
    # As the flag's help promises: with equal drop-top ratios the smaller subset is contained in the larger one.
    draw(0.5, name="smaller", dataset="web,books", strategy="shift_gsample", drop_top_ratio=0.15)
    assert members(store, "smaller") <= members(store, found["0.8"]["name"])


@pytest.fixture
def probed(store: Engine) -> Engine:
    """A store with a tuned rater: the highest scores are the most useful, by four seeds and five bands."""
    tune(store, 0.2, RankWindow(0.0, 0.1, 0.1), cells=probe(0.2, 2.6, 1.5))
    return store


def probe(retention: float, first: float, slope: float) -> list[dict[str, object]]:
    """Losses of random samples and of five bands of ranks, by four seeds: that of the highest band, and how much more those below have."""
    losses = {
        "random": 3.0,
        **{f"alignment/block@{start:g}": first + slope * start for start in (0, 0.2, 0.4, 0.6, 0.8)},
    }
    return [
        {"arm": arm, "retention": retention, "seed": seed, "loss": loss + 0.01 * seed * (1 + len(arm) % 3)}
        for arm, loss in losses.items()
        for seed in range(4)
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("probed")
def test_a_selection_that_the_probe_expects_to_be_worse_than_random_reports_it_and_fails_its_check(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    report = draw(strategy="shift_gsample")
    assert report.is_better_than_random is False
    assert report.expected_gain_low < report.expected_gain < report.expected_gain_high < 0  # type: ignore[operator]
    (printed,) = [text for text in report.warnings if "worse than a random one of its size" in text]
    assert f"{report.expected_gain:.4f}" in printed
    assert main(["check", "--suite", "subset", "--subset", "s", "--newest"]) == CheckFailedError.exit_code
    refused = capsys.readouterr().err
    assert "not_expected_to_be_worse_than_random" in refused
    assert "min_expected_gain = 0" in refused
    # The project file can allow it.
    project = tmp_path / "alchemist.toml"
    project.write_text("[checks]\nmin_expected_gain = -10\n")
    monkeypatch.setenv("ALCHEMIST_PROJECT", str(project))
    load_settings.cache_clear()
    load_project.cache_clear()
    assert main(["check", "--suite", "subset", "--subset", "s", "--newest"]) == 0


def nesting(report: SelectResult) -> list[str]:
    return [text for text in report.warnings if "nested" in text]


def tune(store: Engine, retention: float, window: RankWindow, **measured: object) -> None:
    with store.connect() as connection:
        rater_id = connection.execute(text("SELECT rater_id FROM alchemist.raters")).scalar_one()
    store_window(store, rater_id, FittedWindow(window, retention, 0.4, 0.3, 0.5), {"retention": retention} | measured)


@pytest.mark.slow
def test_a_preview_warns_that_retentions_with_other_tuned_windows_do_not_nest_and_says_how_they_do(
    store: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    tune(store, 0.2, RankWindow(0.1, 0.6, 0.1))
    assert nesting(draw(0.2, strategy="auto", dry_run=True)) == [], "one window serves every retention"
    tune(store, 0.5, RankWindow(0.1, 0.6, 0.1))
    assert nesting(draw(0.2, strategy="auto", dry_run=True)) == [], "equal windows nest"
    tune(store, 0.3, RankWindow(0.25, 0.3, 0.2))
    draw(0.2, strategy="auto", name="smaller")
    draw(0.3, strategy="auto", name="larger")
    assert not members(store, "smaller") <= members(store, "larger")
    assert nesting(draw(0.2, strategy="shift_gsample", dry_run=True)) == []
    (warning,) = nesting(draw(0.3, strategy="auto", dry_run=True))
    assert "tuned for a retention of 0.3. Near 0.2, 0.5 it takes another rank window" in warning
    # As the warning says: with its options the smaller subset is contained in the larger one.
    options = warning.partition("select with ")[2].rstrip(".")
    select = f"select --dataset web,books --dedup near --name nested --retention 0.2 {options}"
    assert main(select.split()) == 0
    capsys.readouterr()
    assert members(store, "nested") <= members(store, "larger")


def test_a_rank_window_that_was_tuned_for_a_far_retention_is_used_with_a_warning(store: Engine) -> None:
    tune(store, 0.2, RankWindow(0.1, 0.6, 0.1))
    near, far = (draw(retention, strategy="auto", dry_run=True) for retention in (0.25, 0.5))
    assert near.rank_window == far.rank_window is not None
    told = "tuned for a retention of 0.2, far from 0.5: its gain was not measured here"
    assert ([told in text for text in near.warnings], any(told in text for text in far.warnings)) == (
        [False] * len(near.warnings),
        True,
    )


def test_a_rank_window_that_cannot_give_the_retention_is_passed_over_with_a_warning(store: Engine) -> None:
    tune(store, 0.5, RankWindow(0.4, 0.6, 0.1))
    passed_over = draw(0.7, strategy="auto", dry_run=True)
    assert (passed_over.n_samples, passed_over.strategy, passed_over.rank_window) == (280, "head_gsample", None)
    (warning,) = [text for text in passed_over.warnings if "passed over" in text]
    assert "tuned for a retention of 0.5: it leaves out the highest 0.4 of the ranks, so it cannot give 0.7" in warning
    command = "alchemist tune-selection run --rater r --dataset web --evaluation NAME --retentions 0.7."
    assert warning.endswith(command)
    # Conditions and thresholds count, too: of the 60% with the highest scores the window leaves 20% of all.
    with store.connect() as connection:
        bound = connection.execute(
            text("SELECT percentile_disc(0.4) WITHIN GROUP (ORDER BY score) FROM alchemist.scores")
        ).scalar_one()
    accepted = draw(0.5, strategy="auto", min_score=float(bound), dry_run=True)
    assert (accepted.strategy, accepted.n_samples) == ("head_gsample", 200)
    (warning,) = [text for text in accepted.warnings if "passed over" in text]
    # Another tuning for 0.5 would store the same window.
    assert "with the conditions, thresholds and caps of this selection it cannot give 0.5" in warning
    assert "tune-selection" not in warning
    for given in ({"retention": 0.5}, {"retention": 0.7, "allow_fewer": True}):
        taken = draw(strategy="auto", dry_run=True, **given)
        assert taken.strategy == "shift_gsample"
        assert not any("passed over" in text for text in taken.warnings)


def test_repeats_do_not_make_a_few_members_of_a_rank_window_out_of_many_accepted_samples(store: Engine) -> None:
    tune(store, 0.2, RankWindow(0.4, 0.6, 0.1))
    with store.connect() as connection:
        bound = connection.execute(
            text("SELECT percentile_disc(0.59) WITHIN GROUP (ORDER BY score) FROM alchemist.scores")
        ).scalar_one()
    given = {"strategy": "auto", "min_score": float(bound), "dry_run": True}
    alone, repeated = draw(0.2, **given), draw(0.2, fill="repeat", **given)
    assert (repeated.strategy, repeated.n_samples) == (alone.strategy, alone.n_samples) == ("head_gsample", 80)
    assert any("passed over" in text for text in repeated.warnings)


def test_where_tuning_measured_no_gain_a_far_retention_is_not_said_to_have_taken_a_window(store: Engine) -> None:
    with store.connect() as connection:
        rater_id = connection.execute(text("SELECT rater_id FROM alchemist.raters")).scalar_one()
    store_window(store, rater_id, FittedWindow(RankWindow(0.1, 0.6, 0.1), 0.5, 0.0, -0.1, 0.1), {"retention": 0.5})
    report = draw(0.1, strategy="auto", dry_run=True)
    assert report.strategy == "random"
    (warning,) = [text for text in report.warnings if "far from 0.1" in text]
    assert warning.startswith(
        "Strategy auto selects at random, because tuning measured no gain at a retention of 0.5, far from 0.1."
    )
    assert "--retentions 0.1." in warning


def test_a_retention_that_an_error_names_as_the_largest_can_be_selected(store: Engine) -> None:
    # Of rule loss, auto would take shift_gsample, which drops a quarter: less than the window leaves.
    change(store, "UPDATE alchemist.raters SET rule = 'loss'")
    tune(store, 0.8, RankWindow(0.1, 0.6, 0.2))
    assert draw(largest_of(0.95), strategy="auto", dry_run=True).strategy == "shift_gsample"
    # Under a cap the window leaves too few, and the rule's strategy more.
    change(store, "UPDATE alchemist.raters SET rule = 'alignment'")
    change(store, "DELETE FROM alchemist.rank_windows")
    tune(store, 0.2, RankWindow(0.4, 0.6, 0.2))
    capped = {"max_share": 0.6, "max_share_of": "source"}
    bound = largest_of(0.8, **capped)
    assert draw(bound, strategy="auto", dry_run=True, **capped).strategy == "head_gsample"
    with pytest.raises(
        ConfigError, match=r"largest possible.* passed over the rank window that was tuned for a retention of 0\.2"
    ):
        draw(0.8, strategy="auto", dry_run=True, **capped)


def largest_of(retention: float, **given: object) -> float:
    """The bound that the refusal of a retention names."""
    with pytest.raises(ConfigError, match="largest possible") as caught:
        draw(retention, strategy="auto", dry_run=True, **given)
    return float(re.search(r"largest possible retention is ([0-9.]+)\. ", str(caught.value)).group(1))


def test_a_tuned_window_is_not_called_unsuited_to_the_scoring_rule(store: Engine) -> None:
    tune(store, 0.5, RankWindow(0.1, 0.6, 0.2))
    tuned = draw(0.5, strategy="auto", name="tuned")
    assert tuned.strategy == "shift_gsample"
    assert not any("drops those" in text for text in tuned.warnings)
    draw(0.5, strategy="shift_gsample", name="typed")
    shown = {name: describe_strategy(store, find_subset(store, name))[1] for name in ("tuned", "typed")}
    assert (shown["tuned"], "drops those" in shown["typed"]) == (None, True)


def test_a_subset_that_auto_selected_is_not_told_to_use_auto(store: Engine) -> None:
    # The lowest ranks are the most useful, and the window that takes them leaves too few.
    tune(store, 0.4, RankWindow(0.5, 0.7, 0.2), cells=probe(0.4, 3.4, -1.5))
    by_word, by_auto = (draw(0.6, strategy=strategy, dry_run=True) for strategy in ("head_gsample", "auto"))
    assert by_word.n_samples == by_auto.n_samples
    told = [text for report in (by_word, by_auto) for text in report.warnings if "worse than a random one" in text]
    assert ["Use strategy auto" in text for text in told] == [True, False]
    assert told[1].endswith("Ask for fewer samples, or for random ones (--strategy random).")


def test_a_preview_of_a_withdrawn_version_is_refused_as_the_selection_is(store: Engine) -> None:
    draw(0.5)
    publish(PublishSubsetConfig(name="s"))
    withdraw(WithdrawSubsetConfig(name="s", version=1, reason="legal"))
    for is_dry in (True, False):
        with pytest.raises(ConfigError, match="was withdrawn"):
            draw(0.5, dry_run=is_dry)


def test_a_preview_names_the_condition_that_excludes_everything(store: Engine) -> None:
    for given in ({"retention": 0.5}, {"retention": "auto", "strategy": "auto"}):
        with pytest.raises(ConfigError, match=r"exclude all 400 scored samples\. Loosen --where"):
            draw(dry_run=True, where="width < 0", **given)


@pytest.mark.usefixtures("probed")
def test_a_selection_of_all_eligible_samples_is_not_predicted_to_be_worse_than_a_random_one_of_them() -> None:
    whole = draw(1.0, strategy="top_k", where="r < 0")
    assert 100 < whole.n_samples == whole.n_eligible < 300, "all of low rank"
    assert (whole.expected_gain, whole.is_better_than_random) == (0, None)
    assert main(["check", "--suite", "subset", "--subset", "s", "--newest"]) == 0


def test_a_condition_that_leaves_the_highest_ranks_does_not_pass_for_drift(
    store: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    upper = draw(where="r > 0", drop_top_ratio=0.3, mean_rank=0.3)
    assert upper.n_eligible < len(list(pairs(store)))
    assert not any("Consider --rescale" in text for text in upper.warnings)
    assert main(["check", "--suite", "subset", "--subset", "s", "--newest"]) == 0
    assert "dropped_share_matches_drop_top_ratio" not in capsys.readouterr().err


def test_scores_that_tie_at_the_top_do_not_pass_for_drift(store: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    change(store, "UPDATE alchemist.scores SET score = CASE WHEN sample_id % 5 < 2 THEN 1 ELSE -abs(score) END")
    assert not any("Consider --rescale" in text for text in draw().warnings)
    assert main(["check", "--suite", "subset", "--subset", "s", "--newest"]) == 0
    assert "dropped_share_matches_drop_top_ratio" not in capsys.readouterr().err


@pytest.mark.usefixtures("probed")
@pytest.mark.parametrize(("strategy", "is_better"), [("auto", True), ("random", None)])
def test_a_selection_that_is_not_expected_to_be_worse_passes_its_check(strategy: str, is_better: bool | None) -> None:
    report = draw(strategy=strategy)
    assert (report.is_better_than_random, report.expected_gain is None) == (is_better, is_better is None)
    assert not [text for text in report.warnings if "worse than a random" in text]
    assert main(["check", "--suite", "subset", "--subset", "s", "--newest"]) == 0


@pytest.mark.slow
def test_without_a_probe_a_mixed_pairing_and_a_moved_drop_top_ratio_are_warnings_of_the_check(
    store: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    draw()
    add_night(store, "2026-03-01", {"a.tar": np.linspace(1, 3, 300).tolist()}, state="selectable", dataset_id=WEB)
    report = draw(retention=0.1)
    assert report.is_better_than_random is None
    assert any("Consider --rescale" in text for text in report.warnings)
    assert main(["check", "--suite", "subset", "--subset", "s", "--newest"]) == 0
    printed = capsys.readouterr().err
    assert "dropped_share_matches_drop_top_ratio" in printed
    draw(retention=0.1, rescale=True)
    assert main(["check", "--suite", "subset", "--subset", "s", "--newest"]) == 0
    assert "dropped_share_matches_drop_top_ratio" not in capsys.readouterr().err


def test_many_dates_are_shown_by_month(store: Engine) -> None:
    for day in range(MAX_DATES):
        add_night(store, f"2026-03-{day + 1:02d}", {"a.tar": [0.5]}, state="selectable", dataset_id=WEB)
    report = draw(1.0, strategy="random", dry_run=True)
    assert report.crawl_dates == {"2026-01": 400, "2026-03": MAX_DATES}


def test_a_preview_shows_the_ranks_in_twentieths_and_nothing_from_the_head(store: Engine) -> None:
    report = draw(dry_run=True)
    assert len(report.rank_histogram) == 20
    assert sum(report.rank_histogram) == 80
    assert report.rank_histogram[:5] == [0] * 5
    assert max(report.rank_histogram[10:15]) == max(report.rank_histogram)


def test_a_preview_shows_its_overlap_with_the_published_version(store: Engine) -> None:
    assert draw(dry_run=True).overlap_with_published is None
    draw(0.1)
    assert draw(dry_run=True).overlap_with_published is None, "selected is not published"
    publish(PublishSubsetConfig(name="s"))
    assert draw(0.2, dry_run=True).overlap_with_published == 0.5
    assert draw(0.1, dry_run=True).overlap_with_published == 1.0
    other = draw(0.1, seed=1, dry_run=True)
    draw(0.1, seed=1, name="other")
    both = members(store) & members(store, "other")
    assert other.overlap_with_published == round(len(both) / 40, 4)
    assert draw(0.1, name="third", dry_run=True).overlap_with_published is None


def test_a_lost_manifest_of_the_published_version_leaves_the_overlap_unknown(store: Engine) -> None:
    draw()
    publish(PublishSubsetConfig(name="s"))
    path = artifact_path(find_subset(store, "s").manifest_uri)
    for damage in (path.read_bytes()[:100], b"", None):
        path.unlink(missing_ok=True)
        if damage is not None:
            path.write_bytes(damage)
        assert draw(dry_run=True).overlap_with_published is None


def test_the_first_bits_of_a_manifest_are_those_of_its_hashes(store: Engine) -> None:
    draw()
    subset = find_subset(store, "s")
    path = artifact_path(subset.manifest_uri)
    hashes = read_manifest(path, sha256=subset.manifest_sha256).pair_hashes()
    assert read_first_bits(path).tolist() == [int.from_bytes(pair_hash[:8], "big") for pair_hash in hashes]


def test_training_hours_come_from_the_newest_training(store: Engine) -> None:
    assert draw(dry_run=True).training_hours is None
    with store.begin() as connection:
        insert_rows(connection, {
            "runs": [{"run_id": 1, "stage": "train_downstream", "state": "succeeded", "work_seconds": 7200, "finished_at": "2026-01-05"}],
            "models": [{"model_id": 1, "arm": "full", "run_id": 1, "n_samples": 160}],
        })  # fmt: skip
    assert draw(dry_run=True).training_hours == 1.0


def test_a_preview_warns_where_the_corpus_has_moved_against_its_scale(store: Engine) -> None:
    draw()
    assert not any("rescale" in warning for warning in draw(dry_run=True).warnings)
    scores = np.linspace(3, 4, 100).astype(np.float32).tolist()
    add_night(store, "2026-01-09", {"a.tar": scores}, state="selectable", dataset_id=WEB)
    cut, outside = [warning for warning in draw(dry_run=True).warnings if "rescale" in warning]
    assert "drops 0.4" in cut
    assert "outside the stored rank scale" in outside
    assert not any("--rescale" in warning for warning in draw(dry_run=True, rescale=True).warnings)


def rescale_warnings(report: SelectResult) -> list[str]:
    return [warning for warning in report.warnings if "Consider --rescale" in warning]


@pytest.mark.parametrize("strategy", ["top_k", "block", "gsample", "head_gsample"])
def test_a_preview_warns_of_scores_that_have_run_past_the_scale(store: Engine, strategy: str) -> None:
    """Scores all above the scale have rank 0, where these strategies cannot tell them apart."""
    draw(strategy=strategy)
    assert rescale_warnings(draw(dry_run=True, strategy=strategy)) == []
    add_night(store, "2026-01-09", {"a.tar": [5.0 + i for i in range(8)]}, state="selectable", dataset_id=WEB)
    assert rescale_warnings(draw(dry_run=True, strategy=strategy)) == [], "2% of them is not much"
    add_night(store, "2026-01-10", {"a.tar": [-5.0, -6.0]}, state="selectable", dataset_id=WEB)
    (warning,) = rescale_warnings(draw(dry_run=True, strategy=strategy))
    assert warning.startswith("0.024 of the eligible samples score outside the stored rank scale")
    assert rescale_warnings(draw(dry_run=True, strategy=strategy, rescale=True)) == []
    assert rescale_warnings(draw(dry_run=True, strategy=strategy, where="sample_id <= 400")) == [], (
        "only eligible ones count"
    )


def test_a_preview_warns_where_top_k_cuts_through_the_samples_above_the_scale(store: Engine) -> None:
    draw(0.01, strategy="top_k")
    add_night(store, "2026-01-09", {"a.tar": [5.0 + i for i in range(8)]}, state="selectable", dataset_id=WEB)
    assert rescale_warnings(draw(0.02, dry_run=True, strategy="top_k")) == []
    (warning,) = rescale_warnings(draw(0.01, dry_run=True, strategy="top_k"))
    assert warning.startswith("8 eligible samples score above the stored rank scale")
    assert "top_k chooses 4 of these without regard to their scores" in warning


def test_a_preview_warns_where_retention_saturates_the_strategy(store: Engine) -> None:
    assert any("asks for more samples than exist" in warning for warning in draw(0.7, dry_run=True).warnings)
    assert not any("more samples than" in w for w in draw(0.7, dry_run=True, strategy="random").warnings)


def test_a_preview_warns_of_samples_that_were_never_compared(store: Engine) -> None:
    assert any("About 400 samples were never searched" in warning for warning in draw(dry_run=True).warnings)
    set_duplicates(store, [(400, 1)])
    assert not any("never searched" in warning for warning in draw(dry_run=True).warnings)


def test_the_command_previews_and_its_last_line_is_the_report(
    store: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    command = "select --dataset web,books --strategy shift_gsample --retention 0.2 --dry-run --json"
    assert main(command.split()) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["n_samples"], report["version"], report["name"]) == (80, None, "web+books-shift_gsample-r20")


@pytest.mark.usefixtures("store")
def test_a_preview_leads_to_the_same_command_and_is_new_until_that_has_run(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["select", "--dataset", "web,books", "--dry-run", "--strategy", "random", "--where", "width > 1"]

    def preview() -> str:
        assert main(words) == 0
        return " ".join(capsys.readouterr().out.split())

    line = "alchemist select --dataset web,books --strategy random --where 'width > 1'"
    assert preview().endswith(f"next: {line}")
    assert main(shlex.split(line)[1:]) == 0
    assert "new: yes" in " ".join(capsys.readouterr().out.split())
    assert "new: no" in preview()


@pytest.mark.usefixtures("store")
def test_the_help_describes_every_option(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "1000")  # So that no word is broken.
    with pytest.raises(SystemExit):
        main(["select", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    for path, field in flag_fields(SelectConfig):
        assert re.search(rf"--{path[-1].replace('_', '-')}\b", said)
        assert " ".join(describe(path[-1], field).split()) in said
