"""Plans of trainings and of scoring: memory, arithmetic, time and cost on a GPU or a CPU, assumed or timed until it was measured."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from sqlalchemy import Engine

from alchemist_core.__main__ import main
from alchemist_core.cli import estimates
from alchemist_core.cli.command_line import build_parser, read_config
from alchemist_core.cli.estimates import (
    Hardware,
    PlanTrainDownstreamConfig,
    PlanTrainRaterConfig,
    TrainingPlan,
    _only_published,
    plan_train_downstream,
    plan_train_rater,
)
from alchemist_core.errors import ConfigError
from alchemist_core.presets import NETWORKS, PRESETS, WEIGHTS, presets_of
from alchemist_core.project import load_project
from alchemist_core.settings import load_settings
from alchemist_core.training import footprint
from alchemist_core.training.config import DownstreamConfig, RaterTrainingConfig
from alchemist_core.training.footprint import Footprint
from alchemist_core.training.gpus import GPUS, GpuName
from tests.given import insert_rows
from tests.scored_nights import add_dataset

TINY: dict[str, Any] = {"proxy_width": 32, "rater_width": 32, "proxy_depth": 1, "rater_depth": 1, "batch_size": 8}
MODEL: dict[str, Any] = {"width": 32, "depth": 1, "batch_size": 8, "num_train_epochs": 2}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project file."""
    path = tmp_path / "alchemist.toml"
    monkeypatch.setenv("ALCHEMIST_PROJECT", str(path))
    load_settings.cache_clear()
    declare(path, "")
    return path


def declare(project: Path, text: str) -> None:
    project.write_text(text, encoding="utf-8")
    load_project.cache_clear()


@pytest.fixture(scope="module", autouse=True)
def _count_once() -> Iterator[None]:
    """Count each size once: it takes seconds, and only sizes change what is counted."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("rater_footprint", "downstream_footprint"):
            patch.setattr(footprint, name, counted_once(getattr(footprint, name)))
        yield


def counted_once(count: Callable[..., Footprint]) -> Callable[..., Footprint]:
    known: dict[str, Footprint] = {}

    def count_or_find(*given: BaseModel, **numbers: int) -> Footprint:
        key = repr(
            ([one.model_dump_json(exclude={"seed", "proxy_warmup_steps", "max_train_steps"}) for one in given], numbers)
        )
        if key not in known:
            known[key] = count(*given, **numbers)
        return known[key]

    return count_or_find


def rater_plan(training: dict[str, Any] | None = None, gpu: GpuName = "h100", **fields: Any) -> TrainingPlan:
    hardware = {"gpu": gpu, **{name: fields.pop(name) for name in list(fields) if name in Hardware.model_fields}}
    given = {"training": TINY | (training or {}), "hardware": hardware, **fields}
    return plan_train_rater(PlanTrainRaterConfig.model_validate(given))


def model_plan(**fields: Any) -> TrainingPlan:
    given = {"model": MODEL, "hardware": {"gpu": "h100"}, **fields}
    return plan_train_downstream(PlanTrainDownstreamConfig.model_validate(given))


def test_every_gpu_has_a_name_a_source_and_more_bf16_than_fp32() -> None:
    assert {*GPUS, "cpu"} == set(GpuName.__args__)  # type: ignore[attr-defined]
    for gpu in GPUS.values():
        assert gpu.bf16 > gpu.fp32 > 1e13
        assert gpu.source
        assert gpu.is_device(f"NVIDIA {gpu.words}")


@pytest.mark.slow
def test_time_is_arithmetic_over_the_assumed_share_of_the_peak_of_all_gpus() -> None:
    plan = rater_plan(max_samples=1000, n_validation=100, price_per_gpu_hour=3.0)
    parts = {part.what: part for part in plan.parts}
    assert {name: part.n for name, part in parts.items()} == {"images": 1100, "warm-up steps": 400, "steps": 1200}
    for part in plan.parts:
        assert part.number_format == "fp32"
        assert part.seconds == pytest.approx(part.flops / (GPUS["h100"].fp32 * 0.35))
    assert plan.seconds == pytest.approx(sum(part.seconds or 0 for part in plan.parts))
    assert plan.cost == pytest.approx((plan.seconds or 0) / 3600 * 3.0)
    assert "assumed: 35% of the peak of H100 SXM" in plan.summary()
    twice = rater_plan(
        {"softmax_group_size": 4}, max_samples=1000, n_validation=100, price_per_gpu_hour=3.0, n_gpus=2, utilisation=0.7
    )
    assert twice.seconds == pytest.approx((plan.seconds or 0) / 4, rel=1e-3)
    assert twice.cost == pytest.approx((plan.cost or 0) / 2, rel=1e-3)


def test_gpus_that_cannot_share_a_batch_are_refused_as_in_the_training() -> None:
    with pytest.raises(ConfigError, match="set softmax_group_size to 4 or a divisor"):
        rater_plan(n_gpus=2)
    with pytest.raises(ConfigError, match="set it to a multiple of 3"):
        model_plan(n_samples=80, hardware={"gpu": "h100", "n_gpus": 3})


@pytest.mark.slow
def test_the_price_of_the_project_file_is_used_unless_one_is_given(project: Path) -> None:
    plan = rater_plan()
    assert plan.cost is None
    assert "unknown (give --price-per-gpu-hour, or set gpu_hour in [prices] of alchemist.toml)" in plan.summary()
    declare(project, '[prices]\ngpu_hour = 36\ncurrency = "EUR"\n')
    plan = rater_plan()
    assert plan.cost == pytest.approx((plan.seconds or 0) / 100)
    assert re.search(r"^cost: +about [0-9.]+ EUR$", plan.summary(), re.MULTILINE)
    assert rater_plan(price_per_gpu_hour=72.0).cost == pytest.approx((plan.cost or 0) * 2)


@pytest.mark.slow
def test_only_samples_that_a_step_reads_are_encoded_each_once() -> None:
    short = {"proxy_warmup_steps": 1, "max_train_steps": 9}
    parts = {part.what: part.n for part in rater_plan(short, max_samples=10**6, n_validation=10).parts}
    assert parts == {"images": 10 * 8 + 10, "warm-up steps": 1, "steps": 9}
    assert {part.what: part.n for part in rater_plan(short).parts}["images"] == 80 + 8


@pytest.mark.slow
def test_the_last_evaluation_takes_its_memory_although_few_samples_are_held_out() -> None:
    few, many = (rater_plan({"max_train_steps": 200}, max_samples=2000, n_validation=n) for n in (10, 20_000))
    assert few.step_bytes == many.step_bytes


@pytest.mark.slow
def test_a_cpu_holds_the_encoded_images_as_long_as_they_are_few() -> None:
    """An image of 16 px has 21 tokens of 48 numbers and a code: 4,200 bytes, of which 1 GiB holds 266,305 without the codes."""
    few, more, many = (rater_plan(gpu="cpu", max_samples=n, n_validation=n) for n in (64, 1000, 300_000))
    assert (few.samples_bytes, more.samples_bytes) == (128 * 4200, 2000 * 4200)
    assert more.peak_bytes == more.weights_bytes + more.optimizer_bytes + more.step_bytes + more.samples_bytes
    assert "encoded images 0.0084 GB" in more.summary()
    assert rater_plan(max_samples=1000, n_validation=1000).samples_bytes == 0, "a GPU holds a batch"
    assert many.samples_bytes == 0


@pytest.mark.slow
def test_captions_whose_features_do_not_fit_are_encoded_at_every_step() -> None:
    """MiniLM's features of a typical caption take 32 × 384 × 4 bytes: 4 GiB hold 87,381."""
    fields = {"text_encoder": "minilm", "proxy_warmup_steps": 10, "max_train_steps": 100_000}
    few, many = (
        {part.what: part.n for part in rater_plan(fields, max_samples=n, n_validation=10).parts}
        for n in (87_000, 88_000)
    )
    assert few["captions"] == 87_010
    assert many["captions"] == 8 * (10 + 2 * 100_000)


@pytest.mark.slow
def test_a_run_that_does_not_fit_is_told_by_how_much_and_what_to_change(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {"batch_size": 512, "softmax_group_size": 64}
    fitting = rater_plan(fields)
    assert (fitting.is_fitting, fitting.advice) == (True, None)
    small = GPUS["l4"]._replace(n_bytes=int(fitting.peak_bytes * 0.7))
    monkeypatch.setitem(GPUS, "l4", small)
    plan = rater_plan(fields, gpu="l4")
    assert not plan.is_fitting
    assert plan.advice is not None
    assert plan.advice.startswith(f"Does not fit: {(plan.peak_bytes - small.n_bytes) / 1e9:.2g} GB more than L4 has.")
    assert "It fits with --gradient-accumulation-steps 2 (" in plan.advice
    halved = rater_plan(fields | {"gradient_accumulation_steps": 2}, gpu="l4")
    assert halved.is_fitting
    monkeypatch.setitem(GPUS, "l4", small._replace(n_bytes=1000))
    smallest = {"batch_size": 2, "gradient_checkpointing": True}
    assert "choose a larger GPU" in str(rater_plan(smallest, gpu="l4").advice)


@pytest.mark.slow
@pytest.mark.parametrize(("rule", "group"), [("alignment", " --softmax-group-size 256"), ("learnability", "")])
def test_advice_names_the_softmax_group_that_a_smaller_micro_batch_would_change(
    monkeypatch: pytest.MonkeyPatch, rule: str, group: str
) -> None:
    fields = {"batch_size": 512, "gradient_checkpointing": True, "rule": rule}
    small = GPUS["l4"]._replace(n_bytes=int(rater_plan(fields).peak_bytes * 0.8))
    monkeypatch.setitem(GPUS, "l4", small)
    advice = rater_plan(fields, gpu="l4").advice
    assert f"It fits with --gradient-accumulation-steps 2{group} (" in str(advice)


@pytest.mark.slow
def test_the_arms_and_seeds_of_a_downstream_training_add_up() -> None:
    one, six = model_plan(n_samples=80, arms="subset"), model_plan(n_samples=80, arms="subset,random", seeds="0,1,2")
    (steps,) = (part.n for part in one.parts if part.what == "steps")
    assert steps == 20
    assert [part.n for part in six.parts if part.what == "steps"] == [120]
    # The subset, and a control of its own for each seed.
    assert n_images(six) == 4 * 80
    assert n_images(model_plan(n_samples=80, arms="subset,subset+validation", seeds="0,1,2")) == 80
    assert n_images(model_plan(n_samples=80, arms="subset,random,full", seeds="0,1,2")) == 80, "full has all others"


def n_images(plan: TrainingPlan) -> int:
    (n,) = (part.n for part in plan.parts if part.what == "images")
    return n


def options_of(line: str) -> Any:
    words = line.split()
    options = vars(build_parser(words).parse_args(words))
    return read_config(options["command"].config, options)


def test_a_plan_takes_the_options_of_its_stage_and_assumes_the_published_weights(
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = options_of("plan train-rater --preset gpu80 --recipe paper --max-train-steps 7 --gpu a100")
    training = config.training
    assert (training.proxy_depth, training.rule, training.max_train_steps) == (16, "loss", 7)
    assert training.tokenizer_weights == WEIGHTS["tokenizer_weights"].address
    assert training.text_encoder == WEIGHTS["text_encoder"].address
    assert (config.hardware.gpu, config.hardware.n_gpus) == ("a100", 1)
    own = options_of("plan train-downstream --preset gpu24 --text-encoder minilm --seeds 0,1")
    assert (own.model.depth, own.model.text_encoder, own.seeds) == (8, "minilm", (0, 1))
    assert main(["plan", "train-rater"]) == 2
    assert "train-rater requires --preset" in capsys.readouterr().err


@pytest.mark.parametrize(("stage", "name"), [(stage, name) for stage in NETWORKS for name in presets_of(stage)])
def test_a_plan_is_for_the_hardware_of_its_preset_unless_another_is_named(stage: str, name: str) -> None:
    line = f"plan {stage.replace('_', '-')} --preset {name}"
    hardware = options_of(line).hardware
    assert (hardware.gpu, hardware.n_gpus) == (PRESETS[name].gpu, PRESETS[name].n_gpus)
    other = options_of(f"{line} --gpu a10 --n-gpus 4").hardware
    assert (other.gpu, other.n_gpus) == ("a10", 4)


def test_a_plan_uses_the_values_that_the_project_file_declares_for_its_stage(project: Path) -> None:
    text = '[rater]\npreset = "gpu24"\nrecipe = "paper"\ndataset = "web"\nvalidation = "goal"\nmax_samples = 500\nseed = 4\n'
    declare(project, text + '[downstream]\npreset = "tiny"\nseeds = [1, 2]\ntruth = "truth.parquet"\n')
    rater = options_of("plan train-rater --seed 5")
    assert (rater.dataset, rater.validation, rater.max_samples, rater.hardware.gpu) == ("web", "goal", 500, "rtx4090")
    assert (rater.training.seed, rater.training.rule, rater.training.proxy_depth) == (5, "loss", 8)
    assert options_of("plan train-downstream").seeds == (1, 2), "a key that only the stage has is ignored"
    declare(project, '[rater]\npresets = "gpu24"\n')
    with pytest.raises(ConfigError, match="Did you mean preset"):
        options_of("plan train-rater")


def test_an_unknown_gpu_is_refused_with_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("plan train-rater --preset tiny", "plan train-downstream --preset tiny", "plan score"):
        with pytest.raises(SystemExit) as refused:
            main([*command.split(), "--gpu", "h1000"])
        assert refused.value.code == 2
        told = capsys.readouterr().err
        assert "h1000" in told
        assert all(name in told for name in (*GPUS, "cpu"))


@pytest.mark.slow
def test_a_plan_needs_no_store_and_prints_a_line_for_each_question(capsys: pytest.CaptureFixture[str]) -> None:
    line = "plan train-rater --preset tiny --proxy-width 32 --rater-width 32 --batch-size 8 --gpu l4"
    assert main(line.split()) == 0
    told = capsys.readouterr().out
    for label in ("samples:", "parameters:", "memory:", "arithmetic:", "time:", "cost:"):
        assert any(row.startswith(label) for row in told.splitlines()), told
    assert main([*line.split(), "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["peak_bytes"] == found["weights_bytes"] + found["optimizer_bytes"] + found["step_bytes"]
    assert found["samples_bytes"] == 0


@pytest.mark.slow
@pytest.mark.db
def test_a_measured_run_of_the_same_sizes_on_such_a_gpu_replaces_the_assumption(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = RaterTrainingConfig.model_validate(TINY | {"proxy_warmup_steps": 100, "max_train_steps": 100, "seed": 9})
    others = config.model_copy(update={"proxy_depth": 2, "rater_depth": 2})
    run = {"stage": "train_rater", "state": "succeeded", "finished_at": "2026-01-01T00:00:00Z", "work_seconds": 50.0}
    with engine.begin() as connection:
        for number, (training, device) in enumerate(
            [
                (config, "NVIDIA H100 80GB HBM3"),
                (others, "NVIDIA H100 80GB HBM3"),
                (config, "NVIDIA L4"),
                (config, "cpu"),
            ],
            1,
        ):
            stored = {"training": training.hashed_json()}
            insert_rows(connection, {
                "runs": [{**run, "run_id": number, "config_hash": str(number), "device": device, "config": stored}],
                "raters": [{"rater_id": number, "name": str(number), "run_id": number, "config": stored, "state": "candidate",
                            "acceptance_report": {"n_steps": 150}}],
            })  # fmt: skip
    plan = rater_plan({"proxy_warmup_steps": 100, "max_train_steps": 100})
    warm_up, steps = (part.flops / part.n for part in plan.parts if part.what != "images")
    # 100 of its 150 steps were the warm-up.
    rate = (100 * warm_up + 50 * steps) / 50.0
    assert plan.seconds == pytest.approx((100 * warm_up + 100 * steps) / rate)
    assert "measured: run 1 on NVIDIA H100 80GB HBM3" in plan.basis
    # A softmax group may not span two GPUs; its size changes little.
    twice = rater_plan({"proxy_warmup_steps": 100, "max_train_steps": 100, "softmax_group_size": 4}, n_gpus=2)
    assert twice.seconds == pytest.approx((plan.seconds or 0) / 2, rel=0.01)
    assert "assumed" in rater_plan(gpu="h100-pcie").basis, "another card of that name"
    assert "run 4 on cpu" in rater_plan({"proxy_warmup_steps": 100, "max_train_steps": 100}, gpu="cpu").basis
    assert "assumed" in rater_plan(gpu="a100").basis
    assert "measured now on this machine" in rater_plan({"batch_size": 16}, gpu="cpu").basis, "no run of these sizes"
    monkeypatch.setattr(estimates, "MOST_TIMED_FLOPS", 1e6)
    plan = rater_plan({"batch_size": 16}, gpu="cpu")
    assert plan.seconds is not None
    assert "run 4 on cpu of here reached" in plan.basis
    assert plan.basis.endswith("by networks of other sizes")


@pytest.mark.slow
def test_on_a_cpu_without_earlier_runs_a_few_steps_are_timed(capsys: pytest.CaptureFixture[str]) -> None:
    plan = rater_plan(gpu="cpu", max_samples=100)
    assert re.fullmatch(r"measured now on this machine: 12 steps of [0-9.e-]+ s, [0-9.]+ [MG]FLOP/s", plan.basis)
    (seconds,) = re.findall(r"steps of ([0-9.e-]+) s", plan.basis)
    # The warm-up and the encoding are less work than the steps, which are counted at the measured speed.
    assert float(seconds) * 1200 <= (plan.seconds or 0) <= float(seconds) * (1200 + 400) * 1.2
    assert "Timing 12 steps on this machine." in capsys.readouterr().err
    model = model_plan(n_samples=80, hardware={"gpu": "cpu"})
    assert "measured now on this machine: 12 steps" in model.basis


@pytest.mark.slow
def test_what_takes_long_to_time_on_a_cpu_is_unknown_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "MOST_TIMED_FLOPS", 1e6)
    plan = rater_plan(gpu="cpu")
    assert plan.seconds is None
    assert re.fullmatch(
        r"no training was measured on a CPU, and [0-9.]+ [MG]FLOP a step take too long to be timed now", plan.basis
    )
    assert f"unknown on cpu ({plan.basis})" in plan.summary()
    assert "published networks are not loaded" in rater_plan({"text_encoder": "minilm"}, gpu="cpu").basis


@pytest.mark.slow
@pytest.mark.db
def test_a_measured_downstream_training_counts_the_steps_of_all_its_models(engine: Engine) -> None:
    model = DownstreamConfig.model_validate(MODEL).hashed_json()
    with engine.begin() as connection:
        insert_rows(connection, {
            "runs": [{"run_id": 1, "stage": "train_downstream", "state": "succeeded", "work_seconds": 30.0, "config": {"model": model},
                      "finished_at": "2026-01-01T00:00:00Z"}],
            "raters": [{"rater_id": 1, "name": "r", "config": {"training": RaterTrainingConfig().hashed_json()}}],
            "models": [{"model_id": number, "arm": arm, "run_id": 1, "n_samples": 80, "n_steps": 10, "config": {"rater": "r"}}
                       for number, arm in enumerate(("random", "full"), 1)],
        })  # fmt: skip
    plan = model_plan(n_samples=80, arms="subset", hardware={"gpu": "cpu"})
    # 20 steps took 30 seconds; the plan has 20.
    assert plan.seconds == pytest.approx(30.0)
    assert "run 1 on cpu" in plan.basis


@pytest.mark.slow
@pytest.mark.db
def test_models_of_a_version_that_a_scorer_ranked_are_planned_if_they_are_flux(engine: Engine) -> None:
    pytest.importorskip("diffusers")
    small = {"n_double_blocks": 1, "n_single_blocks": 1, "n_heads": 2, "head_dim": 16, "rope_dims": (4, 6, 6), "text_dim": 64,
             "pooled_dim": 48, "resolution": 32, "n_text_tokens": 8}  # fmt: skip
    flux = {"flux": small, "method": "lora", "lora_rank": 2, "batch_size": 4}
    run = {
        "run_id": 1,
        "stage": "train_downstream",
        "state": "succeeded",
        "work_seconds": 30.0,
        "finished_at": "2026-01-01T00:00:00Z",
    }
    stored = {"model": DownstreamConfig.model_validate(flux).hashed_json()}
    with engine.begin() as connection:
        insert_rows(connection, {
            "runs": [{**run, "device": "NVIDIA H100 80GB HBM3", "config": stored}],
            "raters": [{"rater_id": 1, "name": "clip", "kind": "scorer", "config": {"use": "clip"}}],
            "rank_scales": [{"rank_scale_id": 1, "rater_id": 1, "knot_scores": [1], "knot_ranks": [0]}],
            "rank_snapshots": [{"snapshot_id": 1, "rank_scale_id": 1, "dataset_names": ["web"]}],
            "subsets": [{"subset_id": 1, "name": "best", "snapshot_id": 1, "state": "published", "n_samples": 80}],
            "models": [{"model_id": 1, "arm": "subset", "run_id": 1, "n_samples": 80, "n_steps": 10, "config": {"rater": "clip"}}],
        })  # fmt: skip
    plan = model_plan(subset="best", model=flux)
    assert plan.samples.startswith("80 for subset")
    assert model_plan(model=flux).samples == plan.samples
    assert "measured: run 1" in plan.basis
    assert "assumed: 35%" in model_plan(n_samples=80).basis, "a model of other sizes"
    with pytest.raises(ConfigError, match=r"Scorer clip ranked this version\. It has no tokenizer"):
        model_plan(subset="best")
    assert model_plan().samples.startswith("1,000,000 for subset"), "no version was named"


@pytest.mark.db
def test_the_only_published_subset_is_planned_for_unless_something_else_is_asked_for(engine: Engine) -> None:
    def version(subset_id: int, name: str, state: str) -> dict[str, Any]:
        return {"subset_id": subset_id, "name": name, "snapshot_id": 1, "state": state}

    with engine.begin() as connection:
        insert_rows(connection, {
            "raters": [{"rater_id": 1, "name": "r"}],
            "rank_scales": [{"rank_scale_id": 1, "rater_id": 1, "knot_scores": [1], "knot_ranks": [0]}],
            "rank_snapshots": [{"snapshot_id": 1, "rank_scale_id": 1, "dataset_names": ["web"]}],
            "subsets": [version(1, "best", "published"), version(2, "draft", "selected")],
        })  # fmt: skip
    assert _only_published(PlanTrainDownstreamConfig(), engine) == "best"
    assert _only_published(PlanTrainDownstreamConfig(n_samples=80), engine) is None
    assert _only_published(PlanTrainDownstreamConfig(), None) is None
    with engine.begin() as connection:
        insert_rows(connection, {"subsets": [version(3, "other", "published")]})
    assert _only_published(PlanTrainDownstreamConfig(), engine) is None


@pytest.mark.slow
@pytest.mark.db
def test_a_plan_without_a_name_says_which_samples_it_counts(engine: Engine) -> None:
    assert "1,000,000 for subset, 1,000,000 for random (assumed; for a subset of your own:" in model_plan().samples
    with engine.begin() as connection:
        insert_rows(connection, {
            "raters": [{"rater_id": 1, "name": "r", "config": {"training": RaterTrainingConfig().hashed_json()}}],
            "rank_scales": [{"rank_scale_id": 1, "rater_id": 1, "knot_scores": [1], "knot_ranks": [0]}],
            "rank_snapshots": [{"snapshot_id": 1, "rank_scale_id": 1, "dataset_names": ["web"], "n_eligible": 200}],
            "subsets": [{"subset_id": 1, "name": "best", "snapshot_id": 1, "state": "published", "n_samples": 80}],
        })  # fmt: skip
    assert model_plan().samples == "80 for subset, 80 for random (members of best); seeds: 1"
    assert n_images(model_plan()) == 160
    assert n_images(model_plan(seeds="0,1,2")) == 200, "no more than are eligible"
    by_loss = model_plan(arms="minus_loss")
    assert n_images(by_loss) == 200, "which it ranks"
    assert "not counted: the model that minus_loss trains on the validation dataset" in by_loss.samples


@pytest.mark.slow
@pytest.mark.db
def test_the_samples_of_registered_datasets_are_counted(engine: Engine) -> None:
    with engine.begin() as connection:
        add_dataset(connection)
        shards = [{"shard_id": n, "dataset_id": 1, "crawl_date": "2026-01-01", "n_samples": 30} for n in (1, 2)]
        insert_rows(connection, {"shards": shards})
    plan = rater_plan(dataset="web", n_validation=5)
    assert {part.what: part.n for part in plan.parts}["images"] == 65
    assert plan.samples == "60 for training (all of web), 5 for validation (--n-validation)"
    few = rater_plan({"proxy_warmup_steps": 0, "max_train_steps": 1}, dataset="web", validation="web")
    assert few.samples == "8 for training (as many as all steps read), 60 for validation (all of web)"
    new = rater_plan(dataset="not-yet", max_samples=100)
    assert new.samples == "100 for training (--max-samples), 10 for validation (assumed: a tenth as many)"


@pytest.mark.db
@pytest.mark.slow
def test_scoring_on_a_named_gpu_is_estimated_until_the_rater_has_scored(
    engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = {"training": RaterTrainingConfig.model_validate(TINY).hashed_json()}
    with engine.begin() as connection:
        add_dataset(connection)
        insert_rows(connection, {
            "raters": [{"rater_id": 1, "name": "r", "state": "production", "config": stored}],
            "shards": [{"shard_id": 9, "dataset_id": 1, "crawl_date": "2026-01-02", "n_samples": 7200}],
        })  # fmt: skip
    assert main(["plan", "score", "--gpu", "l4", "--price-per-gpu-hour", "2", "--json"]) == 0
    (plan,) = json.loads(capsys.readouterr().out.splitlines()[-1])["raters"]
    assert plan["seconds"] == pytest.approx(7200 / plan["pairs_per_s"], abs=0.1)
    assert min(plan["memory_bytes"], plan["flops_per_sample"]) > 0
    assert "assumed: 35% of the peak of L4" in plan["note"]
    assert main(["plan", "score"]) == 0
    assert "estimate it with --gpu" in capsys.readouterr().out
    with engine.begin() as connection:
        insert_rows(connection, {
            "shards": [{"shard_id": 8, "dataset_id": 1, "crawl_date": "2026-01-02"}],
            "nights": [{"night_id": 1, "dataset_id": 1, "crawl_date": "2026-01-02", "rater_id": 1}],
            "runs": [{"run_id": 1, "stage": "score", "device": "NVIDIA L4", "started_at": "2026-01-03T00:00:00Z"}],
            "shard_scores": [{"rater_id": 1, "shard_id": 8, "night_id": 1, "run_id": 1, "device": "cuda", "n_scored": 500,
                              "scored_at": "2026-01-03T00:00:10Z"}],
        })  # fmt: skip
    assert main(["plan", "score", "--gpu", "l4", "--price-per-gpu-hour", "2", "--json"]) == 0
    (plan,) = json.loads(capsys.readouterr().out.splitlines()[-1])["raters"]
    assert (plan["pairs_per_s"], plan["note"]) == (50, None), "as measured"
    assert plan["cost"] == pytest.approx(7200 / 50 / 3600 * 2, rel=1e-3)
    assert main(["plan", "score", "--gpu", "a10", "--json"]) == 0
    (plan,) = json.loads(capsys.readouterr().out.splitlines()[-1])["raters"]
    assert "assumed: 35% of the peak of A10" in plan["note"]
