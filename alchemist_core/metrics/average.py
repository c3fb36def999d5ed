"""The paper's average of two stored metrics, CLIP-Score over FID: computed from stored values, without images."""

from typing import Any

from alchemist_core.errors import ConfigError
from alchemist_core.metrics.distances import average_score
from alchemist_core.metrics.metric import Bench, Measured
from alchemist_core.protocols.protocol import AVERAGE, AverageProtocol, ProtocolFile, name_average, title_of
from alchemist_core.store.models import EvaluationRow, ModelRow, NamedProtocol, find_named, read_evaluations


class AverageScore:
    """CLIP-Score over FID of the same images, each measured before under its own protocol.

    Raises:
        ConfigError: Nothing was measured under one of the two protocols, or they are of different images.
    """

    uses_device = False

    def __init__(self, bench: Bench, file: ProtocolFile) -> None:
        protocol = file.check(AverageProtocol)
        self._engine, self.protocol_name = bench.engine, file.name
        self._parts = {"clip_score": self._find(protocol.clip_score), "fid": self._find(protocol.fid)}

    @property
    def title(self) -> str:
        """The average's name, with those extractors that are not the published ones."""
        return name_average(**self.pinned_parts)

    @property
    def sampler(self) -> str:
        """The family of the models whose images were measured."""
        return str(self.pinned_parts["fid"]["sampler"])

    @property
    def pinned_parts(self) -> dict[str, dict[str, Any]]:
        """The pinned conditions of both ingredients."""
        return {part: one.protocol for part, one in self._parts.items()}

    def pin(self) -> dict[str, Any]:
        """Return the conditions of both ingredients; refuse those of other metrics or other images."""
        name_average(**self.pinned_parts)
        return {"metric": AVERAGE} | self.pinned_parts

    def measure(self, model: ModelRow) -> Measured:
        """Return the average, and both ingredients beside it.

        Raises:
            ConfigError: The model lacks an ingredient.
        """
        found = {part: self._read(model, one) for part, one in self._parts.items()}
        value = average_score(found["clip_score"].value, found["fid"].value)
        # The name of the ingredient comes first, because tables recognise by its beginning that a lower FID is better.
        beside = {f"{row.metric}_of_average": row.value for row in found.values()}
        return Measured({self.title: value} | beside, min(row.n for row in found.values()))

    def _find(self, name: str) -> NamedProtocol:
        found = find_named(self._engine, name)
        if found is None:
            raise ConfigError(
                f"No model has a value under the evaluation protocol {name}: run alchemist evaluate --protocol {name} first."
            )
        return found

    def _read(self, model: ModelRow, part: NamedProtocol) -> EvaluationRow:
        title = title_of(part.protocol)
        for row in read_evaluations(self._engine, [model.model_id], part.protocol_id):
            if row.metric == title:
                return row
        raise ConfigError(
            f"{model.arm} seed {model.seed} has no {title}: run alchemist evaluate --protocol {part.protocol['name']} first."
        )
