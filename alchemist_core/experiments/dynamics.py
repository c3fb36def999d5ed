"""Fig. 3: the loss and the gradient norm of samples of each rank while the proxies train.

Training is a function of its config and its samples, so the training of a finished rater can be repeated and measured. The file has, in
this order: config, choice of samples, repeated training, gradients, figures. Functions import torch themselves, because the command line
reads the config.

Letters: N training samples · M followed samples · B samples of a batch.
"""

import copy
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from shutil import copyfile
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from alchemist_core.config import Formerly, Result, Seeds, fingerprint
from alchemist_core.errors import DataError
from alchemist_core.experiments.config import TrialsConfig
from alchemist_core.experiments.results import show
from alchemist_core.experiments.sheets import Sheet
from alchemist_core.experiments.trial import Trial
from alchemist_core.files import FEATURE_CACHE, artifact_path, require_artifact
from alchemist_core.report.charts import Axis, Line, Point, line_chart
from alchemist_core.report.page import render_chart
from alchemist_core.stages.devices import hold_device
from alchemist_core.stages.execution import StageRun, execute
from alchemist_core.stages.train_rater import TrainRaterConfig, read_both
from alchemist_core.statistics import Estimate, estimate
from alchemist_core.store.engine import open_store
from alchemist_core.store.raters import RaterRow
from alchemist_core.store.snapshots import take_snapshot
from alchemist_core.telemetry import OnProgress, say
from alchemist_core.training.sample_reading import StoredSamples

NAME = "dynamics"
TITLE = "How do loss and gradient of samples of each rank change while the proxy trains? (Fig. 3)"
Kind = Literal["alignment", "loss"]
Mark = dict[str, Any]
"""Measurements after a step: `step`, `epoch`, `loss_of_band`, `gradient_norm_of_band`, `reference_loss` (None before θ̂ exists)."""

_N_AT_ONCE = 256
# Memory of a chunk of samples: each sample has a gradient of the size of the model.
_MOST_GRADIENT_BYTES = 2**28
HEAD = ("ranks", "samples", "loss at first", "loss at last", "fell by", "gradient at first", "gradient at last")
# Line of the reference in the figure.
REFERENCE = "mean L(θ̂), all ranks"


class DynamicsConfig(TrialsConfig):
    """Raters whose training is followed, and what is measured."""

    name: str = Field(NAME, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$", description="Name of the result")
    rule: Annotated[Kind, Formerly("kind")] = Field(
        "alignment", description="Scoring rule of the raters whose ranks define the bands: alignment or loss"
    )
    seeds: Seeds = Field(
        (3,),
        min_length=1,
        description="Seeds, separated by commas; one rater training is repeated and measured for each",
    )
    n_followed: int = Field(10_000, ge=10, le=1_000_000, description="Number of training samples to follow")
    n_gradients: int = Field(
        2_000,
        ge=10,
        le=1_000_000,
        description="Number of followed samples whose gradients are measured; each needs one backward pass per measurement",
    )
    n_bands: int = Field(5, ge=2, le=8, description="Number of rank bands; each is a line of the figures")
    n_marks: int = Field(
        12, ge=1, le=1000, description="Number of measurements, in addition to the one before the first step"
    )

    @model_validator(mode="after")
    def _one_rater_is_followed_once(self) -> "DynamicsConfig":
        if self.rater is not None and len(self.seeds) > 1:
            message = f"--rater {self.rater} has one training: give one seed, or omit --rater"
            raise ValueError(message)
        return self

    def identity(self) -> dict[str, Any]:
        """Return everything that the result depends on."""
        return {"experiment": NAME, **self.model_dump(mode="json", exclude={"name"})}


class FollowedResult(Result):
    """One training that was followed."""

    largest_difference: float
    marks: list[Mark]


def follow(config: DynamicsConfig) -> dict[str, Any]:
    """Follow the training of every seed; finished results are read from the store."""
    return {"courses": [{"seed": seed, **_follow_seed(config, seed)} for seed in config.seeds]}


def _follow_seed(config: DynamicsConfig, seed: int) -> dict[str, Any]:
    trial = Trial(config, seed)
    trial.prepare()
    rater = trial.rater(config.rule)
    trained = TrainRaterConfig.from_stored(rater.config)
    rows, _ = read_both(trained, open_store())
    hashes = [bytes(row.pair_hash) for row in rows["dataset"]]
    chosen = choose_followed(_ranks(rater, trained.dataset, hashes), config, seed)
    n_in_band = np.bincount(chosen["band_N"], minlength=config.n_bands).tolist()
    say(f"seed {seed}: rater {rater.name}, {len(chosen['place_N']):,} samples are followed, by bands {n_in_band}")

    def work(stage_run: StageRun) -> FollowedResult:
        return _repeat_training(config, stage_run, rater, rows, chosen)

    alone = config.model_copy(update={"seeds": (seed,)})
    followed = execute("follow_training", alone, work, FollowedResult)
    return {
        "rater": rater.name, "n_in_band": n_in_band, "n_gradients": int(chosen["has_gradient_N"].sum()),
        **followed.model_dump(),
    }  # fmt: skip


def _ranks(rater: RaterRow, dataset: str, hashes: list[bytes]) -> NDArray[np.float64]:
    snapshot = take_snapshot(open_store(), rater, [dataset], should_store=False)
    ranks = {snapshot.pairs.pair_hash_N32[i].tobytes(): float(rank) for i, rank in enumerate(snapshot.rank_N)}
    return np.array([ranks.get(pair_hash, np.nan) for pair_hash in hashes])


def choose_followed(rank_N: NDArray[np.float64], config: DynamicsConfig, seed: int) -> dict[str, Any]:
    """Choose the samples to follow and, of each band, equally many whose gradients are measured.

    Args:
        rank_N: Each training sample's rank; NaN where it has none.
        config: How many, in how many bands.
        seed: Seed of the choice.

    Raises:
        DataError: A band has no sample.
    """
    among = np.flatnonzero(~np.isnan(rank_N))
    place_M = np.sort(np.random.default_rng(seed).permutation(among)[: config.n_followed])
    band_M = np.minimum((rank_N[place_M] * config.n_bands).astype(np.int64), config.n_bands - 1)
    has_gradient_M = np.zeros(len(place_M), bool)
    # Use another generator, so that the number of gradients does not change which samples are followed.
    order_M = np.random.default_rng(seed + 1).permutation(len(place_M))
    for band in range(config.n_bands):
        of_band = order_M[band_M[order_M] == band]
        if not len(of_band):
            raise DataError(
                f"Of {len(place_M):,} followed samples, none is in band {band + 1} of {config.n_bands}: the scores have too "
                "few different values, or --n-bands is too large."
            )
        has_gradient_M[of_band[: max(1, config.n_gradients // config.n_bands)]] = True
    return {"place_N": place_M, "band_N": band_M, "has_gradient_N": has_gradient_M}


def _repeat_training(
    config: DynamicsConfig, stage_run: StageRun, rater: RaterRow, rows: dict[str, Any], chosen: dict[str, Any]
) -> FollowedResult:
    hold_device(stage_run)
    from alchemist_core.training.samples import JoinedSamples  # noqa: PLC0415  torch only when something is followed

    validation, train = (
        StoredSamples.as_read_by(rater.config["training"], rows[name], stage_run.report)
        for name in ("validation", "dataset")
    )
    # The name of the folder depends on the chosen samples, because a takedown can change them.
    who = fingerprint([config.n_marks, *(values.tolist() for values in chosen.values())])
    course = follow_training(
        require_artifact(rater.checkpoint_uri, rater.checkpoint_sha256), JoinedSamples(validation, train),
        {**chosen, "n_bands": config.n_bands, "n_marks": config.n_marks},
        out=artifact_path(f"dynamics/{rater.name}-{who[:8]}"), cache=artifact_path(FEATURE_CACHE), on_progress=stage_run.report,
    )  # fmt: skip
    return FollowedResult.model_validate(course)


def follow_training(
    rater: Path, samples: Any, followed: dict[str, Any], *, out: Path, cache: Path | None, on_progress: OnProgress
) -> dict[str, Any]:
    """Repeat a rater's training and measure at even intervals, or read a finished result; a killed run resumes.

    Args:
        rater: The rater's folder.
        samples: The rater's validation samples followed by its training samples.
        followed: The result of `choose_followed`, with `n_bands` and `n_marks`.
        out: Folder to write: the marks.
        cache: Folder of cached outputs of the frozen encoders.
        on_progress: Called with the steps done, the steps planned, and a note.
    """
    from alchemist_core.training.checkpoints import read_finished, read_json  # noqa: PLC0415  torch

    if (finished := read_finished(out, "course.json")) is not None:
        return finished
    _Repeated(rater, samples, followed, out=out, cache=cache).run(followed["n_marks"], on_progress)
    return read_json(out / "course.json")


class _Repeated:
    """One training that is repeated, and its marks so far."""

    def __init__(self, rater: Path, samples: Any, followed: dict[str, Any], *, out: Path, cache: Path | None) -> None:
        from alchemist_core.training import checkpoints  # noqa: PLC0415  torch
        from alchemist_core.training.config import RaterTrainingConfig  # noqa: PLC0415
        from alchemist_core.training.rater_training import RaterRun  # noqa: PLC0415

        self.files, self.rater, self.out, self.n_bands = checkpoints, rater, out, followed["n_bands"]
        self.partial = checkpoints.partial_folder(out)
        self.partial.mkdir(parents=True, exist_ok=True)
        copyfile(rater / "tokenizer.safetensors", self.partial / "tokenizer.safetensors")
        config = RaterTrainingConfig.from_stored(checkpoints.read_json(rater / "config.json"))
        self.training = RaterRun(config, samples.second, samples.first, out=out, cache=cache)
        # A sample whose image cannot be decoded is in no batch, and is not followed.
        kept_N, place_M = self.training.data.kept, followed["place_N"] + len(samples.first)
        is_kept_M = np.isin(place_M, kept_N)
        self.index_M = np.searchsorted(kept_N, place_M[is_kept_M])
        self.band_M, self.has_gradient_M = followed["band_N"][is_kept_M], followed["has_gradient_N"][is_kept_M]
        stored = self.partial / "marks.json"
        found = checkpoints.read_json(stored)["marks"] if stored.exists() else []
        self.marks: dict[int, Mark] = {mark["step"]: mark for mark in found}

    def run(self, n_marks: int, on_progress: OnProgress) -> None:
        """Train to the end and measure after the steps of the marks."""
        config, progress = self.training.config, self.training.progress
        total = config.proxy_warmup_steps + config.max_train_steps
        steps = {round(total * i / n_marks) for i in range(n_marks + 1)}

        def measure_and_report(done: int, total: int, note: str) -> None:
            if done in steps:
                self.measure(done)
            on_progress(done, total, note)

        began = time.perf_counter()
        if progress.step in steps:
            # The first mark, or after a resume the mark of the checkpoint's step if it is missing.
            self.measure(progress.step)
        say(f"{len(steps):,} marks of {time.perf_counter() - began:.0f} seconds each, and {total:,} steps of training.")
        self.training.train(measure_and_report)
        # Early stopping may have ended the training before the last mark.
        self.measure(progress.step)
        self.finish()

    def measure(self, step: int) -> None:
        """Measure the followed samples after a step."""
        if step in self.marks:
            return
        config, (proxy, reference) = self.training.config, self._models()
        gradients = np.concatenate([gradient_norms(proxy, batch) for batch in self._batches(self.has_gradient_M)])
        self.marks[step] = {
            "step": step,
            "epoch": step * config.batch_size / self.training.n_train,
            "loss_of_band": self._means(self._losses(proxy), self.band_M),
            "gradient_norm_of_band": self._means(gradients, self.band_M[self.has_gradient_M]),
            # θ̂ does not exist before the end of the warm-up.
            "reference_loss": float(self._losses(reference).mean()) if step > config.proxy_warmup_steps else None,
        }
        self.files.write_json(self.partial / "marks.writing", {"marks": list(self.marks.values())})
        (self.partial / "marks.writing").replace(self.partial / "marks.json")

    def finish(self) -> None:
        """Compare the training with the rater's own, and rename the folder."""
        own = self.files.read_json(self.rater / "metrics.json")["history"]
        both = zip(own, self.training.progress.history, strict=False)
        differences = [abs(one["validation_loss"] - other["validation_loss"]) for one, other in both]
        marks = [self.marks[step] for step in sorted(self.marks)]
        course = {"marks": marks, "largest_difference": max(differences)}
        self.files.write_json(self.partial / "course.json", course)
        for name in ("marks.json", "tokenizer.safetensors"):
            (self.partial / name).unlink()
        self.files.finish(self.out)

    def _models(self) -> tuple[Any, Any]:
        """Copy both proxies without gradient checkpointing, which per-sample gradients do not support."""
        from alchemist_core.models.star import Trunk  # noqa: PLC0415  torch

        proxy, reference = (copy.deepcopy(self.training.models.unwrapped(name)) for name in ("proxy", "reference"))
        for module in (*proxy.modules(), *reference.modules()):
            if isinstance(module, Trunk):
                module.has_gradient_checkpointing = False
        return proxy, reference

    def _batches(self, is_asked_M: NDArray[np.bool_]) -> Iterator[Any]:
        import torch  # noqa: PLC0415

        index = torch.from_numpy(self.index_M[is_asked_M])
        for start in range(0, len(index), _N_AT_ONCE):
            yield self.training.data.rows(index[start : start + _N_AT_ONCE]).to(self.training.accelerator.device)

    def _losses(self, model: Any) -> NDArray[np.float32]:
        import torch  # noqa: PLC0415

        with torch.no_grad():
            everyone = self._batches(np.ones(len(self.index_M), bool))
            return np.concatenate([model(*batch).numpy(force=True) for batch in everyone])

    def _means(self, value_M: NDArray[np.float32], band_M: NDArray[np.int64]) -> list[float]:
        return [float(value_M[band_M == band].mean()) for band in range(self.n_bands)]


def gradient_norms(model: Any, batch: Any) -> NDArray[np.float32]:
    """Return the Euclidean norm of the gradient of each sample's loss with respect to all weights of a generator.

    It costs one backward per sample, and memory for the gradients of a chunk: at most 256 MiB, or one sample.

    Args:
        model: Returns the loss of each sample, in nats per token.
        batch: Samples.
    """
    import torch  # noqa: PLC0415
    from torch.func import functional_call, grad, vmap  # noqa: PLC0415
    from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: PLC0415

    fields = [[getattr(part, name) for name in part.__dataclass_fields__] for part in batch]

    def loss(weights: Any, *sample: Any) -> Any:
        tensors = iter(tensor.unsqueeze(0) for tensor in sample)
        parts = [type(part)(*(next(tensors) for _ in names)) for part, names in zip(batch, fields, strict=True)]
        return functional_call(model, weights, tuple(parts)).sum()

    def norm(weights: Any, *sample: Any) -> Any:
        gradients = grad(loss)(weights, *sample)
        return torch.stack([gradient.square().sum() for gradient in gradients.values()]).sum().sqrt()

    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    tensors = [tensor for part in fields for tensor in part]
    n_at_once = max(1, _MOST_GRADIENT_BYTES // (4 * sum(weight.numel() for weight in weights.values())))
    norms = vmap(norm, in_dims=(None, *(0 for _ in tensors)), chunk_size=n_at_once)
    # The fused attention kernels do not support per-sample gradients.
    with sdpa_kernel(SDPBackend.MATH):
        norm_B: NDArray[np.float32] = norms(weights, *tensors).numpy(force=True)
    return norm_B


def make_dynamics_sheet(result: dict[str, Any]) -> Sheet:
    """Return the sheet of a result; equal results give equal sheets."""
    courses = result["courses"]
    n_bands = len(courses[0]["n_in_band"])
    titles = {
        "loss_of_band": "Loss under the proxy, nats per token",
        "gradient_norm_of_band": "Norm of a sample's own gradient",
    }
    figures = {
        f"dynamics-{name.partition('_')[0]}": (title, _draw(_lines(courses, name, n_bands), title))
        for name, title in titles.items()
    }
    return Sheet(_notes(courses), HEAD, [_row(courses, band, n_bands) for band in range(n_bands)], figures)


def conclude(courses: Sequence[dict[str, Any]]) -> str:
    """Return in one sentence how the loss of the samples ranked highest and lowest changed."""
    n_bands = len(courses[0]["n_in_band"])
    fell = {name_band(band, n_bands): show(_fall(courses, band)) for band in (0, n_bands - 1)}
    return f"the loss fell by {' and by '.join(f'{by} for {band}' for band, by in fell.items())}"


def name_band(band: int, n_bands: int) -> str:
    """Name a band by its ranks.

    >>> name_band(0, 5)
    'ranks 0–20%'
    """
    return f"ranks {100 * band / n_bands:.3g}–{100 * (band + 1) / n_bands:.3g}%"


def _notes(courses: Sequence[dict[str, Any]]) -> list[str]:
    first = courses[0]
    n_followed = sum(first["n_in_band"])
    notes = [
        TITLE,
        f"{n_followed:,} training samples followed, the gradients of {first['n_gradients']:,}; seeds: {len(courses)}.",
    ]
    last = [course["marks"][-1] for course in courses]
    references = [mark["reference_loss"] for mark in last if mark["reference_loss"] is not None]
    if references:
        notes.append(
            f"The mean loss under the reference θ̂ ends at {show(estimate(references))} nats per token. Eq. 8 assumes 0."
        )
    largest = max(course["largest_difference"] for course in courses)
    of_own = (
        "bit-identical to the raters' own"
        if largest == 0
        else f"not bit-identical to the raters' own: losses differ by up to {largest:.2g}"
    )
    return [*notes, f"The repeated trainings are {of_own}."]


def _row(courses: Sequence[dict[str, Any]], band: int, n_bands: int) -> tuple[str, ...]:
    loss, gradient = (_ends(courses, name, band) for name in ("loss_of_band", "gradient_norm_of_band"))
    fell = _fall(courses, band)
    n_samples = estimate([float(course["n_in_band"][band]) for course in courses]).mean
    ends = (show(estimate(values)) for values in loss)
    return (
        name_band(band, n_bands), f"{n_samples:,.0f}", *ends, show(fell),
        *(show(estimate(values), digits=2) for values in gradient),
    )  # fmt: skip


def _fall(courses: Sequence[dict[str, Any]], band: int) -> Estimate:
    """Return by how much the loss of a band's samples fell, in nats per token."""
    return estimate([first - last for first, last in zip(*_ends(courses, "loss_of_band", band), strict=True)])


def _ends(courses: Sequence[dict[str, Any]], name: str, band: int) -> tuple[list[float], list[float]]:
    first, last = ([course["marks"][at][name][band] for course in courses] for at in (0, -1))
    return first, last


def _lines(courses: Sequence[dict[str, Any]], name: str, n_bands: int) -> dict[str, list[tuple[float, float]]]:
    """Return each band's means over the seeds, at the marks that all of them reached."""
    n_marks = min(len(course["marks"]) for course in courses)
    marks = [[course["marks"][i] for course in courses] for i in range(n_marks)]
    lines = {
        name_band(band, n_bands): [
            (_mean(seeds, "epoch"), estimate([mark[name][band] for mark in seeds]).mean) for seeds in marks
        ]
        for band in range(n_bands)
    }
    if name == "loss_of_band":
        behind = [seeds for seeds in marks if all(mark["reference_loss"] is not None for mark in seeds)]
        lines[REFERENCE] = [(_mean(seeds, "epoch"), _mean(seeds, "reference_loss")) for seeds in behind]
    return lines


def _mean(marks: Sequence[dict[str, Any]], name: str) -> float:
    return estimate([mark[name] for mark in marks]).mean


def _draw(lines: dict[str, list[tuple[float, float]]], title: str) -> str:
    epochs = Axis.of([0.0, *(x for line in lines.values() for x, _ in line)], ".3g")
    drawn = [
        Line(name, [Point(x, Estimate(y, None, None, 0)) for x, y in line], "none", is_dashed=name == REFERENCE)
        for name, line in lines.items()
    ]
    return render_chart(line_chart(drawn, title, epochs, x_title="epochs of the training samples"))
