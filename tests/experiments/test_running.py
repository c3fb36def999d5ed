"""An experiment run through the stages on a small store: cost first, every cell once, a reproducible table."""

import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from alchemist_core.cli.experiment import ListConfig, ShowConfig, list_, run, show
from alchemist_core.cli.tune_selection import SearchConfig, search
from alchemist_core.errors import ConfigError, TrainingCollapsedError
from alchemist_core.experiments.config import TrialsConfig
from alchemist_core.experiments.running import Experiment, RunConfig
from alchemist_core.experiments.trial import Trial
from alchemist_core.settings import load_settings
from alchemist_core.store.backups import checksum
from alchemist_core.store.engine import open_store
from alchemist_core.store.experiments import find_experiment
from alchemist_core.store.rank_windows import list_windows
from alchemist_core.training import bilevel

pytestmark = [pytest.mark.db, pytest.mark.e2e]


def config(corpus: Path, **fields: Any) -> RunConfig:
    given = {
        "experiment": "rank_window", "dataset": "scenes", "evaluation": "t", "rater": "production", "truth": str(corpus / "truth.parquet"),
        "arms": "random,planted,minus_loss,alignment/auto,full", "retentions": "0.3", "tuning_seeds": "0,1", "seeds": "2,3",
        "num_train_epochs": 1, "tuning_epochs": 1, "n_bands": 2, "model": "batch_size=32,width=16,depth=1", "training": "batch_size=32",
    }  # fmt: skip
    return RunConfig.model_validate(given | fields)


def test_only_the_seed_is_put_into_names_and_paths() -> None:
    given = TrialsConfig(
        dataset="{x}-s{seed}", validation="v", evaluation="{seed.real}", truth="/data/{x}/{seed}/truth.parquet"
    )
    trial = Trial(given, 7)
    assert (trial.dataset, trial.validation, trial.evaluation) == ("{x}-s7", "v", "{seed.real}")
    assert trial.truth == Path("/data/{x}/7/truth.parquet")


def n_models() -> int:
    with open_store().connect() as connection:
        return int(connection.execute(text("SELECT count(*) FROM alchemist.models")).scalar_one())


@pytest.mark.slow
@pytest.mark.usefixtures("scored_store")
def test_a_repeated_experiment_trains_nothing_and_writes_the_same_files(
    corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run(config(corpus))
    said = capsys.readouterr()
    lines = (said.out + said.err).splitlines()
    found = {path.name: path.read_bytes() for path in Path(str(first.folder)).iterdir()}
    assert {"table.txt", "table.csv", "result.json", "index.html", "arms-r30.svg"} <= found.keys()
    assert "| arm | seed 2 | seed 3 |" in found["table.md"].decode(), "the loss of each seed, to compare any two arms"
    # The plan, its cost, the tuning, then what can be seen, then cells.
    words = (
        "5 arms at a retention of 30%, compared on seeds 2, 3; rank windows are tuned on seeds 0, 1.",
        "At most", "tune-selection alignment 1/10 seed 0: random", "alignment 10/10 seed 1: window", "seeds would show",
        "1/10 seed 2: random",
    )  # fmt: skip
    order = [next(i for i, line in enumerate(lines) if word in line) for word in words]
    assert any("seed 2: oracle at 30%" in line for line in lines), "progress names arms as the table does"
    assert not any("planted at" in line for line in lines)
    assert order == sorted(order)
    # Of 2 choosing seeds: random, 2 bands, random and a window; of 2 reporting seeds: 5 arms, of which `auto` may have been random.
    n_first, before = n_models(), checksum(load_settings().database_url.get_secret_value())  # type: ignore[union-attr]
    assert 10 + 8 <= n_first <= 10 + 10
    stated = run(config(corpus, dry_run=True)).cost
    assert stated is not None
    # Those of 2 seeds, without `auto`, whose window is yet to be fitted, and without the validation model of minus_loss.
    assert (stated["n_models"], stated["n_existing_models"]) == (22, 8)
    assert "8 of these models exist" in "".join(capsys.readouterr())
    again = run(config(corpus))
    assert n_models() == n_first
    assert checksum(load_settings().database_url.get_secret_value()) == before  # type: ignore[union-attr]
    assert again.table == first.table
    assert {path.name: path.read_bytes() for path in Path(str(again.folder)).iterdir()} == found
    assert show(ShowConfig(name="rank_window")).table == first.table
    against = show(ShowConfig(name="rank_window", against="oracle"))
    assert against.folder is None
    assert str(against.table).startswith("Gain over oracle, paired by seed")
    assert [row["state"] for row in list_(ListConfig()).experiments] == ["finished"]


@pytest.mark.slow
@pytest.mark.usefixtures("scored_store")
def test_the_arms_of_one_seed_differ_in_their_samples_alone(corpus: Path) -> None:
    run(config(corpus, arms="random,planted", tuning_seeds=""))
    with open_store().connect() as connection:
        rows = connection.execute(
            text("SELECT seed, arm, n_samples, n_steps, config->'model' FROM alchemist.models")
        ).all()
    for seed in (2, 3):
        mine = [row for row in rows if row[0] == seed]
        assert len(mine) == 2
        assert len({(row[2], row[3], str(row[4])) for row in mine}) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("scored_store")
def test_a_rater_that_collapses_costs_only_the_arms_that_need_it(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # So strict a limit ends every training whose weights differ; those of rule learnability are all equal.
    monkeypatch.setattr(bilevel, "_WINDOW", 20)
    monkeypatch.setattr(bilevel, "_LEAST_SHARE", 0.999)
    given = {
        "experiment": "methods", "rater": None, "validation": "v", "tuning_seeds": "", "seeds": "2",
        "training": "batch_size=32,proxy_warmup_steps=2,max_train_steps=24,rater_learning_rate=0.1",
    }  # fmt: skip
    arms = "random,learnability/top_k,learnability+loss/top_k,loss/paper,alignment+loss/top_k"
    found = run(config(corpus, arms=arms, **given))
    assert [row["arm"] for row in found.rows] == ["random", "learnability/top_k"]
    said = "Seed 2 is without learnability+loss/top_k, loss/paper, alignment+loss/top_k: Rater training stopped: "
    assert said in str(found.table)
    stored = find_experiment(open_store(), found.name).result or {}
    assert [left["arm"] for left in stored["left_out"]] == [
        "learnability+loss/top_k",
        "loss/paper",
        "alignment+loss/top_k",
    ]
    assert said in str(show(ShowConfig(name=found.name)).table)
    for name, words in (("random-too", "random,loss/paper"), ("all", "loss/paper,alignment/top_k")):
        with pytest.raises(TrainingCollapsedError, match="has collapsed"):
            run(config(corpus, name=name, arms=words, **given))


@pytest.mark.slow
@pytest.mark.usefixtures("scored_store")
def test_equal_steps_give_every_arm_the_steps_of_the_full_corpus(corpus: Path) -> None:
    found = run(config(corpus, arms="random,full", tuning_seeds="", seeds="2", budget="steps"))
    assert [row["n_steps"] for row in found.rows] == [round(240 / 32)] * 2


@pytest.mark.slow
@pytest.mark.usefixtures("scored_store")
def test_each_length_is_a_training_of_its_own(corpus: Path) -> None:
    given = {
        "experiment": "training_time",
        "arms": "random,full",
        "tuning_seeds": "",
        "seeds": "2",
        "num_train_epochs": 2,
    }
    found = run(config(corpus, budget_multiples="0.5,1", **given))
    assert found.cost is not None
    assert found.cost["n_models"] == n_models() == 4
    assert [(row["arm"], row["length"], row["n_steps"]) for row in found.rows] == [
        *(("random", 0.5, 2), ("full", 0.5, 8)),
        *(("random", 1.0, 4), ("full", 1.0, 15)),
    ]
    assert (Path(str(found.folder)) / "times-r30.svg").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("scored_store")
def test_a_dry_run_prints_cost_and_detectable_effect_and_stores_nothing(
    corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(config(corpus, dry_run=True))
    said = capsys.readouterr()
    assert found.cost is not None
    # 2 × 5 of the probe, 5 arms × 2 seeds, and a validation model for minus_loss of each of the 2 seeds.
    assert (found.cost["n_models"], found.cost["n_existing_models"], found.cost["n_raters"]) == (22, 0, 0)
    assert "standard deviation of the differences" in said.out + said.err
    assert n_models() == 0
    assert list_(ListConfig()).experiments == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"arms": "random,alignment/gsample;mean_rank=7"},
            "^Arm alignment/gsample;mean_rank=7: mean_rank=7 is not valid",
        ),
        (
            {"arms": "random,loss/paper"},
            "rule alignment: it cannot rank arms of 'loss'. Name arms of alignment, such as alignment/auto, or omit --rater",
        ),
        ({"arms": "random,seal/auto"}, "penalty_schedule constant, not seal: it cannot rank arms of 'seal'"),
        (
            {"arms": "random,alignment+group/auto"},
            "group_weight False, not True: it cannot rank arms of 'alignment.group'",
        ),
        ({"arms": "random,rho_batches/top_k"}, "has the scoring rule alignment: it cannot rank arms of 'learnability'"),
        ({"arms": "random,oracle", "truth": None}, "^Arm oracle requires --truth FILE"),
    ],
)
@pytest.mark.usefixtures("scored_store")
def test_a_dry_run_refuses_the_arms_that_a_run_refuses(corpus: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(config(corpus, dry_run=True, **fields))


@pytest.mark.slow
@pytest.mark.usefixtures("scored_store")
def test_an_option_that_the_tuned_window_does_not_use_is_named(
    corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # One tuning seed shows no gain, so the window is random.
    run(config(corpus, arms="random,alignment/auto;std_rank=0.3", tuning_seeds="0", seeds="2"))
    assert list_windows(open_store()) == [], "the strategy auto of the production rater stays what it was"
    said = "".join(capsys.readouterr())
    assert (
        "Arm alignment/auto;std_rank=0.3 at 30%: the tuned rank window is of strategy random, which does not use std_rank"
        in said
    )


@pytest.mark.parametrize("arms", ["learnability/top_k,alignment/top_k", "alignment/top_k,learnability/top_k"])
@pytest.mark.usefixtures("scored_store")
def test_the_rater_whose_steps_take_longest_is_timed_for_all(corpus: Path, arms: str) -> None:
    fields = {"rater": None, "validation": "v", "tuning_seeds": "", "seeds": "2"}
    run(config(corpus, arms=arms, dry_run=True, **fields))
    given = {
        **config(corpus, **fields).model_dump(include={"dataset", "validation", "evaluation", "model", "training"})
    }
    search(SearchConfig.model_validate({**given, "recipes": arms, "dry_run": True}))
    with open_store().connect() as connection:
        timed = connection.execute(
            text("SELECT config -> 'rater' ->> 'rule' FROM alchemist.runs WHERE stage = 'time_steps'")
        ).scalars()
        assert list(timed) == ["alignment"] * 2


@pytest.mark.slow
@pytest.mark.usefixtures("scored_store")
def test_the_stated_cost_is_about_what_training_takes(corpus: Path) -> None:
    given = config(corpus, arms="random,full", tuning_seeds="", seeds="2", num_train_epochs=60)
    stated = run(given.model_copy(update={"dry_run": True})).cost
    assert stated is not None
    began = time.perf_counter()
    run(given)
    seconds = time.perf_counter() - began
    # Beside the steps there is reading, selecting and measuring, and other work on the machine.
    assert 0.1 * seconds < stated["seconds"] < 4 * seconds


@pytest.mark.slow
@pytest.mark.usefixtures("scored_store")
def test_a_name_belongs_to_one_experiment(corpus: Path) -> None:
    run(config(corpus, arms="random", tuning_seeds="", seeds="2", name="mine"))
    with pytest.raises(
        ConfigError, match=r"exists with other options: retentions 0\.3 there, 0\.4 here\..*--name NAME"
    ):
        run(config(corpus, arms="random", tuning_seeds="", seeds="2", name="mine", retentions="0.4"))
    with pytest.raises(ConfigError, match="There is no experiment 'other' \\(experiments: mine\\)"):
        find_experiment(open_store(), "other")


@pytest.mark.usefixtures("scored_store")
@pytest.mark.slow
def test_an_arm_of_another_rule_than_the_named_rater_is_refused(corpus: Path) -> None:
    with pytest.raises(ConfigError, match="has the scoring rule alignment: it cannot rank arms of 'loss'"):
        run(config(corpus, arms="random,loss/paper", tuning_seeds="", seeds="2"))


@pytest.mark.usefixtures("scored_store")
def test_a_named_rater_ranks_arms_of_the_kind_that_it_was_trained_as(corpus: Path) -> None:
    with open_store().begin() as connection:
        connection.execute(
            text("UPDATE alchemist.raters SET config = jsonb_set(config, '{training,group_weight}', 'true')")
        )
    experiment = Experiment(config(corpus, arms="random,alignment+group/top_k,alignment/top_k"))
    assert [arm.rater for arm, _ in experiment.arms] == ["alignment+group", "alignment+group", "alignment"]
