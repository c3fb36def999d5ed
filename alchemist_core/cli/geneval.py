"""GenEval: generate the images of a model in the official layout, and judge images as the official evaluator does."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from alchemist_core.config import Command, Config, Formerly, Result
from alchemist_core.errors import ConfigError
from alchemist_core.files import require_artifact
from alchemist_core.metrics.geneval import (
    Geneval,
    JudgedImage,
    Judges,
    has_images,
    judge_images,
    load_judges,
    note_generation,
    read_prompts,
    refuse_other_prompts,
    summarize_results,
    write_images,
    write_results,
)
from alchemist_core.models.config import SamplingConfig
from alchemist_core.protocols.protocol import read_protocol
from alchemist_core.stages.devices import hold_device
from alchemist_core.stages.evaluate import measure_missing, store_protocol
from alchemist_core.stages.execution import StageRun, execute
from alchemist_core.store.models import find_model, is_flux_model

_PROMPTS_AT_ONCE = 16


class DrawConfig(Config):
    """Which model, and which prompts."""

    model: str = Field(..., description="Identity of the model, as train-downstream prints it")
    prompts: Path = Field(..., description="GenEval's evaluation_metadata.jsonl")
    out: Path = Field(..., description="Folder to write the images to")
    images_per_prompt: Annotated[int, Formerly("n_images")] = Field(4, ge=1, le=64, description="Images per prompt")
    first_seed: int = Field(0, ge=0, lt=2**31, description="Seed of the first image; it increases by 1 with each image")
    sampling: SamplingConfig = Field(default_factory=SamplingConfig, description="Guidance, truncation and batch size")


class DrawResult(Result):
    """Number of images generated."""

    folder: str
    n_prompts: int
    n_drawn: int


class JudgeConfig(Config):
    """Which images to judge, with which networks."""

    images: Path = Field(..., description="Folder in the official layout: NUMBER/samples/*.png, NUMBER/metadata.jsonl")
    detector: Path = Field(
        ..., description="Folder of Mask2Former in the format of the library transformers, trained on COCO instances"
    )
    clip: Path = Field(
        ...,
        description="Folder of CLIP ViT-L/14 in the format of the library transformers; CLIP recognises the colours of objects",
    )
    class_names: Annotated[Path, Formerly("names")] = Field(
        ..., description="GenEval's object_names.txt: one class per line, in the order of the detector"
    )
    out: Path = Field(..., description="File to write the verdicts to, for example results.jsonl")
    protocol: Annotated[str | None, Formerly("contract")] = Field(
        None,
        description="Evaluation protocol (geneval, or a .toml file) under which the scores are stored; without it they are "
        "printed and written to --out only",
    )


class JudgeResult(Result):
    """Shares of correct images by task, and the mean over the tasks."""

    results: str
    n_images: int
    scores: dict[str, float]


def draw(config: DrawConfig) -> DrawResult:
    """Generate images for every prompt that has none yet."""
    return execute("geneval_draw", config, lambda stage_run: draw_images(config, stage_run), DrawResult)


def draw_images(config: DrawConfig, stage_run: StageRun) -> DrawResult:
    """Generate the missing images, several prompts at a time.

    Raises:
        ConfigError: There is no such model, it is of another family, or the folder holds images of others.
    """
    model = find_model(stage_run.engine, config.model)
    if model is None:
        raise ConfigError(
            f"There is no model {config.model!r}. Give the identity of a model as alchemist train-downstream prints it."
        )
    if is_flux_model(stage_run.engine, model.model_id):
        raise ConfigError(
            f"Model {config.model} is a FLUX-mini model, and geneval draw generates with STAR. Give the identity of a STAR model."
        )
    prompts = read_prompts(config.prompts)
    refuse_other_prompts(config.out, prompts)
    about = {
        "model": config.model,
        "first_seed": config.first_seed,
        "sampling": config.sampling.hashed_json(),
    }
    note_generation(config.out, about | {"n_images": config.images_per_prompt})
    missing = [number for number in range(len(prompts)) if not has_images(config.out, number, config.images_per_prompt)]
    if missing:
        hold_device(stage_run)
        from alchemist_core.training.generators import load_drawer  # noqa: PLC0415  imports torch
        from alchemist_core.training.launching import own_device  # noqa: PLC0415

        path = require_artifact(model.checkpoint_uri, model.checkpoint_sha256)
        drawer = load_drawer(path, own_device())
        for chunk in _chunks(missing):
            _draw_prompts(config, drawer, prompts, chunk)
            stage_run.report(chunk[-1] + 1, len(prompts), "prompts generated")
    return DrawResult(folder=str(config.out.resolve()), n_prompts=len(prompts), n_drawn=len(missing))


def judge(config: JudgeConfig) -> JudgeResult:
    """Judge images by GenEval's rules and write the verdicts in the official format."""
    return execute("geneval_judge", config, lambda stage_run: judge_folder(config, stage_run), JudgeResult)


def judge_folder(config: JudgeConfig, stage_run: StageRun) -> JudgeResult:
    """Judge every image, write the verdicts, and store the scores if a protocol was given."""
    hold_device(stage_run)
    # Loaded before anything is stored, so that a folder without a network pins no evaluation protocol.
    judges = load_judges(config.detector, config.clip, config.class_names)
    if config.protocol is None:
        results = judge_images(config.images, judges, on_progress=stage_run.report)
    else:
        results = _measure_under(config.protocol, config, stage_run, judges)
    write_results(config.out, results)
    return JudgeResult(results=str(config.out.resolve()), n_images=len(results), scores=summarize_results(results))


def _measure_under(protocol: str, config: JudgeConfig, stage_run: StageRun, judges: Judges) -> list[JudgedImage]:
    """Judge under a protocol, and store the scores of the model once."""
    weights = (config.detector, config.clip)
    metric = Geneval(read_protocol(protocol), config.images, judges, weights, stage_run.report)
    protocol_id = store_protocol(stage_run, metric)
    model = find_model(stage_run.engine, metric.generation.model)
    if model is None:
        raise ConfigError(
            f"The images in {config.images} were generated with model {metric.generation.model!r}, which this store does not "
            "contain. Run the command with the store that contains it (ALCHEMIST_HOME), or judge without --protocol."
        )
    measure_missing(stage_run, metric, protocol_id, [model])
    return metric.results


def _draw_prompts(config: DrawConfig, drawer: Any, prompts: list[dict[str, Any]], chunk: list[int]) -> None:
    n = config.images_per_prompt
    wanted = [(number, sample) for number in chunk for sample in range(n)]
    texts = [prompts[number]["prompt"] for number, _ in wanted]
    seeds = [config.first_seed + number * n + sample for number, sample in wanted]
    images = drawer(texts, seeds, config.sampling)
    for place, number in enumerate(chunk):
        write_images(config.out, number, prompts[number], list(images[place * n : (place + 1) * n]))


def _chunks(missing: list[int]) -> Iterator[list[int]]:
    for start in range(0, len(missing), _PROMPTS_AT_ONCE):
        yield missing[start : start + _PROMPTS_AT_ONCE]


COMMANDS = {"draw": Command(DrawConfig, draw), "judge": Command(JudgeConfig, judge)}
