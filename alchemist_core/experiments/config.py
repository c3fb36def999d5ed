"""What an experiment or a region probe runs on: corpora and recipes by seed. No torch: the command line reads these bounds."""

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, model_validator

from alchemist_core.config import Config, Words, split_commas
from alchemist_core.errors import ConfigError
from alchemist_core.experiments.arms import RATERS
from alchemist_core.local.scenes import ScenesConfig
from alchemist_core.presets import PRESETS, preset_values
from alchemist_core.training.config import DownstreamConfig, RaterTrainingConfig

M = TypeVar("M", bound=BaseModel)


Ratios = Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], BeforeValidator(split_commas)]
Multiples = Annotated[tuple[Annotated[float, Field(gt=0, le=100)], ...], BeforeValidator(split_commas)]


class TrialsConfig(Config):
    """The corpus and the recipes; a seed varies the drawn corpus, the rater, the selection and the training together."""

    dataset: str | None = Field(
        None,
        description="Training dataset; {seed} in a name stands for the seed; none: scenes are drawn for every seed",
    )
    validation: str | None = Field(None, description="Validation dataset; none: that of the drawn scenes")
    evaluation: str | None = Field(None, description="Evaluation dataset; none: that of the drawn scenes")
    truth: str | None = Field(
        None, description="Parquet file that says what each pair is worth (arm planted); none: that of the drawn scenes"
    )
    rater: str | None = Field(
        None, description="Rater by name, production or newest, whose scores exist; none: one is trained for every seed"
    )
    preset: str = Field("tiny", description=f"Recipes of rater and model by name: {', '.join(PRESETS)}")
    training: Words = Field(
        (), description="Fields of the rater's training that differ: name=value, comma between them"
    )
    model: Words = Field((), description="Fields of the downstream model that differ: name=value, comma between them")
    scenes: Words = Field((), description="Fields of the drawn scenes that differ: name=value, comma between them")

    @model_validator(mode="after")
    def _names_go_together(self) -> "TrialsConfig":
        named = (
            self.dataset is not None,
            self.validation is not None or self.rater is not None,
            self.evaluation is not None,
        )
        if any(named) and not all(named):
            message = "name the dataset, its evaluation dataset, and a validation dataset or a rater; or none of them: scenes are drawn"
            raise ValueError(message)
        return self

    def training_of(self, rater: str, seed: int) -> RaterTrainingConfig:
        """Return how the rater of a kind and seed is trained."""
        preset = self._preset("train_rater").get("training", {})
        return _compose(RaterTrainingConfig, preset, self.training, {**RATERS[rater], "seed": seed})

    def model_of(self, **fixed: Any) -> DownstreamConfig:
        """Return how every arm is trained."""
        return _compose(DownstreamConfig, self._preset("train_downstream").get("model", {}), self.model, fixed)

    def scenes_of(self, seed: int) -> ScenesConfig:
        """Return what is drawn for a seed."""
        return _compose(ScenesConfig, {}, self.scenes, {"seed": seed})

    def _preset(self, stage: str) -> dict[str, Any]:
        if self.preset not in PRESETS:
            raise ConfigError(f"--preset {self.preset}: unknown. Presets: {', '.join(PRESETS)}.")
        return preset_values(self.preset, stage)


def _compose(model: type[M], preset: dict[str, Any], given: tuple[str, ...], fixed: dict[str, Any]) -> M:
    fields = dict(word.partition("=")[::2] for word in given)
    if refused := fields.keys() & fixed.keys():
        raise ConfigError(f"{', '.join(sorted(refused))}: set by the experiment itself, leave it out.")
    try:
        return model.model_validate(preset | fields | fixed)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise ConfigError(f"{model.__name__}: {faults}. Its fields: {', '.join(model.model_fields)}.") from None
