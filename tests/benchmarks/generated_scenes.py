"""What a tiny STAR draws: its exact GenEval-style score and its KID, rising with training, subset against random.

`python -m tests.benchmarks.generated_scenes` goes through the stages, in a store and a home of its own. What the tokenizer leaves of real
scenes stands beside. `--small` shows only that everything runs: after 30 steps a model still draws a
patchwork, whose answers are chance, so its targets are missed.
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from alchemist_core.data.artifacts import require_artifact
from alchemist_core.evaluation.drawn_shapes import find_shapes
from alchemist_core.evaluation.geneval import summarize
from alchemist_core.evaluation.scene_questions import answer, collect, read_request
from alchemist_core.local.postgres import stop_postgres
from alchemist_core.local.scene_drawing import BACKGROUND, COLOURS
from alchemist_core.local.scenes import draw_scenes
from alchemist_core.models.tokenizer import Tokenizer
from alchemist_core.settings import load_settings
from alchemist_core.stages.evaluate import EvaluateConfig
from alchemist_core.stages.evaluate import run as evaluate
from alchemist_core.stages.ingest import IngestConfig
from alchemist_core.stages.ingest import run as ingest
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
from alchemist_core.store.raters import find_rater
from alchemist_core.verbs.promote import PromoteConfig
from alchemist_core.verbs.promote import run as promote
from alchemist_core.verbs.publish import PublishNightConfig, publish_night
from tests.benchmarks.rows import Row, at_least, interval, write_rows
from tests.benchmarks.scenes_study import read_tars

PARTS = (("v", "validation", "validation"), ("t", "test", "evaluation"), ("scenes", "train", "train"))
ARMS = ("subset", "random")
SCENES, KID = ("geneval_scenes", "scenes_geneval"), ("kid_efficientnet_lite0", "kid_offline")
# Nothing answers these by chance; a patchwork of codes shows some asked shape in every third picture.
PLACES = ("geneval_scenes_position", "scenes_geneval")


def prepare(root: Path, *, n_train: int, small: bool) -> None:
    """Draw, ingest, rate, score and select a fifth."""
    draw_scenes(root, n_train=n_train, n_validation=n_train // 2, n_test=600, side=32 if small else 64)
    for name, part, role in PARTS:
        ingest(IngestConfig.model_validate({"dataset": name, "root": str(root / part), "role": role}))
    training = {"n_warmup_steps": 30, "n_steps": 30} if small else {}
    train_rater(TrainRaterConfig.model_validate({"dataset": "scenes", "validation": "v", "training": training}))
    promote(PromoteConfig(without_certificate="a benchmark looks at images, not at the rater"))
    score(ScoreConfig(dataset="scenes"))
    publish_night(PublishNightConfig(dataset="scenes"))
    select(SelectConfig.model_validate({"dataset": "scenes", "name": "s", "policy": {"retention": 0.2}}))


def train(epochs: int, seeds: Sequence[int]) -> list[str]:
    """Train both arms; return their identities by seed, then by arm."""
    config = {"subset": "s", "arms": ARMS, "seeds": seeds, "model": {"n_epochs": epochs}}
    return train_downstream(TrainDownstreamConfig.model_validate(config)).identities


def values_of(identities: Sequence[str], metric: str, contract: str) -> dict[str, list[float]]:
    """Measure all models and give these ones' values by arm."""
    measured = evaluate(EvaluateConfig(subset="s", contract=contract))
    engine, found = open_store(), {arm: [] for arm in ARMS}
    for place, identity in enumerate(identities):
        model = find_model(engine, identity)
        rows = read_evaluations(engine, [model.model_id], measured.contract)
        found[ARMS[place % len(ARMS)]] += [row.value for row in rows if row.metric == metric]
    return found


def ceiling(root: Path) -> float:
    """Score real scenes after the tokenizer: what its codes leave of them."""
    rater = find_rater(open_store(), "production")
    tokenizer = Tokenizer.load(
        require_artifact(rater.checkpoint_uri, rater.checkpoint_sha256) / "tokenizer.safetensors"
    )
    pairs, _ = read_tars(root / "test", tokenizer.config.resolution)
    images = tokenizer.decode(tokenizer.encode(pairs.image_NHWC))
    shown = zip(images, pairs.captions, strict=True)
    return summarize(
        collect([answer(read_request(text), find_shapes(one, COLOURS, BACKGROUND)) for one, text in shown])
    )["overall"]


def measure(root: Path, epochs: Sequence[int], seeds: Sequence[int]) -> list[Row]:
    """Give the rows."""
    identities = {n: train(n, seeds) for n in epochs}
    scores = {n: values_of(identities[n], *SCENES) for n in epochs}
    places = {n: values_of(identities[n], *PLACES) for n in epochs}
    kids = {n: values_of(identities[n], *KID) for n in epochs}
    rows = [
        Row(
            "real scenes after the tokenizer", ceiling(root), "score", None, None, "what its codes leave of real scenes"
        )
    ]
    for n in epochs:
        for arm in ARMS:
            rows.append(_mean_row(f"scene score, {arm}, {n} epochs", scores[n][arm], "score"))
            rows.append(_mean_row(f"share in place, {arm}, {n} epochs", places[n][arm], "share"))
            rows.append(_mean_row(f"KID, {arm}, {n} epochs", kids[n][arm], "KID"))
    first, last = epochs[0], epochs[-1]
    risen = float(np.mean(scores[last]["subset"]) - np.mean(scores[first]["subset"]))
    fallen = float(np.mean(kids[first]["subset"]) - np.mean(kids[last]["subset"]))
    placed = float(np.mean(places[last]["subset"]) - np.mean(places[first]["subset"]))
    rows.append(
        at_least("share in place risen with training, subset", placed, 0.0, "share", f"{first} to {last} epochs")
    )
    rows.append(at_least("scene score risen with training, subset", risen, 0.0, "score", f"{first} to {last} epochs"))
    rows.append(at_least("KID fallen with training, subset", fallen, 0.0, "KID", f"{first} to {last} epochs"))
    gains = [one - two for one, two in zip(scores[last]["subset"], scores[last]["random"], strict=True)]
    mean, half = interval(gains)
    detail = f"paired over {len(seeds)} seeds" + ("" if len(seeds) < 2 else f", ± {half:.4f} (95 %)")
    rows.append(at_least(f"scene score, subset less random, {last} epochs", mean, 0.0, "score", detail))
    return rows


def _mean_row(name: str, values: Sequence[float], unit: str) -> Row:
    mean, half = interval(values)
    return Row(
        name, round(mean, 5), unit, None, None, "" if len(values) < 2 else f"± {half:.5f} (95 %, {len(values)} seeds)"
    )


def main() -> None:
    """Run in a home of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--epochs", default="2,10,40")
    options = parser.parse_args()
    home = load_settings().home
    epochs = [1, 8] if options.small else [int(n) for n in options.epochs.split(",")]
    seeds = [0] if options.small else [int(seed) for seed in options.seeds.split(",")]
    with tempfile.TemporaryDirectory(prefix="alchemist-scenes-") as folder:
        Path(folder).chmod(0o755)
        os.environ["ALCHEMIST_HOME"] = folder
        load_settings.cache_clear()
        root = Path(folder) / "corpora"
        try:
            prepare(root, n_train=1_200 if options.small else 12_000, small=options.small)
            rows = measure(root, epochs, seeds)
        finally:
            open_store().dispose()
            stop_postgres(Path(folder))
            os.environ["ALCHEMIST_HOME"] = str(home)
            load_settings.cache_clear()
    write_rows("generated_scenes", rows)


if __name__ == "__main__":
    main()
