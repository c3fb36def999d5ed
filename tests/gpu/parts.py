"""The parts of `make gpu`. Each has a time limit and runs in a process of its own: a module of this package with a function `measure`.

A part yields rows, as a benchmark does. Each row is stored at once, so a part that is stopped at its limit keeps those that it has.
"""

import gc
import json
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, TypeVar

from tests.benchmarks.rows import Row

T = TypeVar("T")


class Part(NamedTuple):
    """A part: its module, the seconds after which it is stopped, and what it measures."""

    name: str
    limit_s: int
    what: str


PARTS = (
    Part("scoring", 480, "images a second from tar to committed row, and up to the bytes of COPY without Postgres"),
    Part("presets", 480, "samples a second, share of the card's peak, and memory against the plan, for each preset"),
    Part("precision", 480, "scores in bf16 against fp32"),
    Part("compilation", 480, "training with and without torch.compile"),
    Part("checkpointing", 480, "training with and without recomputed activations: memory and time"),
    Part("lease", 240, "two processes on one card: the second waits for the lease of the device"),
    Part("quality", 480, "AUC of raters on the synthetic corpus against that of raters trained on the CPU"),
    Part("arms", 480, "held-out loss of STAR-40M at 256 px, trained on a subset, a random subset and everything"),
)


@dataclass(frozen=True)
class Given:
    """How to run a part."""

    part: str
    device: str
    is_smallest: bool
    corpus: str | None
    folder: str
    """An empty folder, which is deleted afterwards."""

    def pick(self, full: T, smallest: T) -> T:
        """Choose a size."""
        return smallest if self.is_smallest else full

    @property
    def place(self) -> Path:
        """The folder of the part."""
        return Path(self.folder)


def unmeasured(name: str, why: object) -> Row:
    """Return a row for what could not be measured here."""
    return Row(name, None, "", None, None, f"not measured: {why}")


def failed(name: str, why: object) -> Row:
    """Return a row for what should have been measured."""
    return Row(name, None, "", None, False, str(why))


def describe(error: BaseException) -> str:
    """Return an error in one line."""
    return f"{type(error).__name__}: {str(error).strip() or 'no message'}".splitlines()[0][:300]


def release_memory() -> None:
    """Free what a finished training held, and allow another number format: accelerate keeps one per process."""
    import torch
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def machine(given: Given) -> str:
    """Return the name of the device, and the size of the run where it is the smallest."""
    import torch

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores"
    return name + given.pick("", ", smallest size")


def run(given: Given) -> Iterator[Row]:
    """Yield the rows of a part; a part that cannot run, or fails, yields a row that says why."""
    import torch

    if given.device == "cuda" and not torch.cuda.is_available():
        yield unmeasured(given.part, "torch finds no CUDA device; --device cpu --smallest tries the part without one")
        return
    try:
        yield from import_module(f"tests.gpu.{given.part}").measure(given)
    except Exception as error:  # noqa: BLE001  every failure becomes a row
        traceback.print_exc()
        yield failed(given.part, describe(error))


def _stop(number: int, _frame: FrameType | None) -> None:
    # As an exception, so that servers that a part started are stopped.
    raise SystemExit(128 + number)


def main(given: Given) -> None:
    """Run one part here, and store each of its rows at once."""
    signal.signal(signal.SIGTERM, _stop)
    # A part that is stopped before its first row has a machine, too.
    (given.place / "machine").write_text(machine(given), encoding="utf-8")
    with (given.place / "rows").open("a", encoding="utf-8") as file:
        for row in run(given):
            stored: dict[str, Any] = {"part": given.part, "machine": machine(given), **row._asdict()}
            print(json.dumps(stored, ensure_ascii=False), file=file, flush=True)
            print(f"{row.name}: {row.value} {row.unit} {row.detail}", flush=True)


def command_of(given: Given) -> list[str]:
    """Return the command that runs a part in a process of its own."""
    return [sys.executable, "-m", "tests.gpu.parts", json.dumps(asdict(given))]


if __name__ == "__main__":
    main(Given(**json.loads(sys.argv[1])))
