"""Convolutions run without TF32, and neither an import nor a forward changes the setting of the process."""

import subprocess
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from alchemist_core.models.config import tokenizer_tiny
from alchemist_core.models.precision import without_tf32
from alchemist_core.models.tokenizer import Tokenizer

IMPORT_ALL = """
import pkgutil, torch
import alchemist_core.models
before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
for found in pkgutil.iter_modules(alchemist_core.models.__path__, "alchemist_core.models."):
    __import__(found.name)
print(before == (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32), before[0])
"""


@pytest.mark.slow
def test_importing_the_models_changes_no_setting_of_torch() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]


@pytest.fixture
def seen() -> Iterator[list[bool]]:
    """The setting while each convolution runs."""
    found: list[bool] = []

    def note(module: nn.Module, *_: object) -> None:
        if isinstance(module, nn.Conv2d):
            found.append(torch.backends.cudnn.allow_tf32)

    handle = nn.modules.module.register_module_forward_hook(note)
    yield found
    handle.remove()


@pytest.mark.parametrize("before", [True, False])
def test_every_convolution_of_a_tokenizer_runs_without_tf32(
    before: bool, seen: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", before)
    tokenizer = Tokenizer(tokenizer_tiny())
    codes = tokenizer.encode(np.zeros((1, 16, 16, 3), np.uint8))
    tokenizer.decode(codes)
    tokenizer.tokens(codes)
    assert seen
    assert not any(seen)
    assert torch.backends.cudnn.allow_tf32 is before


def test_an_error_restores_the_setting() -> None:
    before = torch.backends.cudnn.allow_tf32
    with pytest.raises(ZeroDivisionError), without_tf32:
        _ = 1 / 0
    assert torch.backends.cudnn.allow_tf32 is before


def test_a_block_that_ends_first_leaves_the_setting_to_the_others() -> None:
    before = torch.backends.cudnn.allow_tf32
    is_inside, may_end = threading.Event(), threading.Event()

    def hold() -> None:
        with without_tf32:
            is_inside.set()
            may_end.wait(timeout=60)

    other = threading.Thread(target=hold)
    with without_tf32:
        other.start()
        assert is_inside.wait(timeout=60)
    assert not torch.backends.cudnn.allow_tf32
    may_end.set()
    other.join()
    assert torch.backends.cudnn.allow_tf32 is before
