"""The config that experiments and tune-selection share: corpora and training recipes by seed. No torch: the CLI reads its bounds."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, model_validator

from alchemist_core.config import (
    Config,
    Words,
    current_names,
    former_names,
    later_field,
    read_ratio,
    rename_words,
    split_commas,
)
from alchemist_core.errors import ConfigError
from alchemist_core.experiments.arms import RATERS
from alchemist_core.local.scenes import ScenesConfig
from alchemist_core.presets import NETWORKS, PRESETS, preset_values, refuse_missing_weights
from alchemist_core.training.config import DownstreamConfig, PinnedConfig, RaterTrainingConfig

M = TypeVar("M", bound=BaseModel)


Ratio = Annotated[float, BeforeValidator(read_ratio), Field(gt=0, le=1)]
Ratios = Annotated[tuple[Ratio, ...], BeforeValidator(split_commas)]
Multiples = Annotated[tuple[Annotated[float, Field(gt=0, le=100)], ...], BeforeValidator(split_commas)]


def for_seed(text: str, seed: int) -> str:
    """Return a name or path for one seed; other braces stay as they are.

    >>> for_seed("/data/{x}/s{seed}", 7)
    '/data/{x}/s7'
    """
    return text.replace("{seed}", str(seed))


class TrialsConfig(Config):
    """Corpus and recipes; a seed varies the synthetic corpus, the rater, the selection and the training together."""

    dataset: str | None = Field(
        None,
        description="Training dataset; {seed} in a name is replaced by the seed; default: a synthetic corpus for every seed",
    )
    validation: str | None = Field(
        None, description="Validation dataset; default: that of the synthetic corpus, or with --rater that of the rater"
    )
    evaluation: str | None = Field(None, description="Evaluation dataset; default: that of the synthetic corpus")
    truth: str | None = Field(
        None,
        description="Parquet file with the kind of each sample (arm oracle); {seed} in the path is replaced by the seed; default: that of "
        "the synthetic corpus",
    )
    rater: str | None = Field(
        None,
        description="Rater whose scores are used, which must have scored the dataset: a name, production, or newest; default: "
        "one is trained for every seed",
    )
    preset: str = Field("tiny", description=f"Preset for the training of raters and models: {', '.join(PRESETS)}")
    training: Words = Field(
        (),
        description="Options of alchemist train-rater that differ from the preset, as name=value, such as "
        "max_train_steps=600, separated by commas",
    )
    model: Words = Field(
        (),
        description="Options of alchemist train-downstream that differ from the preset, as name=value, such as width=128, "
        "separated by commas",
    )
    scenes: Words = Field(
        (),
        description="Options of alchemist corpus scenes that differ from its defaults, as name=value, such as n_train=6000, "
        "separated by commas",
    )

    trainings: int = later_field(
        1,
        ge=1,
        le=100,
        description="Models that each arm trains for a seed, each with other first weights and another order of the samples; their mean "
        "loss counts. More of them lower the noise of the training, which the corpora cannot show",
    )
    method_resolution: int = later_field(
        224,
        ge=32,
        le=1024,
        description="Side of the images in pixels that the frozen encoders of arms such as semdedup/top_k read",
    )

    def hashed_json(self) -> dict[str, Any]:
        """Return the JSON that hashes are computed from; fields named in --training, --model and --scenes have their former names, too."""
        return _translate(type(self), self.as_json(), former_names)

    @classmethod
    def present(cls, identity: Mapping[str, Any]) -> dict[str, Any]:
        """Return a stored identity with the current names of its fields."""
        return _translate(cls, identity, current_names)

    @model_validator(mode="after")
    def _names_go_together(self) -> "TrialsConfig":
        named = (
            self.dataset is not None,
            self.validation is not None or self.rater is not None,
            self.evaluation is not None,
        )
        if any(named) and not all(named):
            message = (
                "give the dataset, its evaluation dataset, and a validation dataset or a rater; "
                "or none of them for a synthetic corpus"
            )
            raise ValueError(message)
        return self

    def training_of(self, rater: str, seed: int) -> RaterTrainingConfig:
        """Return the training config of a kind of rater with a seed; a kind that is defined by its length keeps it."""
        fixed = {**RATERS[rater], "seed": seed}
        own_length = fixed.keys() & {"max_train_steps"}
        given = tuple(word for word in self.training if word.partition("=")[0] not in own_length)
        return self._composed(RaterTrainingConfig, "train_rater", fixed, given)

    def model_of(self, **fixed: Any) -> DownstreamConfig:
        """Return the training config of every arm."""
        return self._composed(DownstreamConfig, "train_downstream", fixed, self.model)

    def scenes_of(self, seed: int) -> ScenesConfig:
        """Return the config of a seed's synthetic corpus."""
        return _compose(ScenesConfig, {}, self.scenes, {"seed": seed})

    def _composed(self, model: type[M], stage: str, fixed: dict[str, Any], given: tuple[str, ...]) -> M:
        if self.preset not in PRESETS:
            raise ConfigError(f"--preset {self.preset} is unknown. Presets: {', '.join(PRESETS)}.")
        section = NETWORKS[stage]
        preset = preset_values(stage, preset=self.preset).get(section, {})
        refuse_missing_weights(self.preset, stage, {section: dict(word.partition("=")[::2] for word in given)})
        return _compose(model, preset, given, fixed)


WORDS_OF: dict[str, type[BaseModel]] = {
    "training": RaterTrainingConfig,
    "model": DownstreamConfig,
    "scenes": ScenesConfig,
}


def _translate(
    model: type[BaseModel],
    values: Mapping[str, Any],
    translate: Callable[[type[BaseModel], Mapping[str, Any]], dict[str, Any]],
) -> dict[str, Any]:
    named = translate(model, values)
    words = {name: rename_words(kind, named[name], translate) for name, kind in WORDS_OF.items() if name in named}
    return {**named, **words}


def _compose(model: type[M], preset: dict[str, Any], given: tuple[str, ...], fixed: dict[str, Any]) -> M:
    fields = dict(word.partition("=")[::2] for word in given)
    if refused := fields.keys() & fixed.keys():
        raise ConfigError(
            f"{', '.join(sorted(refused))}: set by the experiment itself. Omit it from --training, --model and --scenes."
        )
    try:
        return model.model_validate(preset | fields | fixed)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        known = ", ".join(name for name in model.model_fields if name not in PinnedConfig.model_fields)
        raise ConfigError(f"{model.__name__}: {faults}. Its fields: {known}.") from None
