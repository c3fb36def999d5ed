"""The means that `evaluate` prints are of models that were trained alike, also of seeds that the newest protocol has not measured yet."""

import pytest
from sqlalchemy import Engine

from alchemist_core.stages.evaluate import _average_arms
from alchemist_core.store.models import models_to_compare
from alchemist_core.store.subsets import find_subset
from tests.given import insert_rows

pytestmark = pytest.mark.db


def test_a_further_seed_is_in_the_means_under_an_earlier_protocol_and_a_longer_training_is_not(engine: Engine) -> None:
    # Models 1 to 4 have values under both protocols; a third seed (5, 6) and a longer training (7) only under the first one.
    trained = [
        ("subset", 0, 1),
        ("random", 0, 1),
        ("subset", 1, 1),
        ("random", 1, 1),
        ("subset", 2, 1),
        ("random", 2, 1),
    ]
    trained += [("subset", 0, 3)]
    models = [
        {
            "model_id": n, "arm": arm, "subset_id": 1, "seed": seed, "identity_hash": str(n),
            "config": {"model": {"seed": seed, "num_train_epochs": n_epochs, "max_train_steps": None}},
        }
        for n, (arm, seed, n_epochs) in enumerate(trained, 1)
    ]  # fmt: skip
    with engine.begin() as connection:
        insert_rows(connection, {
            "raters": [{"rater_id": 1, "name": "r"}],
            "rank_scales": [{"rank_scale_id": 1, "rater_id": 1, "knot_scores": [1], "knot_ranks": [0]}],
            "rank_snapshots": [{"snapshot_id": 1, "rank_scale_id": 1, "dataset_names": ["web"]}],
            "subsets": [{"subset_id": 1, "name": "s", "snapshot_id": 1}],
            "models": models, "evaluation_protocols": [{"protocol_id": 1}, {"protocol_id": 2}],
            "evaluations": [
                {"model_id": n, "protocol_id": protocol, "metric": "fid", "value": value}
                for protocol, n_models in ((1, 7), (2, 4))
                for n, value in enumerate((10, 20, 11, 21, 18, 28, 99)[:n_models], 1)
            ],
        })  # fmt: skip
    subset, every = find_subset(engine, "s"), models_to_compare(engine, 1, "r")
    earlier, newest = (
        _average_arms(engine, subset, every, protocol, metric="fid", n_measured=0) for protocol in (1, 2)
    )
    assert (earlier.means, earlier.n_trained_otherwise) == ({"subset": 13, "random": 23}, 1)
    assert (newest.means, newest.n_trained_otherwise) == ({"subset": 10.5, "random": 20.5}, None)
    # A third protocol that has measured one arm only takes no arm from the means under the others.
    with engine.begin() as connection:
        insert_rows(connection, {
            "evaluation_protocols": [{"protocol_id": 3}],
            "evaluations": [{"model_id": 2, "protocol_id": 3, "metric": "fid", "value": 30}],
        })  # fmt: skip
    assert _average_arms(engine, subset, every, 1, metric="fid", n_measured=0) == earlier
