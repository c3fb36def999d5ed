"""Table 3: one experiment on several corpora, each with its own raters; finished corpora are reused."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import text

from alchemist_core.cli.experiment import ListConfig, ShowConfig, compare_datasets, list_, run, show
from alchemist_core.errors import ConfigError
from alchemist_core.experiments.datasets import DatasetsConfig, make_datasets_sheet, part_name
from alchemist_core.experiments.stored import conclude
from alchemist_core.report.arm_names import arm_title
from alchemist_core.store.engine import open_store
from tests.trained_store import TrainedStore

SMALL, SMALLER = (f"scenes:n_train={n}+n_validation=128+n_test=32+side=32+shard_size=80" for n in (160, 128))


def config(**fields: Any) -> DatasetsConfig:
    given = {
        "corpora": f"{SMALL},{SMALLER}", "arms": "random,alignment/auto", "retentions": "0.25,0.5", "tuning_seeds": "", "seeds": "3",
        "num_train_epochs": 1, "model": "batch_size=32,width=16,depth=1",
        "training": "batch_size=32,proxy_warmup_steps=4,max_train_steps=4",
    }  # fmt: skip
    return DatasetsConfig.model_validate(given | fields)


def counted() -> tuple[int, int]:
    with open_store().connect() as connection:
        rows = connection.execute(
            text("SELECT (SELECT count(*) FROM alchemist.models), (SELECT count(*) FROM alchemist.raters)")
        )
        models, raters = rows.one()
    return int(models), int(raters)


@pytest.mark.slow
@pytest.mark.db
@pytest.mark.e2e
def test_two_drawn_corpora_at_two_retentions_and_what_exists_is_not_trained_again(trained_store: TrainedStore) -> None:
    # The state after a run that was killed after its first corpus.
    run(config().parts()[SMALL])
    assert counted() == (4, 2)
    first = compare_datasets(config())
    assert counted() == (8, 3)
    found = {path.name: path.read_bytes() for path in Path(str(first.folder)).iterdir()}
    assert first.table is not None
    for corpus, n_train in ((SMALL, 160), (SMALLER, 128)):
        rows = [line.split() for line in first.table.splitlines() if line.startswith(f"{corpus} ")]
        assert [(row[1], row[2], int(row[3])) for row in rows] == [
            (arm, f"{share:.0%}", round(share * n_train))
            for share in (0.25, 0.5)
            for arm in ("random", "alignment/auto")
        ]
    assert sum(name.endswith(".svg") for name in found) == 4
    more = config(corpora=f"{SMALL},{SMALLER},{SMALLER}0")
    with pytest.raises(
        ConfigError, match=r"'datasets' exists with other options: corpora .*Give this run another name"
    ):
        compare_datasets(more)
    again = [compare_datasets(config()), show(ShowConfig(name="datasets"))]
    assert counted() == (8, 3)
    assert [other.table for other in again] == [first.table] * 2
    assert {path.name: path.read_bytes() for path in Path(str(first.folder)).iterdir()} == found
    assert {row["name"] for row in list_(ListConfig()).experiments} == {
        "datasets", *(part_name("datasets", corpus) for corpus in (SMALL, SMALLER))
    }  # fmt: skip


def test_a_corpus_by_name_brings_its_own_validation_and_evaluation() -> None:
    (part,) = config(corpora="web-s{seed}/good/test").parts().values()
    assert (part.dataset, part.validation, part.evaluation) == ("web-s{seed}", "good", "test")
    assert (part.name, part.retentions, part.arms) == (
        "datasets-web-s-seed-good-test", (0.25, 0.5), ("random", "alignment/auto")
    )  # fmt: skip


def test_the_default_asks_what_table_3_asks() -> None:
    parts = DatasetsConfig().parts()
    assert len(parts) == 2
    for part in parts.values():
        assert part.question_retentions == (0.2, 0.5)
        assert {"random", "alignment/auto"} < set(part.question_arms)


@pytest.mark.parametrize("corpora", ["web", "web/good", "web//test", "photos:n=3"])
def test_a_word_that_names_no_corpus_is_refused(corpora: str) -> None:
    with pytest.raises(ConfigError, match="give DATASET/VALIDATION/EVALUATION, or scenes:FIELD=VALUE"):
        config(corpora=corpora).parts()


def test_one_corpus_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="names one corpus twice"):
        config(corpora="scenes,scenes").parts()


@pytest.mark.parametrize("field", ["dataset", "scenes", "rater"])
def test_options_of_a_corpus_are_refused_outside_of_its_definition(field: str) -> None:
    named = {"dataset": "d", "validation": "v", "evaluation": "e"}
    with pytest.raises(ValidationError, match=f"{field}.* cannot be set beside --corpora: name the datasets"):
        config(**{"scenes": {"scenes": "side=32"}, "dataset": named, "rater": {**named, "rater": "r"}}[field])


def test_the_sheet_names_the_best_arm_of_each_corpus_and_share() -> None:
    # No policy could select what the oracle selects.
    losses = {"random": 3.0, "a": 2.5, "b": 2.8, "planted": 1.5, "planted+plain": 1.6, "full": 1.0}
    cells = [
        {"arm": arm, "retention": 0.2, "seed": seed, "n_samples": 9, "n_steps": 9, "loss": loss + seed / 10}
        for arm, loss in losses.items()
        for seed in (3, 4)
    ]
    sheet = make_datasets_sheet({"web": {"cells": cells}})
    assert sheet.notes[1] == "web, retention 20%: a has the largest gain over random, 0.5000 ± 0.0000 nats per token."
    assert [line[:2] for line in sheet.lines] == [("web", arm_title(arm)) for arm in losses]
    assert conclude({"corpora": ["web"]}, {"parts": {"web": {"cells": cells}}}) == (
        "an arm is better than random on 1 of 1 corpora"
    )


def test_arms_that_all_selected_at_random_have_no_best_one() -> None:
    cells = [
        {"arm": arm, "retention": 0.2, "seed": seed, "n_samples": 9, "n_steps": 9, "loss": 3.0 + seed}
        for arm in ("random", "a", "b")
        for seed in (3, 4)
    ]
    said = make_datasets_sheet({"web": {"cells": cells}}).notes[1]
    assert said == "web, retention 20%: every arm selected the same samples as random, so there is no gain to compare."


def test_several_lengths_have_a_figure_and_a_best_arm_each() -> None:
    losses = {
        ("random", 0.5): 4.0,
        ("a", 0.5): 3.0,
        ("b", 0.5): 3.5,
        ("random", 1.0): 3.0,
        ("a", 1.0): 2.9,
        ("b", 1.0): 2.0,
    }
    cells = [
        {
            "arm": arm,
            "retention": 0.2,
            "seed": seed,
            "n_samples": 9,
            "n_steps": 9,
            "loss": loss + seed,
            "length": length,
        }
        for (arm, length), loss in losses.items()
        for seed in (3, 4)
    ]
    sheet = make_datasets_sheet({"web": {"cells": cells}})
    assert list(sheet.figures) == ["web-r20-x0.5", "web-r20-x1"]
    assert sheet.notes[1:] == [
        "web, retention 20%, 0.5× the epochs: a has the largest gain over random, 1.0000 ± 0.0000 nats per token.",
        "web, retention 20%, 1× the epochs: b has the largest gain over random, 1.0000 ± 0.0000 nats per token.",
    ]
