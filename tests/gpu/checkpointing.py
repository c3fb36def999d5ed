"""Training steps that keep activations, and that recompute them: memory and time."""

from collections.abc import Iterator

from tests.benchmarks.rows import Row
from tests.gpu.networks import compare, few_steps, preset_config
from tests.gpu.parts import Given


def measure(given: Given) -> Iterator[Row]:
    """Train the rater and the downstream model of gpu24 both ways."""
    for stage in ("train_rater", "train_downstream"):
        found = {}
        for name in ("kept", "recomputed"):
            config = preset_config(given, stage, "gpu24", gradient_checkpointing=name == "recomputed")
            found[name] = few_steps(config, given.place / f"{stage}-{name}", rater=given.place / "train_rater-kept")
        yield from compare(stage.replace("_", "-"), found, largest_difference=1e-3)
