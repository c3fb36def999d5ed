"""Estimates of memory, time and cost on a named GPU: `plan train-rater`, `plan train-downstream`, and the part of `plan score` for it.

Memory and arithmetic are counted. Time is arithmetic over the speed that runs of this store with the same sizes reached on such a device.
Before there is one, a GPU is assumed to reach a share of its peak; on a CPU, whose peak is not known, a few steps are timed.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pydantic import Field, ValidationError
from sqlalchemy import Engine

from alchemist_core.config import BARE_WORD, Command, Config, Result, Seeds, lay_out
from alchemist_core.errors import AlchemistError, ConfigError
from alchemist_core.local.machine import look_at_machine
from alchemist_core.models.config import TokenizerConfig, published_tokenizer
from alchemist_core.presets import gigabytes
from alchemist_core.prices import cost_at
from alchemist_core.project import effective_prices
from alchemist_core.report.arm_names import ArmNames
from alchemist_core.store.datasets import describe_datasets
from alchemist_core.store.engine import has_store, open_store
from alchemist_core.store.runs import MeasuredTraining, measured_trainings
from alchemist_core.store.subsets import choose_version, list_subsets, rater_of_subset, require_tokenizer
from alchemist_core.telemetry import say
from alchemist_core.training.config import DownstreamConfig, RaterTrainingConfig
from alchemist_core.training.gpus import CPU, DEFAULT_UTILISATION, GPUS, GpuName
from alchemist_core.training.pinning import FILES, caption_tokens

if TYPE_CHECKING:
    from alchemist_core.training.footprint import Footprint, Work

T = TypeVar("T", RaterTrainingConfig, DownstreamConfig)
Count = Callable[[T], "Footprint"]


class Hardware(Config):
    """On what to plan a run."""

    gpu: GpuName = Field("cpu", description="GPU, or cpu: the cores of this machine; default: as the preset")
    n_gpus: int = Field(1, ge=1, le=1024, description="GPUs that share each batch; default: as the preset")
    utilisation: float = Field(
        DEFAULT_UTILISATION,
        gt=0,
        le=1,
        description="Share of the GPU's peak that the run reaches; not used where runs of this store were measured",
    )
    price_per_gpu_hour: float | None = Field(
        None, ge=0, description="Price of one GPU hour; none: gpu_hour in [prices] of alchemist.toml"
    )


class PlanTrainRaterConfig(Config):
    """Which training of a rater to plan."""

    dataset: str | None = Field(None, description="Training dataset, for the number of its samples")
    validation: str | None = Field(None, description="Validation dataset, for the number of its samples")
    max_samples: int | None = Field(
        None,
        ge=64,
        description="Use at most this many samples of each dataset; none: as many training samples as the steps read, and all validation "
        "samples",
    )
    n_validation: int | None = Field(
        None, ge=1, description="Validation samples; none: those of --validation, else a tenth of the training samples"
    )
    training: RaterTrainingConfig = Field(default_factory=RaterTrainingConfig, description="Training options")
    hardware: Hardware = Field(Hardware(), description="GPU, and its price")


class PlanTrainDownstreamConfig(Config):
    """Which training of downstream models to plan."""

    subset: str | None = Field(
        None,
        description="Subset, for its number of samples and its rater's tokenizer; none: the published one, if there is exactly one",
        json_schema_extra=BARE_WORD,
    )
    n_samples: int | None = Field(
        None, ge=1, description="Samples of an arm; none: those of the subset, else 1,000,000"
    )
    arms: ArmNames = Field(("subset", "random"), description="Arms to train, separated by commas")
    seeds: Seeds = Field((0,), description="Seeds of each arm, separated by commas")
    model: DownstreamConfig = Field(default_factory=DownstreamConfig, description="Model and training options")
    hardware: Hardware = Field(Hardware(), description="GPU, and its price")


class Part(Result):
    """One part of a run's arithmetic; seconds are None where the device's peak is unknown."""

    what: str
    n: int
    flops: float
    number_format: str
    seconds: float | None


class TrainingPlan(Result):
    """Parameters, bytes of one GPU, and the arithmetic and time of the whole run; None where a value is unknown."""

    samples: str
    """How many samples it reads, and where these numbers come from."""
    device: str
    n_gpus: int
    parameters: dict[str, int]
    weights_bytes: int
    optimizer_bytes: int
    step_bytes: int
    samples_bytes: int
    peak_bytes: int
    device_bytes: int
    is_fitting: bool
    advice: str | None
    parts: list[Part]
    seconds: float | None
    cost: float | None
    currency: str
    basis: str

    def summary(self) -> str:
        """Return a line each for networks, memory, arithmetic, time and cost."""
        held = f"weights {gigabytes(self.weights_bytes)}, optimizer {gigabytes(self.optimizer_bytes)}, a step {gigabytes(self.step_bytes)}"
        held += f", encoded images {gigabytes(self.samples_bytes)}" if self.samples_bytes else ""
        n_devices = "" if self.device == CPU else f"{self.n_gpus} "
        lines = {
            "samples": self.samples,
            "parameters": ", ".join(f"{name} {_millions(n)}" for name, n in self.parameters.items()),
            "memory": f"{gigabytes(self.peak_bytes)} of {gigabytes(self.device_bytes)}: {held}",
            "arithmetic": "; ".join(
                f"{part.what} {part.n:,} × {flop_text(part.flops / part.n)} {part.number_format}" for part in self.parts if part.n
            ),
            "time": f"{_time(self.seconds)} on {n_devices}{self.device} ({self.basis})",
            "cost": self._cost,
        }  # fmt: skip
        return "\n".join(filter(None, [lay_out(lines), self.advice]))

    @property
    def _cost(self) -> str:
        if self.cost is not None:
            return f"about {self.cost:,.2f} {self.currency}".rstrip()
        if self.seconds is None:
            return "unknown, as the time is"
        if self.device == CPU:
            return "unknown (set core_hour in [prices] of alchemist.toml)"
        return "unknown (give --price-per-gpu-hour, or set gpu_hour in [prices] of alchemist.toml)"


def plan_train_rater(config: PlanTrainRaterConfig) -> TrainingPlan:
    """Count what the training of a rater needs, and estimate its time and cost on a GPU.

    Raises:
        ConfigError: The GPUs cannot share a batch.
    """
    from alchemist_core.training.footprint import rater_footprint  # noqa: PLC0415  imports torch

    training, engine, device = config.training, _store(), _Device(config.hardware)
    most = (config.max_samples, "--max-samples")
    n_samples, basis = _fewest(_all_of(engine, config.dataset), (training.n_read, "as many as all steps read"), most)
    n_validation, validation_basis = _validation(engine, config, n_samples)

    def count(other: RaterTrainingConfig) -> "Footprint":
        n_both, is_gpu = n_samples + n_validation, device.gpu is not None
        return rater_footprint(other, n_processes=config.hardware.n_gpus, n_samples=n_both, is_gpu=is_gpu)

    footprint, times = count(training), rater_times(training, n_samples, n_validation)
    speed: _Speed | str | None
    speed = _measured(engine, "train_rater", device, lambda run: _rater_flops(run, training, footprint))
    if speed is None:
        speed = device.assumption if device.gpu else _cpu_speed_of_rater(engine, training, footprint, device)
    samples = f"{n_samples:,} for training ({basis}), {n_validation:,} for validation ({validation_basis})"
    advice = _advise(training, count, footprint, device)
    return _plan(device, footprint, times, speed, samples=samples, advice=advice)


def _validation(engine: Engine | None, config: PlanTrainRaterConfig, n_samples: int) -> "Counted":
    if config.n_validation is not None:
        return Counted(config.n_validation, "--n-validation")
    found, assumed = _all_of(engine, config.validation), (max(2, n_samples // 10), "assumed: a tenth as many")
    return _fewest(assumed if found[0] is None else found, (config.max_samples, "--max-samples"))


def plan_train_downstream(config: PlanTrainDownstreamConfig) -> TrainingPlan:
    """Count what the training of downstream models needs, and estimate its time and cost on a GPU.

    Raises:
        ConfigError: There is no such subset, a scorer ranked the one given and models need a tokenizer, or the GPUs cannot share a batch.
    """
    from alchemist_core.training.footprint import downstream_footprint  # noqa: PLC0415  imports torch

    model, engine, device = config.model, _store(), _Device(config.hardware)
    tokenizer, n_eligible, counted = _tokenizer_of(config), None, Counted(1_000_000, _ASSUMED)
    own_rater = RaterTrainingConfig()
    if (name := config.subset or _only_published(config, engine)) is not None:
        engine = open_store()
        subset = choose_version(engine, name, version=None)
        rater = rater_of_subset(engine, subset)
        if model.flux is None:  # FLUX has its own tokenizer
            require_tokenizer(rater)
            own_rater = RaterTrainingConfig.from_stored(rater.config["training"])
            tokenizer = own_rater.tokenizer_config
        n_eligible, counted = rater.n_eligible, Counted(subset.n_reads, f"members of {name}")
    if config.n_samples is not None:
        n_eligible, counted = None, Counted(config.n_samples, "--n-samples")

    def count(other: DownstreamConfig) -> "Footprint":
        return downstream_footprint(other, tokenizer, n_processes=config.hardware.n_gpus)

    footprint = count(model)
    n_of = {arm: n_eligible if arm == "full" and n_eligible else counted.n for arm in config.arms}
    n_images, n_steps = _n_images(config, n_of, n_eligible), len(config.seeds) * sum(map(model.steps, n_of.values()))
    times = model_times(model, n_steps, n_images, max(n_of.values()))
    speed: _Speed | str | None
    speed = _measured(engine, "train_downstream", device, lambda run: _model_flops(run, model, tokenizer, footprint))
    if speed is None:
        speed = device.assumption if device.gpu else _cpu_speed_of_model(engine, model, own_rater, footprint, device)
    arms = ", ".join(f"{n:,} for {arm}" for arm, n in n_of.items())
    samples = f"{arms} ({counted.basis}); seeds: {len(config.seeds)}"
    if "minus_loss" in config.arms:
        samples += "; not counted: the model that minus_loss trains on the validation dataset, and its losses of all eligible samples"
    return _plan(device, footprint, times, speed, samples=samples, advice=_advise(model, count, footprint, device))


def _n_images(config: PlanTrainDownstreamConfig, n_of: Mapping[str, int], n_eligible: int | None) -> int:
    """Return how many images the arms read at most, those of the small validation dataset left out."""
    if "full" in n_of or ("minus_loss" in n_of and n_eligible):
        return n_eligible or max(n_of.values())
    # All seeds read the same subset, and each seed a control of its own.
    drawn = {arm.partition("+")[0] for arm in n_of} - {"validation"}
    n_draws = sum(1 if arm == "subset" else len(config.seeds) for arm in drawn)
    n_read = n_draws * max(n_of.values())
    return min(n_read, n_eligible or n_read)


_ASSUMED = "assumed; for a subset of your own: alchemist plan train-downstream SUBSET, or --n-samples"


def _only_published(config: PlanTrainDownstreamConfig, engine: Engine | None) -> str | None:
    """Return the published subset if there is exactly one, the models can learn from it, and nothing else was asked for; else None."""
    if engine is None or config.n_samples is not None:
        return None
    published = list_subsets(engine, state="published")
    if len(published) != 1:
        return None
    (subset,) = published
    may_train = config.model.flux is not None or rater_of_subset(engine, subset).kind == "trained"
    return subset.name if may_train else None


class Counted(NamedTuple):
    """A number of samples, and where it comes from."""

    n: int
    basis: str


def _fewest(*choices: tuple[int | None, str]) -> Counted:
    """Return the smallest number that is known."""
    return min(Counted(n, basis) for n, basis in choices if n is not None)


def _all_of(engine: Engine | None, dataset: str | None) -> tuple[int | None, str]:
    """Return the number of samples of a dataset; None without a dataset, or before its first ingest."""
    found = [] if engine is None or dataset is None else describe_datasets(engine, dataset)
    return (found[0].n_samples or None if found else None), f"all of {dataset}"


class ScoringEstimate(NamedTuple):
    """What scoring needs on a device, and how fast it is; None on a CPU, whose peak is not known."""

    samples_per_s: float | None
    memory_bytes: int
    flops: float
    """Of one sample."""
    price_per_hour: float | None
    basis: str
    is_of: Callable[[str], bool]
    """Whether a run was on such a device."""


def estimate_scoring(rater_training: Mapping[str, Any], hardware: Hardware) -> ScoringEstimate:
    """Estimate scoring by counted arithmetic.

    Args:
        rater_training: The rater's training options, as stored.
        hardware: The GPU, and the share of its peak that is reached.
    """
    from alchemist_core.training.footprint import scoring_footprint  # noqa: PLC0415  imports torch

    device = _Device(hardware)
    footprint = scoring_footprint(RaterTrainingConfig.from_stored(rater_training), is_gpu=device.gpu is not None)
    seconds = [device.seconds(work, 1) for work in footprint.work.values()]
    known = [one for one in seconds if one is not None]
    samples_per_s = 1 / sum(known) if len(known) == len(seconds) else None
    flops = sum(work.flops for work in footprint.work.values())
    return ScoringEstimate(samples_per_s, footprint.peak, flops, device.price_per_hour, device.assumption, device.is_of)


def rater_times(training: RaterTrainingConfig, n_samples: int, n_validation: int) -> dict[str, int]:
    """Return how often each part of a rater's training is done, by the names of `Footprint.work`.

    Args:
        training: Training options; early stopping may end the steps before.
        n_samples: Training samples; images are encoded once.
        n_validation: Validation samples.
    """
    n_warm_up, n_steps = training.proxy_warmup_steps, training.max_train_steps
    n_images = min(n_samples, training.n_read) + n_validation
    # A step reads as many validation samples.
    n_captions = _n_captions(training, n_images, (n_warm_up + 2 * n_steps) * training.batch_size, n_images)
    return {"images": n_images, "captions": n_captions, "warm-up": n_warm_up, "step": n_steps}


def model_times(model: DownstreamConfig, n_steps: int, n_samples: int, n_largest: int) -> dict[str, int]:
    """Return how often each part of the training of downstream models is done.

    Args:
        model: Training options.
        n_steps: Steps of all models.
        n_samples: Different samples of all arms: the cache encodes each once.
        n_largest: Samples of the largest arm, whose captions must fit into memory together.
    """
    n_captions = _n_captions(model, n_samples, n_steps * model.batch_size, n_largest)
    # FLUX's features never fit.
    n_captions = n_captions if model.flux is None else n_steps * model.batch_size
    return {"images": n_samples, "captions": n_captions, "step": n_steps}


class _Device:
    """The GPU, or the CPU, that is planned for."""

    def __init__(self, hardware: Hardware) -> None:
        self.hardware, self.gpu = hardware, GPUS.get(hardware.gpu)
        self.title = CPU if self.gpu is None else self.gpu.title
        self.n_bytes = _machine_bytes() if self.gpu is None else self.gpu.n_bytes

    def is_of(self, run_device: str) -> bool:
        """Whether a run was on such a device."""
        return run_device == CPU if self.gpu is None else self.gpu.is_device(run_device)

    def seconds(self, work: "Work", n: int) -> float | None:
        """Return the time of some arithmetic at the assumed utilisation; None on a CPU, whose peak is not known."""
        if self.gpu is None:
            return None
        peak = self.gpu.bf16 if work.number_format == "bf16" else self.gpu.fp32
        return n * work.flops / (peak * self.hardware.utilisation * self.hardware.n_gpus)

    @property
    def assumption(self) -> str:
        """What a time without a measurement rests on."""
        if self.gpu is None:
            return "no run of this size was measured on a CPU"
        return f"assumed: {self.hardware.utilisation:.0%} of the peak of {self.title}; no such run of this store was measured"

    @property
    def price_per_hour(self) -> float | None:
        """Price of all devices."""
        own = self.hardware.price_per_gpu_hour
        prices = effective_prices() if own is None else effective_prices().model_copy(update={"gpu_hour": own})
        device, n_cores = CPU if self.gpu is None else self.title, len(os.sched_getaffinity(0))
        return prices.of_device(device, n_devices=self.hardware.n_gpus, n_cores=n_cores)


class _Speed(NamedTuple):
    """FLOP/s of a device in the steps of a training, and where this figure comes from."""

    flops_per_s: float
    text: str
    includes_encoding: bool
    """Whether the seconds of the steps contain those of encoding."""

    @classmethod
    def of_run(cls, run: MeasuredTraining, flops: float) -> "_Speed":
        """Return the speed of a run, everything else that it did included."""
        flops_per_s = flops / run.work_seconds / run.n_processes
        devices = run.device if run.n_processes == 1 else f"{run.n_processes} {run.device}"
        devices += f" of {run.host}" if run.device == CPU else ""
        each = "" if run.n_processes == 1 else " each"
        text = f"measured: run {run.run_id} on {devices} reached {flop_text(flops_per_s)}/s{each}, encoding included"
        return cls(flops_per_s, text, includes_encoding=True)


MOST_TIMED_FLOPS = 5e11
"""Arithmetic of the steps that a plan times: ten seconds or so on two cores."""


def _cpu_speed_of_rater(
    engine: Engine | None, training: RaterTrainingConfig, footprint: "Footprint", device: _Device
) -> _Speed | str:
    from alchemist_core.training.footprint import rater_footprint  # noqa: PLC0415  imports torch
    from alchemist_core.training.step_timing import seconds_a_rater_step  # noqa: PLC0415  as above

    def flops_of(run: MeasuredTraining) -> float | None:
        own = RaterTrainingConfig.from_stored(run.config["training"])
        return _rater_flops(run, own, rater_footprint(own, is_gpu=False))

    unknown = _why_not_timed(training, footprint, device)
    timed = unknown or _timed(footprint, lambda n_steps: seconds_a_rater_step(training, n_steps))
    return timed if isinstance(timed, _Speed) else _of_other_sizes(engine, "train_rater", device, flops_of) or timed


def _cpu_speed_of_model(
    engine: Engine | None, model: DownstreamConfig, rater: RaterTrainingConfig, footprint: "Footprint", device: _Device
) -> _Speed | str:  # fmt: skip
    from alchemist_core.training.footprint import downstream_footprint  # noqa: PLC0415  imports torch
    from alchemist_core.training.step_timing import seconds_a_model_step  # noqa: PLC0415  as above

    def flops_of(run: MeasuredTraining) -> float | None:
        own, tokenizer = DownstreamConfig.from_stored(run.config["model"]), _tokenizer_of_run(run) or TokenizerConfig()
        return run.n_steps * downstream_footprint(own, tokenizer).work["step"].flops

    unknown = _why_not_timed(model, footprint, device) or _why_not_timed(rater, footprint, device)
    timed = unknown or _timed(footprint, lambda n_steps: seconds_a_model_step(model, rater, n_steps))
    return (
        timed if isinstance(timed, _Speed) else _of_other_sizes(engine, "train_downstream", device, flops_of) or timed
    )


def _of_other_sizes(
    engine: Engine | None, stage: str, device: _Device, flops_of: Callable[[MeasuredTraining], float | None]
) -> _Speed | None:
    """Return the speed of the newest run of any sizes on such a device."""
    speed = _measured(engine, stage, device, flops_of)
    return None if speed is None else speed._replace(text=f"{speed.text}, by networks of other sizes")


def _timed(footprint: "Footprint", seconds_a_step: Callable[[int], float]) -> _Speed | str:
    """Time a few steps on this machine and return the speed, or why they failed."""
    n_steps, flops = _n_timed(footprint), footprint.work["step"].flops
    say(f"Timing {n_steps} steps on this machine.")
    try:
        seconds = seconds_a_step(n_steps)
    except AlchemistError as error:
        return f"the timing of a step failed: {error}"
    text = f"measured now on this machine: {n_steps} steps of {seconds:.3g} s, {flop_text(flops / seconds)}/s"
    return _Speed(flops / seconds, text, includes_encoding=False)


def _n_timed(footprint: "Footprint") -> int:
    from alchemist_core.training.step_timing import N_STEPS  # noqa: PLC0415  imports torch

    return min(N_STEPS, int(MOST_TIMED_FLOPS / footprint.work["step"].flops))


def _why_not_timed(
    config: RaterTrainingConfig | DownstreamConfig, footprint: "Footprint", device: _Device
) -> str | None:
    """Return why steps cannot be timed within seconds; None if they can."""
    from alchemist_core.training.step_timing import LEAST_STEPS  # noqa: PLC0415  imports torch

    weights = [name for name in FILES if getattr(config, name, None) is not None]
    reasons = {
        "this machine would time its GPU": bool(look_at_machine().gpus),
        "published networks are not loaded for a timing": bool(weights)
        or config.text_encoder != "words"
        or getattr(config, "flux", None) is not None,
        "a tokenizer is not trained for a timing": getattr(config, "tokenizer", "patches") != "patches",
        "nothing is compiled for a timing": getattr(config, "compile", False),
        "a step does not fit into the memory": footprint.peak > device.n_bytes,
        f"{flop_text(footprint.work['step'].flops)} a step take too long to be timed now": _n_timed(footprint)
        < LEAST_STEPS,
    }
    found = next((reason for reason, applies in reasons.items() if applies), None)
    return None if found is None else f"no training was measured on a CPU, and {found}"


def _plan(
    device: _Device,
    footprint: "Footprint",
    times: Mapping[str, int],
    speed: _Speed | str,
    *,
    samples: str,
    advice: str | None,
) -> TrainingPlan:
    parts = [
        Part(
            what=_TITLES[name], n=times[name], flops=times[name] * work.flops, number_format=work.number_format,
            seconds=device.seconds(work, times[name]),
        )
        for name, work in footprint.work.items()
        if times.get(name)
    ]  # fmt: skip
    seconds: float | None
    if isinstance(speed, _Speed):
        n_devices = 1 if device.gpu is None else device.hardware.n_gpus
        flops = sum(part.flops for part in parts if part.what in _OF_STEPS or not speed.includes_encoding)
        seconds, basis = flops / speed.flops_per_s / n_devices, speed.text
    else:
        known = [part.seconds for part in parts if part.seconds is not None]
        seconds, basis = sum(known) if len(known) == len(parts) else None, speed
    price = device.price_per_hour
    return TrainingPlan(
        device=device.title, n_gpus=device.hardware.n_gpus, parameters=dict(footprint.parameters),
        weights_bytes=footprint.weights, optimizer_bytes=footprint.optimizer, step_bytes=footprint.step,
        samples_bytes=footprint.samples, peak_bytes=footprint.peak, device_bytes=device.n_bytes,
        is_fitting=footprint.peak <= device.n_bytes, samples=samples, advice=advice, parts=parts, seconds=seconds,
        basis=basis, currency=effective_prices().currency,
        cost=None if price is None or seconds is None else cost_at(seconds, price),
    )  # fmt: skip


_TITLES = {"images": "images", "captions": "captions", "warm-up": "warm-up steps", "step": "steps"}
_OF_STEPS = (_TITLES["warm-up"], _TITLES["step"])


def _advise(config: T, count: Count[T], footprint: "Footprint", device: _Device) -> str | None:
    """Return by how much a run does not fit, and the first change that makes it fit; None if it fits."""
    missing = footprint.peak - device.n_bytes
    if missing <= 0:
        return None
    head = f"Does not fit: {gigabytes(missing)} more than {device.title} has."
    for change in _remedies(config):
        try:
            needed = count(type(config).model_validate(config.model_dump() | change)).peak
        except (ValidationError, ConfigError):
            continue
        if needed <= device.n_bytes:
            return f"{head} It fits with {_as_flags(change)} ({gigabytes(needed)})."
    return f"{head} No smaller micro-batch and no checkpointing makes it fit: choose a larger GPU, or a smaller preset."


def _remedies(config: RaterTrainingConfig | DownstreamConfig) -> Iterator[dict[str, Any]]:
    """Yield changes that need less memory: first those with the same result, then slower ones, then smaller softmax groups."""
    n_parts = config.gradient_accumulation_steps
    smaller = [{"gradient_accumulation_steps": n_parts * factor} for factor in (2, 4, 8)]
    checkpointing = {} if config.gradient_checkpointing else {"gradient_checkpointing": True}
    # Without a size of its own a softmax group is a micro-batch, and smaller ones have another result.
    is_bound = isinstance(config, RaterTrainingConfig) and config.rule.trains_rater and not config.softmax_group_size
    exact = [] if is_bound else smaller
    yield from exact
    if checkpointing:
        yield checkpointing
        yield from (change | checkpointing for change in exact)
    if isinstance(config, RaterTrainingConfig):
        for change in smaller:
            group = max(2, config.batch_size // change["gradient_accumulation_steps"])
            yield change | checkpointing | {"softmax_group_size": group}


def _as_flags(change: Mapping[str, Any]) -> str:
    flags = ((f"--{name.replace('_', '-')}", value) for name, value in change.items())
    return " ".join(flag if value is True else f"{flag} {value}" for flag, value in flags)


# What a step computes and holds depends on these fields.
_STEP = ("batch_size", "gradient_accumulation_steps", "mixed_precision", "gradient_checkpointing")
_RATER = (
    *_STEP, "compile", "proxy_width", "proxy_depth", "rater_width", "rater_depth", "rater_features", "n_heads", "resolution",
    "tokenizer", "codebook_size",
)  # fmt: skip
_MODEL = (*_STEP, "method", "lora_rank", "width", "depth", "n_heads", "flux")


def _measured(
    engine: Engine | None, stage: str, device: _Device, flops_of: Callable[[MeasuredTraining], float | None]
) -> _Speed | None:
    """Return the speed of the newest run of the same sizes on such a device."""
    if engine is None:
        return None
    for run in measured_trainings(engine, stage):
        if device.is_of(run.device) and (flops := flops_of(run)):
            return _Speed.of_run(run, flops)
    return None


def _rater_flops(run: MeasuredTraining, planned: RaterTrainingConfig, footprint: "Footprint") -> float | None:
    """Return the FLOPs of a run's steps; None if it had other sizes."""
    training = RaterTrainingConfig.from_stored(run.config["training"])
    if _sizes(training, _RATER) != _sizes(planned, _RATER) or training.rule.trains_rater != planned.rule.trains_rater:
        return None
    n_warm_up = min(run.n_steps, training.proxy_warmup_steps)
    work = footprint.work
    return n_warm_up * work["warm-up"].flops + (run.n_steps - n_warm_up) * work["step"].flops


def _model_flops(
    run: MeasuredTraining, planned: DownstreamConfig, tokenizer: TokenizerConfig, footprint: "Footprint"
) -> float | None:
    model = DownstreamConfig.from_stored(run.config["model"])
    if _sizes(model, _MODEL) != _sizes(planned, _MODEL):
        return None
    if model.flux is None and _tokenizer_of_run(run) != tokenizer:
        return None
    return run.n_steps * footprint.work["step"].flops


def _tokenizer_of_run(run: MeasuredTraining) -> TokenizerConfig | None:
    """Return the tokenizer of a run's rater; None if a scorer ranked the version, whose models are FLUX-mini's."""
    return None if run.rater_training is None else RaterTrainingConfig.from_stored(run.rater_training).tokenizer_config


def _sizes(config: RaterTrainingConfig | DownstreamConfig, names: tuple[str, ...]) -> list[Any]:
    encoder = config.text_encoder.partition(":")[0]
    weights = getattr(config, "tokenizer_weights", None) is not None
    return [getattr(config, name) for name in names] + [encoder, weights]


def _tokenizer_of(config: PlanTrainDownstreamConfig) -> TokenizerConfig:
    """Return the tokenizer of models without a subset: the published one for models that read a network's text features."""
    return TokenizerConfig() if config.model.text_encoder == "words" else published_tokenizer()


def _n_captions(config: RaterTrainingConfig | DownstreamConfig, n_captions: int, n_read: int, n_together: int) -> int:
    """Return how often a caption is encoded: each once if the features of a training fit into memory, otherwise at each step."""
    from alchemist_core.training.encoding import MOST_TEXT_BYTES, TYPICAL_TOKENS  # noqa: PLC0415  imports torch
    from alchemist_core.training.footprint import text_shape  # noqa: PLC0415  as above

    dim, n_tokens, _ = text_shape(config.text_encoder, caption_tokens(config))
    return n_captions if prod((n_together, min(n_tokens, TYPICAL_TOKENS), dim, 4)) <= MOST_TEXT_BYTES else n_read


def _store() -> Engine | None:
    """Return the store; None before the first ingest."""
    return open_store() if has_store() else None


def _machine_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _millions(n: float) -> str:
    return f"{n / 1e6:,.1f} M"


def flop_text(flops: float) -> str:
    """Return FLOPs in readable units.

    >>> flop_text(5e9), flop_text(2.5e13)
    ('5 GFLOP', '25 TFLOP')
    """
    power = next(power for power in (15, 12, 9, 6) if flops >= 10**power or power == 6)
    return f"{flops / 10**power:.3g} {dict(zip((15, 12, 9, 6), 'PTGM', strict=True))[power]}FLOP"


def _time(seconds: float | None) -> str:
    """Return a duration in readable units.

    >>> _time(50), _time(5400), _time(None)
    ('about 50 s', 'about 1.5 hours', 'unknown')
    """
    if seconds is None:
        return "unknown"
    return f"about {seconds / 3600:,.1f} hours" if seconds >= 3600 else f"about {seconds:,.0f} s"


COMMANDS = {
    "train-rater": Command(PlanTrainRaterConfig, plan_train_rater),
    "train-downstream": Command(PlanTrainDownstreamConfig, plan_train_downstream),
}
