"""The golden set: generated images, references, three protocols and the expected numbers.

`python -m tests.metrics.golden_set` writes all of it again; the diff shows any number that changes.
"""

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ImageFilter

from alchemist_core.local.scenes import draw_informative
from alchemist_core.metrics.image_sets import ImageSet, finish_set, read_set, write_shard
from alchemist_core.models.extractors import find_weights, weights_sha256
from alchemist_core.protocols.protocol import ImageProtocol, read_protocol, texts_sha256
from tests.metrics.given_metric import metric_of
from tests.metrics.scene_metric import SceneProtocol

GOLDEN = Path(__file__).parent / "golden"
PROTOCOLS = ("scenes", "kid", "fid")
N_IMAGES, SIDE = 20, 32


def measure(name: str) -> dict[str, float]:
    """Measure the stored images under a golden protocol, after comparing each of its hashes with the files."""
    protocol = read_golden(name)
    shards = list(read_set(GOLDEN / "images"))
    found: dict[str, Any] = {"prompts_sha256": texts_sha256([one for shard in shards for one in shard.prompts])}
    weights = find_weights(protocol.extractor, None)
    if weights is not None:
        found |= {"weights_sha256": weights_sha256(weights), "reference_sha256": _sha256(GOLDEN / "references")}
    pinned = protocol.pinned(**found)
    references = [shard.resized(pinned.resolution) for shard in read_set(GOLDEN / "references")]
    return metric_of(pinned, weights, references).measure_images(shards)


def read_golden(name: str) -> ImageProtocol:
    """Read a golden protocol."""
    return read_protocol(str(GOLDEN / f"{name}.toml")).check(SceneProtocol if name == "scenes" else ImageProtocol)


def _draw(folder: Path, seed: int, *, is_faulty: bool) -> list[str]:
    """Make scenes; of faulty ones every fourth shows another prompt's scene and every third is blurred."""
    rng = random.Random(seed)
    scenes = [draw_informative(rng, SIDE) for _ in range(N_IMAGES)]
    images, prompts = [scene.image for scene in scenes], [scene.caption for scene in scenes]
    if is_faulty:
        images = [images[(k + 1) % N_IMAGES] if k % 4 == 3 else image for k, image in enumerate(images)]
        blur = ImageFilter.GaussianBlur(1.0)
        images = [image.filter(blur) if k % 3 == 2 else image for k, image in enumerate(images)]
    pixels = np.stack([np.asarray(image) for image in images])
    write_shard(folder, range(N_IMAGES), ImageSet(pixels, prompts, list(range(N_IMAGES))))
    finish_set(folder, N_IMAGES, {"drawn_by": "tests/metrics/golden_set.py"})
    return prompts


def _sha256(folder: Path) -> str:
    return hashlib.sha256((folder / "000000.tar").read_bytes()).hexdigest()


def _protocol(name: str, prompts: list[str]) -> ImageProtocol:
    shared = {"resolution": SIDE, "n_images": N_IMAGES, "prompts_sha256": texts_sha256(prompts)}
    if name == "scenes":
        return SceneProtocol.model_validate(shared | {"metric": "geneval_scenes", "extractor": "drawn_shapes"})
    weights = find_weights("efficientnet_lite0", None)
    assert weights is not None
    shared |= {
        "metric": name, "extractor": "efficientnet_lite0", "weights_sha256": weights_sha256(weights),
        "reference_sha256": _sha256(GOLDEN / "references"),
    }  # fmt: skip
    draws = {"n_subsets": 5, "subset_size": 16} if name == "kid" else {}
    return ImageProtocol.model_validate(shared | draws)


def _as_toml(protocol: ImageProtocol) -> str:
    fields = protocol.model_dump(mode="json", exclude_none=True, exclude={"sampling"})
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in fields.items())


def main() -> None:
    """Write the golden set."""
    prompts = _draw(GOLDEN / "images", 1, is_faulty=True)
    _draw(GOLDEN / "references", 2, is_faulty=False)
    for name in PROTOCOLS:
        (GOLDEN / f"{name}.toml").write_text(_as_toml(_protocol(name, prompts)))
    numbers = {name: measure(name) for name in PROTOCOLS}
    (GOLDEN / "numbers.json").write_text(json.dumps(numbers, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
