"""A rater's training step with and without torch.compile."""

from collections.abc import Iterator

from tests.benchmarks.rows import Row
from tests.gpu.networks import compare, few_steps, preset_config
from tests.gpu.parts import Given


def measure(given: Given) -> Iterator[Row]:
    """Train the rater of gpu24 both ways; the smallest size is the rater of tiny."""
    preset = given.pick("gpu24", "tiny")
    found = {
        name: few_steps(preset_config(given, "train_rater", preset, compile=name == "compiled"), given.place / name)
        for name in ("plain", "compiled")
    }
    yield from compare("train-rater", found, largest_difference=0.02)
