"""The critic from validation samples to scores: trained by the command line's function, registered, checked, scored, ranked by."""

import pytest
from sqlalchemy import text

from alchemist_core.cli.scorer import CheckConfig, check
from alchemist_core.cli.scorer_training import TrainScorerConfig, TrainScorerResult, train_scorer
from alchemist_core.errors import ConfigError
from alchemist_core.files import artifact_path
from alchemist_core.scorers.critic import ARTIFACT
from alchemist_core.stages.score import ScoreConfig, run
from alchemist_core.store.engine import open_store
from tests.trained_store import TrainedStore, select_subset

pytestmark = [pytest.mark.db, pytest.mark.e2e]


def train(**changed: object) -> TrainScorerResult:
    training = {"max_train_steps": 60, "batch_size": 64, "hidden": 128, "dim": 64, "n_references": 64}
    return train_scorer(
        TrainScorerConfig.model_validate({"validation": "v", "resolution": 32, "training": training | changed})
    )


def test_a_critic_is_trained_on_validation_registered_and_ranks_a_selection(scored_store: TrainedStore) -> None:
    found = train()
    assert found.is_new
    assert found.heldout_auc > 0.8
    assert found.n_train + found.n_heldout <= 200, "the validation dataset alone"
    assert not train().is_new, "an equal training gives an equal file"
    with pytest.raises(ConfigError, match=r"belongs to another scorer \(other identity\).*critic_2"):
        train(seed=1)
    checked = check(CheckConfig(name="critic", dataset="scenes", n_samples=100))
    assert (checked.difference, checked.n_without_score) == (0.0, 0)
    scored = run(ScoreConfig(scorer="critic"))
    assert scored.n_scored == 240
    assert run(ScoreConfig(scorer="critic")).n_scored == 0
    selected = select_subset("by_critic", rank_by="critic")
    with open_store().connect() as connection:
        n_scores = connection.execute(
            text("SELECT count(*) FROM alchemist.scores JOIN alchemist.raters USING (rater_id) WHERE name = 'critic'")
        ).scalar_one()
    assert (n_scores, selected.n_samples) == (240, selected.n_eligible // 2)

    path = artifact_path(found.head.removeprefix(ARTIFACT))
    path.write_bytes(path.read_bytes().replace(b'"dataset": "v"', b'"dataset": "w"'))
    with pytest.raises(ConfigError, match="is not the one that was registered"):
        run(ScoreConfig(scorer="critic"))
