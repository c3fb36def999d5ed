"""The paper's average of stored metrics: a row of its own, with its ingredients beside it; no image is looked at."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import Engine

from alchemist_core.errors import ConfigError
from alchemist_core.metrics.distances import average_score
from alchemist_core.protocols.protocol import AVERAGE, AverageContract, Contract, name_average
from alchemist_core.stages.execution import StageRun
from alchemist_core.stages.sharing import take_unmeasured
from alchemist_core.store import models
from alchemist_core.store.models import ModelRow

Ingredient = models.NamedProtocol


class AverageEvaluation:
    """Two named contracts of one set of images, under which every model was measured."""

    def __init__(self, stage_run: StageRun, name: str, average: AverageContract) -> None:
        self.stage_run, engine = stage_run, stage_run.engine
        self.ingredients = {
            "clip_score": find_ingredient(engine, average.clip_score),
            "fid": find_ingredient(engine, average.fid),
        }
        pinned = {part: one.protocol for part, one in self.ingredients.items()}
        self.title = name_average(**pinned)
        self.protocol_id = models.agree_on_protocol(engine, name, {"metric": AVERAGE} | pinned)

    def measure(self, trained: Sequence[ModelRow]) -> int:
        """Store the average of each model that has none yet; return their number.

        Raises:
            ConfigError: A model lacks an ingredient.
        """
        engine = self.stage_run.engine
        measured = models.evaluated_models(engine, self.protocol_id, self.title)
        missing = [model for model in trained if model.model_id not in measured]
        found = {part: _read(engine, one, missing) for part, one in self.ingredients.items()}
        done = 0
        for model in take_unmeasured(self.stage_run, missing, protocol_id=self.protocol_id, metric=self.title):
            parts = {part: values[model.model_id] for part, values in found.items()}
            value = average_score(parts["clip_score"].value, parts["fid"].value)
            # Under their own names first, which tell tables that a FID is better when lower.
            beside = {f"{_title(self.ingredients[part])}_of_average": one.value for part, one in parts.items()}
            models.store_values(
                engine, {self.title: value} | beside, model_id=model.model_id, protocol_id=self.protocol_id,
                n=min(one.n for one in parts.values()), run_id=self.stage_run.run_id,
            )  # fmt: skip
            done += 1
        return done


class _Stored(NamedTuple):
    value: float
    n: int


def find_ingredient(engine: Engine, name: str) -> Ingredient:
    """Return a contract that something was measured under.

    Raises:
        ConfigError: Nothing was.
    """
    found = models.find_named(engine, name)
    if found is None:
        raise ConfigError(
            f"Nothing was measured under the contract {name} yet: run alchemist evaluate --contract {name} first."
        )
    return found


def _read(engine: Engine, ingredient: Ingredient, missing: Sequence[ModelRow]) -> Mapping[int, _Stored]:
    title, name = _title(ingredient), ingredient.protocol["name"]
    rows = models.read_evaluations(engine, [model.model_id for model in missing], ingredient.protocol_id)
    found = {row.model_id: _Stored(row.value, row.n) for row in rows if row.metric == title}
    for model in missing:
        if model.model_id not in found:
            raise ConfigError(
                f"{model.arm} seed {model.seed} has no {title}: run alchemist evaluate --contract {name} for it first."
            )
    return found


def _title(ingredient: Ingredient) -> str:
    fields = {key: value for key, value in ingredient.protocol.items() if key != "name"}
    return Contract.model_validate(fields).title
