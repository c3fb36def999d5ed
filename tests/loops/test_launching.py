"""The loops run under the launchers that clusters use, and give the same weights as in-process."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from alchemist_core.loops.config import RaterTrainingConfig
from alchemist_core.loops.pairs import Pairs
from alchemist_core.loops.rater_training import train_rater

CONFIG = RaterTrainingConfig(n_warmup_steps=5, n_steps=10, batch_size=16, proxy_width=16, rater_width=16, n_codes=32)
SCRIPT = """
import sys
from pathlib import Path

import numpy as np
import torch

from alchemist_core.loops.config import RaterTrainingConfig
from alchemist_core.loops.pairs import Pairs
from alchemist_core.loops.rater_training import train_rater

torch.set_num_threads(1)
folder = Path(sys.argv[1])
pairs = [
    Pairs(np.load(folder / f"{name}.npy"), (folder / f"{name}.txt").read_text().splitlines())
    for name in ("train", "validation")
]
config = RaterTrainingConfig.model_validate_json((folder / "config.json").read_text())
train_rater(config, *pairs, out=folder / "launched", report=lambda *_: None)
"""


@pytest.fixture
def folder(tmp_path: Path, train_pairs: Pairs, validation_pairs: Pairs) -> Path:
    for name, pairs in (("train", train_pairs), ("validation", validation_pairs)):
        np.save(tmp_path / f"{name}.npy", pairs.image_NHWC)
        (tmp_path / f"{name}.txt").write_text("\n".join(pairs.captions), "utf-8")
    (tmp_path / "config.json").write_text(CONFIG.model_dump_json(), "utf-8")
    (tmp_path / "script.py").write_text(SCRIPT, "utf-8")
    return tmp_path


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
    launcher: list[str], folder: Path, train_pairs: Pairs, validation_pairs: Pairs
) -> None:
    command = [sys.executable, "-m", *launcher, str(folder / "script.py"), str(folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=200)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train_rater(CONFIG, train_pairs, validation_pairs, out=folder / "plain", report=lambda *_: None)
    torch.set_num_threads(threads)
    launched, plain = (load_file(folder / name / "rater.safetensors") for name in ("launched", "plain"))
    assert launched.keys() == plain.keys()
    for name in plain:
        torch.testing.assert_close(launched[name], plain[name], rtol=1e-4, atol=1e-6)
