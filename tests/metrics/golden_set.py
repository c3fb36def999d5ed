"""The golden set: images as a model would have left them, references, three contracts and the numbers they give.

`python -m tests.metrics.golden_set` writes all of it anew; a number that moves is then seen in the diff.
"""

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ImageFilter

from alchemist_core.local.scenes import draw_informative
from alchemist_core.metrics.image_metrics import ImageMetric
from alchemist_core.metrics.image_sets import ImageSet, finish_set, read_set, write_shard
from alchemist_core.models.extractors import find_weights, weights_sha256
from alchemist_core.protocols.protocol import Contract, read_contract, texts_sha256

GOLDEN = Path(__file__).parent / "golden"
CONTRACTS = ("scenes", "kid", "fid")
N_IMAGES, SIDE = 20, 32


def measure(name: str) -> dict[str, float]:
    """Measure the stored images under a golden contract, every hash of which is first compared with what lies there."""
    _, contract = read_contract(str(GOLDEN / f"{name}.toml"))
    shards = list(read_set(GOLDEN / "images"))
    found: dict[str, Any] = {"prompts_sha256": texts_sha256([one for shard in shards for one in shard.prompts])}
    weights = find_weights(contract.extractor, None)
    if weights is not None:
        found |= {"weights_sha256": weights_sha256(weights), "reference_sha256": _sha256(GOLDEN / "references")}
    pinned = contract.pinned(**found)
    references = [shard.resized(pinned.resolution) for shard in read_set(GOLDEN / "references")]
    return ImageMetric(pinned, weights, references).measure(shards)


def _draw(folder: Path, seed: int, *, is_faulty: bool) -> list[str]:
    """Draw scenes; of faulty ones every fourth shows another prompt's scene and every third is blurred."""
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


def _contract(name: str, prompts: list[str]) -> Contract:
    shared = {"resolution": SIDE, "n_images": N_IMAGES, "prompts_sha256": texts_sha256(prompts)}
    if name == "scenes":
        return Contract.model_validate(shared | {"metric": "geneval_scenes", "extractor": "drawn_shapes"})
    weights = find_weights("efficientnet_lite0", None)
    assert weights is not None
    shared |= {
        "metric": name, "extractor": "efficientnet_lite0", "weights_sha256": weights_sha256(weights),
        "reference_sha256": _sha256(GOLDEN / "references"),
    }  # fmt: skip
    draws = {"n_subsets": 5, "subset_size": 16} if name == "kid" else {}
    return Contract.model_validate(shared | draws)


def _as_toml(contract: Contract) -> str:
    fields = contract.model_dump(mode="json", exclude_none=True, exclude={"sampling"})
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in fields.items())


def main() -> None:
    """Write the golden set."""
    prompts = _draw(GOLDEN / "images", 1, is_faulty=True)
    _draw(GOLDEN / "references", 2, is_faulty=False)
    for name in CONTRACTS:
        (GOLDEN / f"{name}.toml").write_text(_as_toml(_contract(name, prompts)))
    numbers = {name: measure(name) for name in CONTRACTS}
    (GOLDEN / "numbers.json").write_text(json.dumps(numbers, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
