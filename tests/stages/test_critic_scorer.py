"""The critic from validation samples to scores: trained by the command line's function, registered, checked, scored, ranked by."""

import re
import shlex
from collections.abc import Callable

import pytest
from sqlalchemy import Engine, text

from alchemist_core.__main__ import main
from alchemist_core.cli.scorer import CheckConfig, check
from alchemist_core.cli.scorer_training import TrainScorerConfig, TrainScorerResult, train_scorer
from alchemist_core.errors import ConfigError
from alchemist_core.files import artifact_path
from alchemist_core.scorers.registration import load_runner
from alchemist_core.scorers.trained import ARTIFACT
from alchemist_core.stages.score import ScoreConfig, run
from alchemist_core.store.engine import open_store
from alchemist_core.store.raters import find_outputs
from tests.given import insert_rows
from tests.trained_store import TrainedStore, select_subset

pytestmark = [pytest.mark.db, pytest.mark.e2e]


def train(**changed: object) -> TrainScorerResult:
    training = {"max_train_steps": 60, "batch_size": 64, "hidden": 128, "dim": 64, "n_references": 64}
    return train_scorer(
        TrainScorerConfig.model_validate({"validation": "v", "resolution": 32, "training": training | changed})
    )


@pytest.mark.slow
def test_a_critic_is_trained_on_validation_registered_and_ranks_a_selection(scored_store: TrainedStore) -> None:
    found = train()
    assert found.is_new
    assert found.heldout_auc > 0.8
    assert found.n_train + found.n_heldout <= 200, "the validation dataset alone"
    assert not train().is_new, "an equal training gives an equal file"
    checked = check(CheckConfig(name="critic", dataset="scenes", n_samples=100))
    assert (checked.difference, checked.n_without_score) == (0.0, 0)
    with pytest.raises(ConfigError, match="no file"):
        check(CheckConfig(name="critic", dataset="scenes", n_samples=100, option=("head=/nowhere",)))
    scored = run(ScoreConfig(scorer="critic"))
    assert scored.n_scored == 240
    assert run(ScoreConfig(scorer="critic")).n_scored == 0
    selected = select_subset("by_critic", rank_by="critic")
    accepted = select_subset("accepted", "auto", rank_by="critic", accept_loss=0.1)
    assert accepted.accepted is not None
    assert f"{accepted.n_samples:,} of {accepted.n_eligible:,} eligible samples" in accepted.accepted
    assert re.search(
        r"10\.0% of the critic's 22 held-out samples of v have a lower score; with the caption of another sample, ",
        accepted.accepted,
    )
    assert 0 < accepted.n_samples < accepted.n_eligible
    assert accepted.n_removed["rejected"] == accepted.n_eligible - accepted.n_samples
    assert accepted.retention == pytest.approx(accepted.n_samples / accepted.n_eligible)
    with open_store().connect() as connection:
        n_scores = connection.execute(
            text("SELECT count(*) FROM alchemist.scores JOIN alchemist.raters USING (rater_id) WHERE name = 'critic'")
        ).scalar_one()
    assert (n_scores, selected.n_samples) == (240, selected.n_eligible // 2)

    path = artifact_path(found.head.removeprefix(ARTIFACT))
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ConfigError, match="is not the one that was registered"):
        load_runner(find_outputs(open_store(), "critic"), "cpu")


@pytest.mark.slow
def test_a_critic_of_more_samples_is_registered_by_the_command_that_the_refusal_of_its_name_prints(
    ingest_corpus: Callable[[], object],
) -> None:
    ingest_corpus()
    trained = train()
    with pytest.raises(ConfigError, match=r"The name critic belongs to another scorer \(other identity\)") as refused:
        train(seed=1)
    printed = str(refused.value).partition("trained again: alchemist ")[2].partition("\n")[0]
    assert printed.startswith("scorer register critic_2 --use critic --option head=artifact:critics/")
    assert main(shlex.split(printed)) == 0
    first, second = (find_outputs(open_store(), name)[0].config["settings"]["head"] for name in ("critic", "critic_2"))
    assert first == trained.head != second


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("My-critic", "is not a name for a scorer"),
        ("width", "Scores cannot be named 'width'"),
        ("ours", "belongs to imported scores"),
        ("pixels", "belongs to another scorer"),
    ],
)
def test_a_name_that_a_critic_cannot_get_is_refused_before_it_is_trained(
    database_url: str, name: str, message: str
) -> None:
    with open_store().begin() as connection:
        insert_rows(connection, {
            "datasets": [{"dataset_id": 1, "name": "v", "role": "validation"}],
            "raters": [
                {"rater_id": 1, "name": "ours", "kind": "imported", "rule": "imported"},
                {"rater_id": 2, "name": "pixels_clarity", "kind": "scorer", "rule": "scorer", "config": {"name": "pixels"}},
            ],
        })  # fmt: skip
    with pytest.raises(ConfigError, match=message):
        train_scorer(TrainScorerConfig(name=name, validation="v"))
    with open_store().connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM alchemist.runs")).scalar_one() == 0


@pytest.mark.slow
def test_a_density_ratio_is_fitted_to_both_datasets_registered_and_ranks_a_selection(
    scored_store: TrainedStore,
) -> None:
    given = {"name": "density", "kind": "density", "validation": "v", "dataset": "scenes", "resolution": 32}
    found = train_scorer(TrainScorerConfig.model_validate(given))
    assert found.is_new
    assert found.n_train + found.n_heldout <= 200 + 240
    assert 0 <= found.heldout_auc <= 1
    assert not train_scorer(TrainScorerConfig.model_validate(given)).is_new, "an equal training gives an equal file"
    checked = check(CheckConfig(name="density", dataset="scenes", n_samples=100))
    assert (checked.difference, checked.n_without_score) == (0.0, 0)
    assert run(ScoreConfig(scorer="density")).n_scored == 240
    assert run(ScoreConfig(scorer="density")).n_scored == 0
    train()
    run(ScoreConfig(scorer="critic"))
    assert select_subset("by_both", rank_by="critic+density").n_samples == 120
    # A scorer from before held-out scores were stored gets them by an equal training.
    with open_store().begin() as connection:
        connection.execute(text("UPDATE alchemist.raters SET acceptance_report = '{}' WHERE name = 'density'"))
    with pytest.raises(ConfigError, match=r"^density was not measured on held-out.*alchemist scorer train"):
        select_subset("good", "auto", rank_by="critic+density")
    assert not train_scorer(TrainScorerConfig.model_validate(given)).is_new
    accepted = select_subset("good", "auto", rank_by="critic+density")
    assert accepted.accepted is not None
    assert "have a lower fused score, if critic and density err independently" in accepted.accepted
    assert 0 < accepted.n_samples < 240
    other = train_scorer(TrainScorerConfig.model_validate(given | {"name": "d64", "resolution": 64}))
    assert other.sha256 != found.sha256


@pytest.mark.slow
def test_a_density_ratio_takes_no_more_samples_of_each_dataset_than_asked_for(
    ingest_corpus: Callable[[], object],
) -> None:
    ingest_corpus()
    given: dict[str, object] = {"kind": "density", "validation": "v", "dataset": "scenes", "resolution": 32}
    given |= {"max_samples": 150, "max_corpus_samples": 100}
    found = train_scorer(TrainScorerConfig.model_validate(given))
    assert found.n_train + found.n_heldout == 150 + 100
    # An equal training gives an equal file, and makes the scorer nightly.
    again = train_scorer(TrainScorerConfig.model_validate(given | {"nightly": True}))
    assert (again.is_new, found.is_nightly, again.is_nightly) == (False, False, True)
    assert find_outputs(open_store(), found.name)[0].is_shadow


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"validation": "t"}, r"--validation t: its role is evaluation.*Give a dataset of role validation"),
        ({"kind": "density", "validation": "t", "dataset": "scenes"}, r"--validation t: its role is evaluation"),
        (
            {"kind": "density", "validation": "v", "dataset": "t"},
            r"--dataset t: its role is evaluation.*Give a dataset of role train",
        ),
    ],
)
def test_no_scorer_is_trained_on_samples_that_measure_models(
    given: dict[str, str], message: str, engine: Engine
) -> None:
    roles = {"scenes": "train", "v": "validation", "t": "evaluation"}
    datasets = [{"dataset_id": n, "name": name, "role": role} for n, (name, role) in enumerate(roles.items(), 1)]
    with engine.begin() as connection:
        insert_rows(connection, {"datasets": datasets})
    with pytest.raises(ConfigError, match=message):
        train_scorer(TrainScorerConfig.model_validate({"resolution": 32} | given))
    assert find_outputs(engine, "critic") == []


def test_a_density_ratio_needs_a_corpus_and_a_critic_takes_none() -> None:
    for fields in ({"kind": "density"}, {"dataset": "scenes"}):
        with pytest.raises(ValueError, match="--kind density needs --dataset, the corpus, and a critic takes none"):
            TrainScorerConfig.model_validate({"validation": "v"} | fields)
