"""Measure images drawn from trained models under a named contract; drawn once, kept as tars, measured from the tars alone."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from alchemist_core.config import fingerprint
from alchemist_core.errors import DataError
from alchemist_core.files import artifact_path, require_artifact
from alchemist_core.metrics.image_sets import is_finished, read_set
from alchemist_core.models.config import SamplingConfig
from alchemist_core.models.extractors import find_weights, weights_sha256
from alchemist_core.models.flux_config import FlowSamplingConfig
from alchemist_core.protocols.protocol import Contract, read_contract, texts_sha256
from alchemist_core.stages.devices import hold_device
from alchemist_core.stages.execution import StageRun
from alchemist_core.stages.sharing import hold_resource, take_unmeasured
from alchemist_core.store import models
from alchemist_core.store.manifests import members_sha256
from alchemist_core.store.models import ModelRow
from alchemist_core.store.samples import read_categories
from alchemist_core.store.tables import AnyRow
from alchemist_core.training.sample_reading import read_images

SAMPLERS: dict[str, type[SamplingConfig] | type[FlowSamplingConfig]] = {
    "star": SamplingConfig,
    "flow": FlowSamplingConfig,
}
_CHUNK = 512
"""Reference images in memory at once."""


class ImageEvaluation:
    """A contract with everything pinned: its prompts and references are the pairs of an evaluation dataset."""

    def __init__(self, stage_run: StageRun, rows: Sequence[AnyRow], *, contract: str, weights: Path | None) -> None:
        self.stage_run, self.rows = stage_run, rows
        name, draft = read_contract(contract)
        self.weights = find_weights(draft.extractor, weights)
        self.prompts = [row.caption for row in rows[: draft.n_images]]
        if len(self.prompts) < draft.n_images:
            raise DataError(
                f"contract {name} wants n_images {draft.n_images}, but the evaluation dataset has {len(rows)} pairs; "
                "register a larger one, or lower n_images in a copy of the contract under another name"
            )
        self.labels = _read_labels(stage_run.engine, rows, draft.categories)
        self.contract = self._pin(draft)
        self.protocol_id = models.agree_on_protocol(stage_run.engine, name, self.contract.as_json())

    @property
    def title(self) -> str:
        """The metric's name in the store."""
        return self.contract.title

    def measure(self, trained: Sequence[ModelRow]) -> int:
        """Measure the models that have no value yet; return their number."""
        engine = self.stage_run.engine
        measured = models.evaluated_models(engine, self.protocol_id, self.title)
        missing = [model for model in trained if model.model_id not in measured]
        if not missing:
            return 0
        hold_device(self.stage_run)
        from alchemist_core.metrics.image_metrics import ImageMetric, Labels  # noqa: PLC0415  torch only when there is work

        labels = None if self.labels is None else Labels(self.labels[: self.contract.n_images], self.labels)
        metric = ImageMetric(self.contract, self.weights, self._references(), labels)
        done = 0
        for done, model in enumerate(
            take_unmeasured(self.stage_run, missing, protocol_id=self.protocol_id, metric=self.title), 1
        ):
            values = metric.measure(read_set(self._draw(model)))
            models.store_values(
                engine, values, model_id=model.model_id, protocol_id=self.protocol_id, n=self.contract.n_images,
                run_id=self.stage_run.run_id,
            )  # fmt: skip
            note = f"{model.arm} seed {model.seed}: {self.title} {values[self.title]:.5g}"
            self.stage_run.report(done, len(missing), note)
        return done

    def _pin(self, draft: Contract) -> Contract:
        sampling = SAMPLERS[draft.sampler].model_validate(draft.sampling)
        found: dict[str, Any] = {"prompts_sha256": texts_sha256(self.prompts)}
        if self.weights is not None:
            found["weights_sha256"] = weights_sha256(self.weights)
        if draft.metric in {"fid", "kid"}:
            found["reference_sha256"] = members_sha256([bytes(row.image_hash) for row in self.rows])
        if self.labels is not None:
            found["labels_sha256"] = texts_sha256(self.labels)
        full = draft.model_copy(update={"sampling": sampling.model_dump(mode="json")})
        return full.pinned(**found)

    def _references(self) -> Iterator[Any]:
        is_needed = self.contract.reference_sha256 is not None
        for start in range(0, len(self.rows) if is_needed else 0, _CHUNK):
            chunk = self.rows[start : start + _CHUNK]
            yield read_images(chunk, self.contract.resolution, self.stage_run.report).images

    def _draw(self, model: ModelRow) -> Path:
        """Return the folder of a model's images, drawn where they are not there yet; a whole set needs no model any more."""
        contract = self.contract
        identity = {
            "model": model.checkpoint_sha256.hex(), "prompts": contract.prompts_sha256,
            "first_seed": contract.first_seed, "sampling": contract.sampling,
        }  # fmt: skip
        out = artifact_path(f"images/{fingerprint(identity)}")
        # Contracts that ask for the same images share them.
        with hold_resource(self.stage_run, f"images:{out.name}"):
            if not is_finished(out):
                self._generate(model, out)
        return out

    def _generate(self, model: ModelRow, out: Path) -> None:
        from alchemist_core.metrics.image_generation import generate_images  # noqa: PLC0415  torch only when there is work

        contract = self.contract
        generate_images(
            require_artifact(model.checkpoint_uri, model.checkpoint_sha256), self.prompts,
            first_seed=contract.first_seed, sampling=SAMPLERS[contract.sampler].model_validate(contract.sampling), out=out,
            report=self.stage_run.report,
        )  # fmt: skip


def _read_labels(engine: Engine, rows: Sequence[AnyRow], categories: Sequence[str] | None) -> list[str] | None:
    """Return each pair's category; none where the contract asks for none.

    Raises:
        DataError: The dataset's categories are not the contract's.
    """
    if categories is None:
        return None
    category_of = read_categories(engine, [row.sample_id for row in rows])
    labels = [category_of.get(row.sample_id, "none") for row in rows]
    if set(labels) != set(categories):
        raise DataError(
            f"categories are {', '.join(sorted(categories))} in the contract, but {', '.join(sorted(set(labels)))} in the "
            "evaluation dataset; import MJHQ-30K by its own layout, or name the dataset's in a copy of the contract"
        )
    return labels
