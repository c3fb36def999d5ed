"""Trained models: which ones a subset version is compared with."""

from pathlib import Path

import pytest
import yaml
from sqlalchemy import Engine

from alchemist_core.store.models import models_to_compare, stored_configs
from tests.given import insert_rows

pytestmark = pytest.mark.db
GIVEN = Path(__file__).parents[1] / "sql" / "compared_models-corpora" / "given.yaml"


def test_a_model_of_all_samples_of_another_corpus_or_another_time_is_no_arm_of_a_version(engine: Engine) -> None:
    """In the store of the view's own test, of which versions 1 and 2 of `web` and `books` are selected from other samples each."""
    given = yaml.safe_load(GIVEN.read_text())
    for row in given["models"]:
        row["config"] = {**row.get("config", {}), "model": {"trained": row["model_id"]}}
    with engine.begin() as connection:
        insert_rows(connection, given)
    found = {
        subset_id: [model.model_id for model in models_to_compare(engine, subset_id, "r")] for subset_id in (1, 2, 3)
    }
    assert found == {1: [1, 2, 3], 2: [4, 5], 3: [6, 7]}
    trained = {subset_id: stored_configs(engine, "full", subset_id=subset_id, rater="r") for subset_id in (1, 2, 3)}
    assert trained == {1: [{"trained": 3}], 2: [{"trained": 5}], 3: []}
