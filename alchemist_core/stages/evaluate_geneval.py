"""GenEval under a contract: folders of images in its own layout, two networks, and what all of it must be to be compared."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from alchemist_core.errors import ConfigError, DataError
from alchemist_core.files import write_bytes_atomically
from alchemist_core.metrics.geneval import Rules
from alchemist_core.metrics.geneval_files import find_images
from alchemist_core.models.config import SamplingConfig
from alchemist_core.models.extractors import weights_sha256
from alchemist_core.protocols.protocol import Contract, read_contract, refuse_differences, texts_sha256
from alchemist_core.store import models
from alchemist_core.store.engine import open_store
from alchemist_core.store.models import evaluated_models, find_model

_DRAWN = "drawn.json"


@dataclass(frozen=True, slots=True)
class AgreedGeneval:
    """A pinned contract, whose images were drawn from one trained model."""

    contract: Contract
    protocol_id: int
    model_id: int

    @property
    def rules(self) -> Rules:
        """When a detector's box counts."""
        return Rules(**(self.contract.thresholds or {}))  # type: ignore[arg-type]  # counts are whole in the file


def note_drawing(folder: Path, about: dict[str, Any]) -> None:
    """Write beside the images how they are drawn, once.

    Raises:
        ConfigError: Images lie there that were drawn another way; the text names what differs.
    """
    path = folder / _DRAWN
    if path.exists():
        refuse_differences(json.loads(path.read_text(encoding="utf-8")), about, whose=str(path))
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes_atomically(path, (json.dumps(about, indent=2, sort_keys=True) + "\n").encode())


def agree_on_geneval(name: str, folder: Path, *, detector: Path, clip: Path, names: Sequence[str]) -> AgreedGeneval:
    """Pin a contract on what lies here.

    Args:
        name: A shipped contract, or a file.
        folder: Images drawn by `alchemist geneval draw`.
        detector: Folder of Mask2Former's weights.
        clip: Folder of CLIP's.
        names: The detector's classes in order.

    Raises:
        ConfigError: Something is not as the contract says, or it is another metric's.
        DataError: The images are of another side, or were not drawn here.
    """
    contract_name, draft = read_contract(name)
    if draft.metric != "geneval":
        raise ConfigError(f"The contract {name} is of metric {draft.metric}: use alchemist evaluate --contract {name}.")
    drawn = _read_drawing(folder)
    draft = draft.model_copy(update={"sampling": SamplingConfig.model_validate(draft.sampling).model_dump(mode="json")})
    found = {"extractor": "mask2former"} | _look_at_images(folder, draft.resolution) | {
        "weights_sha256": weights_sha256(detector), "namer_sha256": weights_sha256(clip),
        "classes_sha256": texts_sha256(names), "images_per_prompt": drawn["n_images"],
        "first_seed": drawn["first_seed"], "sampling": drawn["sampling"],
    }  # fmt: skip
    contract, engine = draft.pinned(**found), open_store()
    model = find_model(engine, drawn["model"])
    if model is None:
        raise ConfigError(f"{folder / _DRAWN} names the model {drawn['model']!r}, which this store does not have.")
    return AgreedGeneval(contract, models.agree_on_protocol(engine, contract_name, contract.as_json()), model.model_id)


def store_scores(agreed: AgreedGeneval, scores: dict[str, float]) -> None:
    """Store the mean over the tasks and each task's share, once a model."""
    title, engine = agreed.contract.title, open_store()
    if agreed.model_id in evaluated_models(engine, agreed.protocol_id, title):
        return
    values = {title if tag == "overall" else f"{title}_{tag}": value for tag, value in scores.items()}
    models.store_values(
        engine, values, model_id=agreed.model_id, protocol_id=agreed.protocol_id, n=agreed.contract.n_images
    )


def _read_drawing(folder: Path) -> dict[str, Any]:
    path = folder / _DRAWN
    if not path.is_file():
        raise DataError(
            f"{path} is missing, so that nobody knows how these images were drawn: draw them by alchemist geneval draw, "
            "or judge without --contract"
        )
    drawn: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return drawn


def _look_at_images(folder: Path, side: int) -> dict[str, Any]:
    """Count images, hash what was asked of them, and refuse those of another side."""
    asked, n_images = {}, 0
    for path, metadata in find_images(folder):
        asked[path.parent.parent.name] = json.dumps(metadata, sort_keys=True)
        n_images += 1
        with Image.open(path) as image:
            if image.size != (side, side):
                raise DataError(f"resolution is {image.size} in {path}, but the contract says {side}: draw them anew")
    return {"n_images": n_images, "prompts_sha256": texts_sha256([asked[name] for name in sorted(asked)])}
