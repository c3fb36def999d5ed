"""Drawing a set of images from a trained generator into tars, shard by shard, so that a killed run goes on where it stopped."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from alchemist_core.metrics.image_sets import ImageSet, finish_set, missing_shards, write_shard
from alchemist_core.training.generators import Sampling, load_drawer
from alchemist_core.training.launching import own_device

Report = Callable[[int, int, str], None]


def generate_images(
    model_path: Path, prompts: Sequence[str], *, first_seed: int, sampling: Sampling, out: Path, report: Report
) -> None:
    """Draw one image a prompt, those excepted that an earlier run has left.

    Args:
        model_path: Folder that `train_downstream` made.
        prompts: One an image.
        first_seed: Seed of the first image; the next ones count up.
        sampling: Guidance, steps or cuts, and batch, of the model's family.
        out: Folder of the set.
        report: Told the images done, the images planned, and a note.
    """
    missing = missing_shards(out, len(prompts))
    n_done = len(prompts) - sum(map(len, missing))
    if missing:
        draw = load_drawer(model_path, own_device())
    for places in missing:
        chunk = [prompts[place] for place in places]
        seeds = [first_seed + place for place in places]
        write_shard(out, places, ImageSet(draw(chunk, seeds, sampling), chunk, seeds))
        n_done += len(places)
        report(n_done, len(prompts), "images drawn")
    about: dict[str, Any] = {"first_seed": first_seed, "sampling": sampling.model_dump(mode="json")}
    finish_set(out, len(prompts), about | {"model": model_path.name})
