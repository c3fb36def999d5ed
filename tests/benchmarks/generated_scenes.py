"""The exact GenEval-style score and the KID of a tiny STAR's images: they improve with training; subset against random.

`python -m tests.benchmarks.generated_scenes` runs the stages in its own store and home. An untrained model
generates a patchwork in which every third image shows some requested shape, so only the score above chance counts. The demo's 128
codes keep 0.22 of real scenes and 1,024 codes keep 0.64, so the benchmark uses more codes.
`--small` is the same protocol with one seed and 600 samples per arm.
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from alchemist_core.cli.rater import PromoteConfig, promote
from alchemist_core.files import require_artifact
from alchemist_core.local.scenes import BACKGROUND, COLOURS, draw_scenes
from alchemist_core.models.tokenizer import Tokenizer
from alchemist_core.settings import load_settings
from alchemist_core.stages.evaluate import EvaluateConfig
from alchemist_core.stages.evaluate import run as evaluate
from alchemist_core.stages.ingest import IngestConfig
from alchemist_core.stages.ingest import run as ingest
from alchemist_core.stages.publishing import PublishNightConfig, publish_night
from alchemist_core.stages.score import ScoreConfig
from alchemist_core.stages.score import run as score
from alchemist_core.stages.select import SelectConfig
from alchemist_core.stages.select import run as select
from alchemist_core.stages.train_downstream import TrainDownstreamConfig
from alchemist_core.stages.train_downstream import run as train_downstream
from alchemist_core.stages.train_rater import TrainRaterConfig
from alchemist_core.stages.train_rater import run as train_rater
from alchemist_core.store.engine import open_store
from alchemist_core.store.models import find_model, read_evaluations
from alchemist_core.store.postgres import stop_postgres
from alchemist_core.store.raters import find_rater
from tests.benchmarks.rows import Row, at_least, interval, write_rows
from tests.benchmarks.scenes_study import read_tars
from tests.metrics import scene_metric
from tests.metrics.drawn_shapes import find_shapes
from tests.metrics.given_metric import add_scene_metric
from tests.metrics.scene_questions import read_request, score_scenes

PARTS = (("v", "validation", "validation"), ("t", "test", "evaluation"), ("scenes", "train", "train"))
ARMS = ("subset", "random")
SCENES = str(Path(scene_metric.__file__).parent / "scenes_geneval.toml")
METRICS = {
    "scene score": ("geneval_scenes", SCENES, "score"),
    "score above chance": ("geneval_scenes_above_chance", SCENES, "score"),
    "share in place": ("geneval_scenes_position", SCENES, "share"),
    "KID": ("kid_efficientnet_lite0", "kid_offline", "KID"),
}


def prepare(root: Path, *, n_codes: int, small: bool) -> None:
    """Draw, ingest, rate, score and select a fifth."""
    n_train = 3_000 if small else 12_000
    draw_scenes(root, n_train=n_train, n_validation=n_train // 2, n_test=600, side=32 if small else 64)
    for name, part, role in PARTS:
        ingest(IngestConfig.model_validate({"dataset": name, "root": str(root / part), "role": role}))
    training = {"codebook_size": n_codes} | ({"proxy_warmup_steps": 100, "max_train_steps": 300} if small else {})
    train_rater(TrainRaterConfig.model_validate({"dataset": "scenes", "validation": "v", "training": training}))
    promote(PromoteConfig(without_acceptance="a benchmark looks at images, not at the rater"))
    score(ScoreConfig(dataset="scenes"))
    publish_night(PublishNightConfig(dataset="scenes"))
    select(SelectConfig.model_validate({"dataset": "scenes", "name": "s", "policy": {"retention": 0.2}}))


def train(epochs: int, seeds: Sequence[int]) -> list[str]:
    """Train both arms; return their identities by seed, then by arm."""
    config = {"subset": "s", "arms": ARMS, "seeds": seeds, "model": {"num_train_epochs": epochs}}
    return train_downstream(TrainDownstreamConfig.model_validate(config)).identities


def values_of(identities: Sequence[str], metric: str, protocol: str) -> dict[str, list[float]]:
    """Measure all models and give these ones' values by arm."""
    measured = evaluate(EvaluateConfig(subset="s", protocol=protocol))
    engine, found = open_store(), {arm: [] for arm in ARMS}
    for place, identity in enumerate(identities):
        model = find_model(engine, identity)
        rows = read_evaluations(engine, [model.model_id], measured.protocol_id)
        found[ARMS[place % len(ARMS)]] += [row.value for row in rows if row.metric == metric]
    return found


def ceiling(root: Path) -> dict[str, float]:
    """Score real scenes after the tokenizer: what its codes leave of them."""
    rater = find_rater(open_store(), "production")
    tokenizer = Tokenizer.load(
        require_artifact(rater.checkpoint_uri, rater.checkpoint_sha256) / "tokenizer.safetensors"
    )
    pairs, _ = read_tars(root / "test", tokenizer.config.resolution)
    images = tokenizer.decode(tokenizer.encode(pairs.image_NHWC))
    shapes = [find_shapes(one, COLOURS, BACKGROUND) for one in images]
    return score_scenes([read_request(text) for text in pairs.captions], shapes)


def measure(root: Path, epochs: Sequence[int], seeds: Sequence[int]) -> list[Row]:
    """Give the rows."""
    identities = {n: train(n, seeds) for n in epochs}
    # By metric, then by epochs, then by arm: a value a seed.
    found = {
        name: {n: values_of(identities[n], metric, protocol) for n in epochs}
        for name, (metric, protocol, _) in METRICS.items()
    }
    left = ceiling(root)
    rows = [
        _row("real scenes after the tokenizer", left["overall"], "score", "what its codes leave of real scenes"),
        _row("the same above chance", left["above_chance"], "score", "so much is there to be learnt"),
    ]
    for n in epochs:
        for arm in ARMS:
            rows += [_mean_row(f"{name}, {arm}, {n} epochs", found[name][n][arm], METRICS[name][2]) for name in found]
    return rows + _targets(found, epochs[0], epochs[-1])


def _targets(found: dict[str, dict[int, dict[str, list[float]]]], first: int, last: int) -> list[Row]:
    """Compare the longest training with the shortest, and the subset with random after the longest."""
    rows, span = [], f"{first} to {last} epochs"
    for name, sign in (("score above chance", 1), ("share in place", 1), ("KID", -1)):
        by_epochs = found[name]
        gained = sign * float(np.mean(by_epochs[last]["subset"]) - np.mean(by_epochs[first]["subset"]))
        moved = "risen" if sign > 0 else "fallen"
        rows.append(at_least(f"{name} {moved} with training, subset", gained, 0.0, METRICS[name][2], span))
    arms = found["score above chance"][last]
    mean, half = interval([one - two for one, two in zip(arms["subset"], arms["random"], strict=True)])
    n_seeds = len(arms["subset"])
    detail = f"paired over {n_seeds} seeds" + ("" if n_seeds < 2 else f", ± {half:.4f} (95 %)")
    rows.append(at_least(f"score above chance, subset less random, {last} epochs", mean, 0.0, "score", detail))
    return rows


def _row(name: str, value: float, unit: str, detail: str = "") -> Row:
    return Row(name, round(value, 5), unit, None, None, detail)


def _mean_row(name: str, values: Sequence[float], unit: str) -> Row:
    mean, half = interval(values)
    return _row(name, mean, unit, "" if len(values) < 2 else f"± {half:.5f} (95 %, {len(values)} seeds)")


def main() -> None:
    """Run in its own home."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--epochs", default="2,10,40")
    parser.add_argument(
        "--codes", type=int, default=1024, help="of the tokenizer; the demo's 128 leave .22 of real scenes"
    )
    options = parser.parse_args()
    home = load_settings().home
    epochs = [1, 40] if options.small else [int(n) for n in options.epochs.split(",")]
    seeds = [0] if options.small else [int(seed) for seed in options.seeds.split(",")]
    with tempfile.TemporaryDirectory(prefix="alchemist-scenes-") as folder:
        Path(folder).chmod(0o755)
        os.environ["ALCHEMIST_HOME"] = folder
        load_settings.cache_clear()
        root = Path(folder) / "corpora"
        add_scene_metric()
        try:
            prepare(root, n_codes=options.codes, small=options.small)
            rows = measure(root, epochs, seeds)
        finally:
            open_store().dispose()
            stop_postgres(Path(folder))
            os.environ["ALCHEMIST_HOME"] = str(home)
            load_settings.cache_clear()
    write_rows("generated_scenes", rows)


if __name__ == "__main__":
    main()
