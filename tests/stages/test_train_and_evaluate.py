"""Arms of the same size and number of steps are trained once, measured under one protocol and shown in the report."""

from pathlib import Path

import pytest
from sqlalchemy import text

from alchemist_core.cli.approvals import PlanEvaluateConfig, PublishedVersion, plan_evaluate
from alchemist_core.cli.demo import QUERIES, read_arms
from alchemist_core.cli.sample import TakedownConfig, takedown
from alchemist_core.cli.subset import (
    CompareConfig,
    PublishSubsetConfig,
    WithdrawSubsetConfig,
    compare,
    publish,
    withdraw,
)
from alchemist_core.errors import ConfigError, DataError
from alchemist_core.stages.evaluate import EvaluateConfig
from alchemist_core.stages.evaluate import run as evaluate
from alchemist_core.stages.report import ReportConfig
from alchemist_core.stages.report import run as report
from alchemist_core.stages.train_downstream import TrainDownstreamConfig, TrainDownstreamResult
from alchemist_core.stages.train_downstream import run as train_downstream
from alchemist_core.stages.train_rater import TrainRaterConfig
from alchemist_core.stages.train_rater import run as train_rater
from alchemist_core.store.backups import checksum
from alchemist_core.store.engine import open_store
from alchemist_core.store.queries import load_query
from alchemist_core.store.raters import find_rater
from tests.trained_store import TrainedStore, select_subset

pytestmark = [pytest.mark.db, pytest.mark.e2e]
ARMS = "subset,random,oracle,full"


def train(corpus: Path, **fields: object) -> TrainDownstreamResult:
    given = {
        "subset": "s",
        "arms": ARMS,
        "truth": corpus / "truth.parquet",
        "model": {"num_train_epochs": 1, "batch_size": 32},
    }
    return train_downstream(TrainDownstreamConfig.model_validate(given | fields))


def test_arms_are_trained_once_measured_once_and_compared(corpus: Path, published_store: TrainedStore) -> None:
    assert plan_evaluate(PlanEvaluateConfig()).versions == [PublishedVersion(subset="s", version=1)]
    assert train(corpus).n_trained == 4
    measured = evaluate(EvaluateConfig(subset="s"))
    assert measured.n_measured == 4
    assert set(measured.means) == {"subset", "random", "oracle", "full"}
    before = checksum(published_store.url)
    assert (train(corpus).n_trained, evaluate(EvaluateConfig(subset="s")).n_measured) == (0, 0)
    assert checksum(published_store.url) == before
    assert plan_evaluate(PlanEvaluateConfig()).subsets == []
    arms = {arm.arm: arm for arm in read_arms({0})}
    assert {arms[name].n_samples for name in ("subset", "random", "planted")} == {120}
    assert len({arms[name].steps for name in ("subset", "random", "planted")}) == 1
    assert arms["full"].n_samples == 240


@pytest.mark.slow
@pytest.mark.usefixtures("published_store")
def test_means_are_of_models_that_were_trained_alike_and_the_others_are_counted(corpus: Path) -> None:
    train(corpus, arms="subset,random")
    before = evaluate(EvaluateConfig(subset="s"))
    train(corpus, arms="subset", model={"num_train_epochs": 3, "batch_size": 32})
    after = evaluate(EvaluateConfig(subset="s"))
    assert (before.n_trained_otherwise, after.n_trained_otherwise, after.n_measured) == (None, 1, 1)
    assert after.means == before.means
    assert "trained otherwise: 1" in after.summary()


@pytest.mark.slow
@pytest.mark.usefixtures("scored_store")
def test_the_arms_of_a_repeated_subset_and_of_validation_data_make_the_same_number_of_steps(corpus: Path) -> None:
    chosen = select_subset("s", 0.5, strategy="shift_gsample", drop_top_ratio=0.75, mean_rank=0.9, fill="repeat")
    assert (chosen.n_samples < 70, chosen.epoch_size) == (True, 120)
    publish(PublishSubsetConfig(name="s"))
    arms = "subset,random,oracle,minus_loss,validation,subset+validation"
    assert train(corpus, arms=arms).n_trained == 6
    measured = evaluate(EvaluateConfig(subset="s"))
    assert set(measured.means) == set(arms.split(","))
    rows = {arm.arm: (arm.n_samples, arm.steps) for arm in read_arms({0})}
    sizes = {
        "subset": 120,
        "random": 120,
        "planted": 120,
        "minus_loss": 120,
        "validation": 200,
        "subset+validation": 320,
    }
    assert rows == {arm: (size, round(120 / 32)) for arm, size in sizes.items()}
    assert train(corpus, arms=arms).n_trained == 0
    page = Path(report(ReportConfig(dataset="scenes")).path).read_text(encoding="utf-8")
    assert "validation dataset alone, as many steps" in page
    # The same members with weights are another model.
    select_subset("w", 0.5, strategy="head_gsample", weight_by="rank")
    select_subset("u", 0.5, strategy="head_gsample")
    weighted, plain = (train(corpus, subset=name, arms="subset") for name in ("w", "u"))
    assert weighted.identities != plain.identities


@pytest.mark.usefixtures("modelled_store")
@pytest.mark.slow
def test_several_protocols_are_measured_one_after_the_other_each_in_a_run_of_its_own(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('metric = "heldout_loss"\n')
    measured = evaluate(EvaluateConfig(subset="s", protocol=f"{mine},heldout_loss"))
    (other,) = measured.others
    # Held-out losses are identified by their conditions, not by the name of a file.
    assert (measured.n_measured, other.n_measured, other.n_reused) == (2, 0, 2)
    assert measured.means == other.means
    assert measured.summary().count("subset:") == 2
    with open_store().connect() as connection:
        runs = "SELECT config ->> 'protocol' FROM alchemist.runs WHERE stage = 'evaluate' ORDER BY run_id"
        assert connection.execute(text(runs)).scalars().all() == [str(mine), "heldout_loss"]


@pytest.mark.usefixtures("modelled_store")
def test_a_rater_that_has_learned_from_the_evaluation_dataset_is_found_again_and_warned_of(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As an earlier version trained it."""
    evaluate(EvaluateConfig(subset="s"))
    assert "has learned from" not in capsys.readouterr().err
    with open_store().begin() as connection:
        connection.execute(text("UPDATE alchemist.datasets SET role = 'evaluation' WHERE name = 'v'"))
    rater = find_rater(open_store(), "production")
    assert rater is not None
    again = train_rater(TrainRaterConfig.from_stored(rater.config))
    assert (again.rater, again.is_new) == (rater.name, False)
    assert evaluate(EvaluateConfig(subset="s", evaluation="v")).n_measured == 2
    assert f"Rater {rater.name} has learned from v, its validation dataset" in capsys.readouterr().err


@pytest.mark.usefixtures("modelled_store")
def test_a_subset_waits_until_it_has_values_under_every_protocol() -> None:
    evaluate(EvaluateConfig(subset="s"))
    assert plan_evaluate(PlanEvaluateConfig()).subsets == []
    both = PlanEvaluateConfig(protocol="heldout_loss,kid_offline")
    assert plan_evaluate(both).subsets == ["s"]
    with pytest.raises(ConfigError, match="No evaluation protocol 'none'"):
        plan_evaluate(PlanEvaluateConfig(protocol="none"))


@pytest.mark.usefixtures("modelled_store")
@pytest.mark.slow
def test_a_new_seed_trains_only_what_is_new(corpus: Path) -> None:
    assert train(corpus, arms="subset,random", seeds="0,1").n_trained == 2


@pytest.mark.usefixtures("modelled_store")
def test_a_comparison_over_seeds_lands_in_sql_with_its_interval(corpus: Path) -> None:
    train(corpus, arms="subset,random", seeds="0,1")
    evaluate(EvaluateConfig(subset="s"))
    found = compare(CompareConfig(subset="s"))
    rows = {row["arm"]: row for row in found.rows}
    assert rows["subset"]["n_seeds"] == rows["random"]["n_seeds"] == 2
    assert rows["subset"]["gain"] == pytest.approx(rows["random"]["mean"] - rows["subset"]["mean"])
    assert rows["subset"]["gain_low"] < rows["subset"]["gain"] < rows["subset"]["gain_high"]
    assert f"{rows['subset']['gain']:.4f} [" in found.summary()


@pytest.mark.usefixtures("modelled_store")
def test_a_withdrawn_subset_is_evaluated_no_more_and_the_report_keeps_it_as_history() -> None:
    evaluate(EvaluateConfig(subset="s"))
    assert plan_evaluate(PlanEvaluateConfig(seeds=(0, 1))).subsets == ["s"]
    page = Path(report(ReportConfig(dataset="scenes")).path).read_text(encoding="utf-8")
    assert ("s v1" in page, "Withdrawn versions" in page) == (True, False)
    withdraw(WithdrawSubsetConfig(name="s", reason="captions of the wrong crawl"))
    assert plan_evaluate(PlanEvaluateConfig(seeds=(0, 1))).subsets == []
    with open_store().connect() as connection:
        assert connection.execute(load_query("measure_subsets")).all() == []
        states = "SELECT DISTINCT state FROM alchemist.subset_comparisons"
        assert connection.execute(text(states)).scalars().all() == ["withdrawn"]
    with pytest.raises(ConfigError, match="captions of the wrong crawl"):
        evaluate(EvaluateConfig(subset="s"))
    page = Path(report(ReportConfig(dataset="scenes")).path).read_text(encoding="utf-8")
    assert "Withdrawn versions" in page
    assert "captions of the wrong crawl" in page
    assert "No model has been evaluated yet" in page


@pytest.mark.usefixtures("published_store")
def test_what_was_never_measured_cannot_be_compared() -> None:
    with pytest.raises(ConfigError, match="No model of s v1 was evaluated"):
        compare(CompareConfig(subset="s"))


@pytest.mark.usefixtures("published_store")
def test_an_oracle_arm_requires_the_truth(corpus: Path) -> None:
    with pytest.raises(ConfigError, match="--truth"):
        train(corpus, truth=None)


@pytest.mark.usefixtures("modelled_store")
def test_the_report_is_one_file_that_is_written_again_only_when_it_changes() -> None:
    first = report(ReportConfig(dataset="scenes"))
    page = Path(first.path).read_text(encoding="utf-8")
    assert first.is_new
    assert "data:image/jpeg;base64," in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert not report(ReportConfig(dataset="scenes")).is_new
    evaluate(EvaluateConfig(subset="s"))
    assert report(ReportConfig(dataset="scenes")).is_new


@pytest.mark.usefixtures("published_store")
def test_a_control_with_a_sample_that_was_taken_down_says_so_and_the_next_version_has_its_controls(
    corpus: Path,
) -> None:
    with open_store().connect() as connection:
        outside = """
            SELECT encode(image_hash, 'hex') FROM alchemist.samples JOIN alchemist.sample_locations USING (sample_id)
            JOIN alchemist.shards USING (shard_id) JOIN alchemist.datasets USING (dataset_id)
            WHERE name = 'scenes' AND sample_id NOT IN (SELECT sample_id FROM alchemist.subset_samples) LIMIT 1
        """
        image_hash = connection.execute(text(outside)).scalar_one()
    takedown(TakedownConfig(image_hash=image_hash, reason="asked", successors=False))
    with pytest.raises(DataError, match=r"^1 of 240 samples of the arm were taken down .* Select again, and train on"):
        train(corpus, arms="full")
    select_subset("s", 0.5)
    assert train(corpus, version=2, arms="full").n_trained == 1
    # Where shards are missing, too, they are the remedy.
    with open_store().begin() as connection:
        first = "(SELECT min(shard_id) FROM alchemist.shards JOIN alchemist.datasets USING (dataset_id) WHERE name = 'scenes')"
        connection.execute(text(f"UPDATE alchemist.shards SET state = 'missing' WHERE shard_id = {first}"))
    with pytest.raises(DataError, match=r"of 240 members have no readable location.*alchemist shard list"):
        train(corpus, version=1, arms="full")


def test_a_report_can_be_made_before_anything_exists(database_url: str) -> None:
    assert report(ReportConfig()).n_bytes > 1000


@pytest.mark.slow
@pytest.mark.usefixtures("published_store")
def test_a_version_whose_predecessor_cannot_be_drawn_again_is_reported_without_the_comparison(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with open_store().connect() as connection:
        image_hash = connection.execute(
            text("""
                SELECT encode(image_hash, 'hex') FROM alchemist.samples JOIN alchemist.sample_locations USING (sample_id)
                JOIN alchemist.shards USING (shard_id) JOIN alchemist.datasets USING (dataset_id) WHERE name = 'scenes' LIMIT 1
            """)
        ).scalar_one()
    takedown(TakedownConfig(image_hash=image_hash, reason="asked", successors=False))
    select_subset("s", 0.3)
    publish(PublishSubsetConfig(name="s"))
    assert "Since version 1" in Path(report(ReportConfig(dataset="scenes")).path).read_text(encoding="utf-8")
    with open_store().begin() as connection:
        connection.execute(
            text("""
                UPDATE alchemist.rank_snapshots SET eligible_hash = repeat('0', 64)
                WHERE snapshot_id = (SELECT snapshot_id FROM alchemist.subsets WHERE name = 's' AND version = 1)
            """)
        )
    page = Path(report(ReportConfig(dataset="scenes")).path).read_text(encoding="utf-8")
    assert "Since version 1" not in page
    assert "s v2: not compared with version 1: " in capsys.readouterr().err


@pytest.mark.usefixtures("published_store")
def test_each_query_that_the_demo_prints_finds_something() -> None:
    """Also where the samples with the lowest ids have no scores, because the validation dataset was ingested first."""
    with open_store().connect() as connection:
        assert [sql for sql in QUERIES if not connection.execute(text(sql)).all()] == []
