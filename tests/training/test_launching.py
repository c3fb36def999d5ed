"""Training runs under the launchers of clusters and gives the result of one plain process."""

import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from alchemist_core.rating.config import RaterFeatures, ScoringRule
from alchemist_core.training import launching
from alchemist_core.training.config import RaterTrainingConfig
from alchemist_core.training.rater_training import train_rater
from alchemist_core.training.samples import Samples
from alchemist_core.training.scoring import Scorer

CONFIG = RaterTrainingConfig(
    proxy_warmup_steps=5, max_train_steps=10, batch_size=16, proxy_width=16, rater_width=16, codebook_size=32
)
# accelerate launch --cpu starts one process, whatever --num_processes says.
TWO_PROCESSES = ["torch.distributed.run", "--standalone", "--nproc-per-node=2"]
SCRIPT = """
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch

from alchemist_core.training.config import RaterTrainingConfig
from alchemist_core.training.samples import Samples
from alchemist_core.training.rater_training import train_rater

torch.set_num_threads(1)
# Without a C++ compiler, and without the minutes that it takes: only --compile calls it.
torch.compile = partial(torch.compile, backend="eager")
folder = Path(sys.argv[1])
pairs = [
    Samples(np.load(folder / f"{name}.npy"), (folder / f"{name}.txt").read_text().splitlines())
    for name in ("train", "validation")
]
config = RaterTrainingConfig.model_validate_json((folder / "config.json").read_text())
train_rater(config, *pairs, out=folder / "launched", on_progress=lambda *_: None)
"""


@pytest.fixture
def folder(tmp_path: Path, train_pairs: Samples, validation_pairs: Samples) -> Path:
    for name, pairs in (("train", train_pairs), ("validation", validation_pairs)):
        np.save(tmp_path / f"{name}.npy", pairs.image_NHWC)
        (tmp_path / f"{name}.txt").write_text("\n".join(pairs.captions), "utf-8")
    (tmp_path / "config.json").write_text(CONFIG.model_dump_json(), "utf-8")
    (tmp_path / "script.py").write_text(SCRIPT, "utf-8")
    return tmp_path


def launch(launcher: list[str], folder: Path) -> None:
    command = [sys.executable, "-m", *launcher, str(folder / "script.py"), str(folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=400)


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [
        [
            "accelerate.commands.launch",
            "--cpu",
            "--num_processes=1",
            "--num_machines=1",
            "--mixed_precision=no",
            "--dynamo_backend=no",
        ],
        ["torch.distributed.run", "--standalone", "--nproc-per-node=1"],
    ],
    ids=["accelerate", "torchrun"],
)
def test_a_launched_run_gives_the_weights_of_a_plain_one(
    launcher: list[str], folder: Path, train_pairs: Samples, validation_pairs: Samples
) -> None:
    launch(launcher, folder)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train_rater(CONFIG, train_pairs, validation_pairs, out=folder / "plain", on_progress=lambda *_: None)
    torch.set_num_threads(threads)
    launched, plain = (load_file(folder / name / "rater.safetensors") for name in ("launched", "plain"))
    assert launched.keys() == plain.keys()
    for name in plain:
        torch.testing.assert_close(launched[name], plain[name], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("rule", [ScoringRule.ALIGNMENT, ScoringRule.LEARNABILITY])
def test_two_processes_give_the_loss_curve_of_one(
    folder: Path, train_pairs: Samples, validation_pairs: Samples, rule: ScoringRule
) -> None:
    update = {"batch_size": 64, "softmax_group_size": 32, "max_train_steps": 25, "group_weight": True, "rule": rule}
    config = CONFIG.model_copy(update=update)
    (folder / "config.json").write_text(config.model_dump_json(), "utf-8")
    launch(TWO_PROCESSES, folder)
    train_rater(config, train_pairs, validation_pairs, out=folder / "plain", on_progress=lambda *_: None)
    two, one = (
        json.loads((folder / name / "metrics.json").read_text("utf-8"))["history"] for name in ("launched", "plain")
    )
    assert len(two) == len(one) == 25
    for name in one[0]:
        np.testing.assert_allclose([row[name] for row in two], [row[name] for row in one], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [{}, {"rule": ScoringRule.LEARNABILITY}, {"rater_init": "scratch", "rater_features": RaterFeatures.HIDDEN}],
    ids=["alignment", "learnability", "hidden features"],
)
def test_two_processes_with_compiled_models_write_a_rater_that_scores(
    folder: Path, train_pairs: Samples, validation_pairs: Samples, change: dict[str, Any]
) -> None:
    short = {"proxy_warmup_steps": 2, "max_train_steps": 2, "proxy_depth": 1, "rater_depth": 1}
    config = CONFIG.model_copy(update={"softmax_group_size": 8, **short, **change})
    (folder / "config.json").write_text(config.model_copy(update={"compile": True}).model_dump_json(), "utf-8")
    launch(TWO_PROCESSES, folder)
    train_rater(config, train_pairs, validation_pairs, out=folder / "plain", on_progress=lambda *_: None)
    for name in ("rater", "proxy"):
        launched, plain = (load_file(folder / of / f"{name}.safetensors") for of in ("launched", "plain"))
        assert launched.keys() == plain.keys()
    scorer = Scorer.load(folder / "launched")
    assert np.isfinite(scorer.score(validation_pairs.image_NHWC, validation_pairs.captions)).all()


def test_processes_wait_for_the_first_one_as_long_as_it_fits_and_encodes(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, Any]] = []
    monkeypatch.setattr(launching, "PartialState", lambda **options: given.append(options))
    launching.broadcast()
    launching.make_accelerator()
    assert [options["timeout"] > timedelta(days=1) for options in given] == [True, True]


@pytest.mark.slow
def test_processes_that_would_cut_a_softmax_group_are_refused_with_the_remedy(folder: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        launch(TWO_PROCESSES, folder)
    assert b"set softmax_group_size to 8 or a divisor of it" in refused.value.stderr


@pytest.mark.slow
def test_bf16_follows_the_curve_of_fp32(folder: Path, train_pairs: Samples, validation_pairs: Samples) -> None:
    config = CONFIG.model_copy(update={"mixed_precision": "bf16", "max_train_steps": 20})
    (folder / "config.json").write_text(config.model_dump_json(), "utf-8")
    # In another process, because accelerate keeps one number format per process.
    launch(["torch.distributed.run", "--standalone", "--nproc-per-node=1"], folder)
    full = config.model_copy(update={"mixed_precision": "no"})
    train_rater(full, train_pairs, validation_pairs, out=folder / "plain", on_progress=lambda *_: None)
    half, whole = (
        json.loads((folder / name / "metrics.json").read_text("utf-8"))["history"] for name in ("launched", "plain")
    )
    for name in ("validation_loss", "train_loss"):
        losses, expected = ([row[name] for row in history] for history in (half, whole))
        np.testing.assert_allclose(losses, expected, rtol=0.02)
        assert losses != expected
