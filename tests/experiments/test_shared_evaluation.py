"""A setting that is chosen on images that also report is warned of, by any names of the evaluation datasets."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from alchemist_core.cli.experiment import run as run_experiment
from alchemist_core.cli.tune_selection import RunConfig as TuneConfig
from alchemist_core.cli.tune_selection import SearchConfig, search
from alchemist_core.cli.tune_selection import run as tune
from alchemist_core.errors import ConfigError
from alchemist_core.experiments.running import RunConfig
from alchemist_core.local.scenes import draw_scenes
from alchemist_core.stages.ingest import IngestConfig
from alchemist_core.stages.ingest import run as ingest
from alchemist_core.store.datasets import count_shared_images
from alchemist_core.store.engine import open_store
from alchemist_core.store.registry import find_dataset
from tests.trained_store import TrainedStore

pytestmark = [pytest.mark.db, pytest.mark.e2e]

SMALL = {
    "dataset": "scenes", "evaluation": "t-{seed}", "rater": "production", "dry_run": True,
    "num_train_epochs": 1, "model": "batch_size=32,width=16,depth=1", "training": "batch_size=32",
}  # fmt: skip


@pytest.fixture(autouse=True)
def tests_of_seeds(scored_store: TrainedStore, corpus: Path, tmp_path: Path) -> None:
    """Seeds 0 and 2 are evaluated on the same 64 images, copied to two datasets; seeds 1 and 3 on 64 and 48 images of their own."""
    for seed in (0, 2):
        shutil.copytree(corpus / "test", tmp_path / f"{seed}" / "test")
    for seed, n_test in ((1, 64), (3, 48)):
        draw_scenes(tmp_path / f"{seed}", seed=seed, n_train=8, n_validation=8, n_test=n_test, shard_size=40, side=32)
    for seed in range(4):
        given = {"dataset": f"t-{seed}", "root": str(tmp_path / f"{seed}" / "test"), "role": "evaluation"}
        ingest(IngestConfig.model_validate(given))


def experiment(*, tuning_seeds: str, seeds: str, **fields: Any) -> None:
    given = SMALL | {"experiment": "rank_window", "arms": "random,alignment/auto", "retentions": "0.3", "n_bands": 2}
    run_experiment(RunConfig.model_validate(given | {"tuning_seeds": tuning_seeds, "seeds": seeds} | fields))


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return "".join(capsys.readouterr())


def shared(choosing: list[int], reporting: list[int]) -> tuple[int, int]:
    ids = [[find_dataset(open_store(), f"t-{seed}").dataset_id for seed in seeds] for seeds in (choosing, reporting)]
    return count_shared_images(open_store(), *ids)


def test_images_are_shared_between_datasets_and_not_within_one() -> None:
    assert shared([0], [2]) == (64, 64)
    assert shared([0, 1], [2, 3]) == (64, 112)
    assert shared([1], [2, 3]) == (0, 112)
    # Where the same seeds choose and report, each dataset is compared with the others.
    assert shared([0, 1, 3], [0, 1, 3]) == (0, 176)
    assert shared([0, 1, 2], [0, 1, 2]) == (64, 128)


def test_an_experiment_says_that_its_tuning_seeds_see_the_images_that_report(
    capsys: pytest.CaptureFixture[str],
) -> None:
    experiment(tuning_seeds="0,1", seeds="2,3")
    assert "64 of 112 evaluation images of seeds 2, 3 are also evaluation images of seeds 0, 1" in said(capsys)


@pytest.mark.parametrize(
    ("tuning_seeds", "seeds", "fields"),
    [
        # Other images choose than report.
        ("0,1", "3", {}),
        # Nothing is chosen on the first seeds.
        ("", "0,2", {}),
        ("0,1", "2,3", {"arms": "random,alignment/top_k"}),
        # There are no datasets of seeds 7 and 8.
        ("7,8", "2,3", {"arms": "random,alignment/top_k"}),
    ],
)
def test_an_experiment_whose_reported_images_chose_nothing_warns_of_nothing(
    tuning_seeds: str, seeds: str, fields: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    experiment(tuning_seeds=tuning_seeds, seeds=seeds, **fields)
    assert "evaluation images" not in said(capsys)


def test_an_experiment_that_chooses_nothing_does_not_say_that_one_dataset_chooses_and_reports(
    capsys: pytest.CaptureFixture[str],
) -> None:
    experiment(tuning_seeds="", seeds="2", evaluation="t")
    assert "the samples that choose" not in said(capsys)
    experiment(tuning_seeds="0", seeds="2", evaluation="t")
    assert "All seeds are measured on t: the samples that choose also report" in said(capsys)


def test_a_tuning_whose_seeds_choose_for_each_other_says_what_they_share(capsys: pytest.CaptureFixture[str]) -> None:
    given = SMALL | {"retentions": "0.3", "n_bands": 2}
    tune(TuneConfig.model_validate(given | {"seeds": "0,2"}))
    assert "64 of 64 evaluation images of seeds 0, 2 are also evaluation images of another of them" in said(capsys)
    tune(TuneConfig.model_validate(given | {"seeds": "0,1"}))
    assert "evaluation images" not in said(capsys)


def test_a_search_says_that_its_confirmation_sees_the_images_that_chose(capsys: pytest.CaptureFixture[str]) -> None:
    given = SMALL | {"recipes": "alignment/top_k,alignment/gsample", "name": "of-two"}
    search(SearchConfig.model_validate(given | {"seeds": "0", "confirmation_seeds": "2,3"}))
    assert "64 of 112 evaluation images of seeds 2, 3 are also evaluation images of seed 0:" in said(capsys)


def test_a_dataset_that_raters_and_methods_learn_from_does_not_measure_them() -> None:
    both = {"validation": "t-{seed}", "rater": None}
    told = "--validation and --evaluation are both t-"
    with pytest.raises(ConfigError, match=told):
        experiment(tuning_seeds="0,1", seeds="3", **both)
    with pytest.raises(ConfigError, match=told):
        tune(TuneConfig.model_validate(SMALL | both | {"retentions": "0.3", "n_bands": 2, "seeds": "0,1"}))
    with pytest.raises(ConfigError, match=told):
        search(
            SearchConfig.model_validate(
                SMALL
                | both
                | {"recipes": "alignment/top_k,alignment/gsample", "seeds": "0", "confirmation_seeds": "1,3"}
            )
        )
