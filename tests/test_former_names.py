"""Renamed fields keep every hash, values stored under former names are read, and the command line refuses former names."""

import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError

from alchemist_core.cli.command_line import add_flags
from alchemist_core.cli.parser import Parser
from alchemist_core.config import Config, Formerly, current_names, fingerprint, former_fields, former_names
from alchemist_core.experiments.dynamics import DynamicsConfig
from alchemist_core.experiments.running import RunConfig
from alchemist_core.metrics.image_metrics import SAMPLERS
from alchemist_core.presets import preset_values
from alchemist_core.protocols import protocol as protocol_module
from alchemist_core.protocols.protocol import AverageProtocol, ImageProtocol
from alchemist_core.selection.config import SelectionPolicy
from alchemist_core.stages.evaluate import EvaluateConfig
from alchemist_core.stages.ingest import IngestConfig
from alchemist_core.stages.materialize import MaterializeConfig
from alchemist_core.stages.report import ReportConfig
from alchemist_core.stages.score import ScoreConfig
from alchemist_core.stages.select import SelectConfig
from alchemist_core.stages.train_downstream import TrainDownstreamConfig
from alchemist_core.stages.train_rater import TrainRaterConfig
from alchemist_core.training.config import DownstreamConfig
from tests.metrics.scene_metric import SceneProtocol

# The JSON and the hash of 44 configs, specs and protocols as 0.1.0 (3153c93) stored them; never regenerate this file.
STORED: list[dict[str, Any]] = json.loads((Path(__file__).parent / "stored_by_0_1.json").read_text(encoding="utf-8"))
CONFIGS: dict[str, type[Config]] = {
    model.__name__: model
    for model in (
        DownstreamConfig, EvaluateConfig, IngestConfig, MaterializeConfig, ReportConfig, ScoreConfig, SelectConfig,
        TrainDownstreamConfig, TrainRaterConfig,
    )
}  # fmt: skip
REQUIRED = {
    "train_rater": (TrainRaterConfig, {"dataset": "web", "validation": "goal"}),
    "select": (SelectConfig, {"dataset": "web"}),
    "train_downstream": (TrainDownstreamConfig, {"subset": "s"}),
}


def stored(*kinds: str) -> list[Any]:
    return [pytest.param(row, id=f"{row['kind']} {row['case']}") for row in STORED if row["kind"] in kinds]


@pytest.mark.parametrize("row", stored(*CONFIGS))
def test_a_config_that_0_1_stored_is_read_and_keeps_its_hash(row: dict[str, Any]) -> None:
    config = CONFIGS[row["kind"]].from_stored(row["stored"])
    assert config.hashed_json() == row["stored"]
    assert config.fingerprint() == row["hash"]
    assert CONFIGS[row["kind"]].from_stored(config.as_json()) == config


# The presets of 0.1, which were also recipes, under their present names.
CHOICES = {
    "tiny": {"preset": "tiny"},
    "paper": {"preset": "tiny", "recipe": "paper"},
    "paper_exact": {"preset": "tiny", "recipe": "paper_exact"},
    "paper_size": {"preset": "gpu80"},
    "flux_mini": {"preset": "flux_mini"},
}


@pytest.mark.parametrize("preset", CHOICES)
@pytest.mark.parametrize("stage", REQUIRED)
def test_a_choice_gives_the_config_hash_of_the_former_preset(preset: str, stage: str) -> None:
    if (preset, stage) == ("flux_mini", "train_rater"):
        pytest.skip("FLUX-mini trains no rater")
    model, required = REQUIRED[stage]
    values = preset_values(stage, **CHOICES[preset]) | required
    if preset == "paper_size" and stage == "train_rater":
        # It did not fit into the memory that it named.
        values["training"] |= {"gradient_checkpointing": False}
    if preset == "paper_size" and stage == "train_downstream":
        # It did not learn the empty caption that sampling with guidance needs.
        values["model"] |= {"proportion_empty_prompts": 0.0}
    if preset == "flux_mini" and stage == "train_downstream":
        flux = next(
            row["stored"]["model"] for row in STORED if row["case"] == "preset flux_mini" and "subset" in row["stored"]
        )
        paths = {
            name: value
            for name, value in current_names(DownstreamConfig, flux).items()
            if value in ("flux-mini.safetensors", "flux")
        }
        values["model"] |= paths
    (row,) = (row for row in STORED if (row["kind"], row["case"]) == (model.__name__, f"preset {preset}"))
    assert model.model_validate(values).fingerprint() == row["hash"]


@pytest.mark.parametrize("row", stored("spec"))
def test_a_subset_of_0_1_keeps_the_hash_of_its_spec(row: dict[str, Any]) -> None:
    spec = current_names(SelectionPolicy, row["stored"])
    SelectionPolicy.model_validate(
        {name: value for name, value in spec.items() if name in SelectionPolicy.model_fields}
    )
    assert (
        fingerprint(former_names(SelectionPolicy, spec))
        == fingerprint(former_names(SelectionPolicy, row["stored"]))
        == row["hash"]
    )


@pytest.mark.parametrize("row", stored("Contract", "AverageContract"))
def test_an_evaluation_protocol_of_0_1_keeps_its_hash(row: dict[str, Any]) -> None:
    models = {"average_mjhq": AverageProtocol, "scenes_geneval": SceneProtocol}
    model = models.get(row["case"], ImageProtocol)
    protocol = model.from_stored({name: value for name, value in row["stored"].items() if name != "name"})
    assert fingerprint({"name": row["case"]} | protocol.hashed_json()) == row["hash"]


EXPERIMENTS: list[tuple[str, RunConfig | DynamicsConfig]] = [
    ("RunConfig identity", RunConfig.model_validate(
        {
            "experiment": "methods", "training": "max_train_steps=20,gradient_checkpointing=true,mixed_precision=bf16",
            "model": "num_train_epochs=2,ema_decay=0.9", "scenes": "n_train=60", "tuning_seeds": "0,1", "seeds": "2,3",
            "budget_multiples": "1,2", "budget": "steps", "num_train_epochs": 4, "tuning_epochs": 3,
            # The default arms of 0.1; by now there are more.
            "arms": "random,clarity,frequency,edge_density,minus_loss,loss/paper,alignment/auto,learnability/auto,full",
        }
    )),
    ("RunConfig defaults", RunConfig(experiment="rank_window")),
    ("DynamicsConfig identity", DynamicsConfig(rule="loss", training=("max_train_steps=5",), scenes=("n_train=60",))),
]  # fmt: skip


@pytest.mark.parametrize(("case", "config"), EXPERIMENTS, ids=[case for case, _ in EXPERIMENTS])
def test_an_experiment_of_0_1_is_found_under_its_name(case: str, config: RunConfig | DynamicsConfig) -> None:
    (row,) = (row for row in STORED if f"{row['kind']} {row['case']}" == case)
    assert config.present(row["stored"]) == config.identity()
    hashed = config.hashed_json()
    assert {
        name: hashed[name] for name in row["stored"].keys() & hashed.keys() - {"arms", "retentions", "lengths"}
    } == {
        name: value
        for name, value in row["stored"].items()
        if name in hashed and name not in ("arms", "retentions", "lengths")
    }


SHIPPED = [row for row in STORED if row["kind"] == "Contract" and row["case"] != "scenes_geneval"]


@pytest.mark.parametrize("row", SHIPPED, ids=[row["case"] for row in SHIPPED])
def test_a_shipped_protocol_samples_under_the_conditions_of_0_1(row: dict[str, Any]) -> None:
    given = tomllib.loads((Path(protocol_module.__file__).parent / f"{row['case']}.toml").read_text(encoding="utf-8"))
    sampling = SAMPLERS[given.get("sampler", "star")].from_stored(given["sampling"])
    assert sampling.hashed_json() == row["stored"]["sampling"]


class Flow(Config):
    is_deep: Annotated[bool, Formerly("has_depth")] = False


class Job(Config):
    """Two renamed fields, one with renamed values, and models below."""

    steps: Annotated[int, Formerly("n_steps")] = Field(1, ge=1)
    mode: Annotated[str, Formerly("kind", {"off": "keep"})] = "off"
    flow: Flow | None = None
    part: Annotated[Flow, Formerly("piece")] = Flow()


FORMER = {"n_steps": 3, "kind": "keep", "flow": {"has_depth": True}, "piece": {"has_depth": False}}
PRESENT = {"steps": 3, "mode": "off", "flow": {"is_deep": True}, "part": {"is_deep": False}}


def test_names_are_translated_both_ways_and_translating_twice_changes_nothing() -> None:
    assert former_names(Job, PRESENT) == former_names(Job, FORMER) == FORMER
    assert current_names(Job, FORMER) == current_names(Job, PRESENT) == PRESENT
    assert Job.from_stored(FORMER) == Job.from_stored(PRESENT) == Job.model_validate(PRESENT)
    assert Job.model_validate(PRESENT).fingerprint() == fingerprint(FORMER)


def test_a_former_name_is_refused_with_the_present_one() -> None:
    with pytest.raises(ValidationError, match="n_steps is now steps"):
        Job.model_validate({"n_steps": 3})
    with pytest.raises(ValidationError, match="has_depth is now is_deep"):
        Job.model_validate({"flow": {"has_depth": True}})


def parser_of(model: type[Config]) -> Parser:
    parser = Parser(prog="job", exit_on_error=True)
    add_flags(parser, model)
    return parser


class Switches(Config):
    """What the command line makes of renamed fields: a number, a choice and a switch."""

    max_steps: Annotated[int, Formerly("n_steps")] = Field(1, description="Steps")
    dedup: Annotated[Literal["exact", "off"], Formerly("duplicates", {"off": "keep"})] = Field(
        "exact", description="How"
    )
    compile: Annotated[bool, Formerly("is_compiled")] = Field(False, description="Compile")
    base_model: Annotated[str | None, Formerly("base")] = Field(None, description="Base")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--n-steps 3", "--n-steps is now --max-steps."),
        ("--n-steps=3", "--n-steps is now --max-steps."),
        ("--duplicates keep", "--duplicates is now --dedup."),
        ("--is-compiled", "--is-compiled is now --compile."),
        ("--no-is-compiled", "--no-is-compiled is now --no-compile."),
        ("--base x", "--base is now --base-model."),
        ("--dedup keep", "keep is now off."),
    ],
)
def test_a_former_flag_is_refused_in_one_line_with_the_present_one(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        parser_of(Switches).parse_args(words.split())
    (line,) = capsys.readouterr().err.splitlines()
    assert refused.value.code == 2
    assert message in line


def test_the_present_flags_are_accepted() -> None:
    options = vars(
        parser_of(Switches).parse_args(["--max-steps", "3", "--dedup", "off", "--no-compile", "--base-model", "x"])
    )
    assert options == {"max_steps": "3", "dedup": "off", "compile": False, "base_model": "x"}


@pytest.mark.parametrize("model", [*CONFIGS.values(), SelectionPolicy, RunConfig, DynamicsConfig, ImageProtocol])
def test_no_field_has_the_former_name_of_another_one(model: type[Config]) -> None:
    formers = [mark.name for mark in former_fields(model).values() if mark.name]
    assert not set(formers) & set(model.model_fields)
    assert len(set(formers)) == len(formers)
