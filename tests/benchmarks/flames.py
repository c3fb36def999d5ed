"""Flame graphs of scoring, materializing and selection as small SVG files: where the time of each goes.

`make bench-flames` (`python -m tests.benchmarks.flames [NAME …]`) runs each under py-spy, which samples the stacks
of the process and of its workers, and draws `docs/benchmarks/flame-NAME.svg`. Frames of less than half a percent are left out. A frame's
width is its share of the samples; idle threads are not sampled. Some minutes.
"""

import argparse
import html
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from alchemist_core.settings import load_settings
from tests.benchmarks import score_pipeline
from tests.benchmarks.materialize import LARGE_SIDE, SMALL_SIDE
from tests.benchmarks.picture_store import add_pictures, own_store
from tests.benchmarks.score_pool import Pool

FOLDER = Path(__file__).parents[2] / "docs" / "benchmarks"
RATE_HZ = 200
LEAST_SHARE, WIDTH, ROW, LETTER = 0.005, 1200, 17, 6.6
SIDE, N_PAIRS = 64, 12_288
N_SAMPLES, N_LARGE, N_SMALL = 1_000_000, 24_000, 120_000
# Frames of the interpreter and of the runner, which say nothing about the work.
PLAIN = ("_bootstrap", "_run_module", "<frozen", "_run_code")


@dataclass(slots=True)
class Frame:
    """A function at one place of the stacks: the samples in it, and in what it called."""

    n: int = 0
    below: dict[str, "Frame"] = field(default_factory=dict)


def main() -> None:
    """Profile and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*WORK, []], default=[])
    for name in parser.parse_args().names or WORK:
        with WORK[name]() as words, TemporaryDirectory() as folder:
            raw = Path(folder) / "raw.txt"
            profile(words, raw)
            # Without the path of the checkout on this machine.
            root = read_stacks(raw.read_text(encoding="utf-8").replace(f"{Path.cwd()}/", ""))
        title = f"{name}: {' '.join(words)}, {root.n:,} samples at {RATE_HZ} Hz"
        (FOLDER / f"flame-{name}.svg").write_text(draw(root, title), encoding="utf-8")
        print(f"docs/benchmarks/flame-{name}.svg: {root.n:,} samples", flush=True)


def profile(words: list[str], raw: Path) -> None:
    """Run a Python program under py-spy."""
    spy = [str(Path(sys.executable).with_name("py-spy")), "record", "--format", "raw", "--rate", str(RATE_HZ)]
    subprocess.run(
        [*spy, "--subprocesses", "--output", str(raw), "--", sys.executable, *words], check=True, stdout=sys.stderr
    )


def read_stacks(text: str) -> Frame:
    """Count stacks, one a line: frames from the outermost to the innermost, separated by semicolons, and the number of samples.

    >>> root = read_stacks("main (a.py);load (a.py) 3\\nmain (a.py) 1")
    >>> root.n, root.below["main (a.py)"].n, root.below["main (a.py)"].below["load (a.py)"].n
    (4, 4, 3)
    """
    root = Frame()
    for line in text.splitlines():
        stack, _, count = line.rpartition(" ")
        frame = root
        frame.n += int(count)
        for name in (one for one in stack.split(";") if not any(word in one for word in PLAIN)):
            frame = frame.below.setdefault(name, Frame())
            frame.n += int(count)
    return root


def draw(root: Frame, title: str) -> str:
    """Return a flame graph, the outermost frames at the top."""
    boxes = list(lay_out(root, root.n))
    height = ROW * (2 + max((depth for depth, *_ in boxes), default=0) + 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="monospace" font-size="11">',
        f'<text x="4" y="12">{html.escape(title)}</text>',
    ]
    for depth, start, share, name in boxes:
        x, y, width = start * WIDTH, ROW * (depth + 1.5), share * WIDTH
        hue = 10 + sum(name.partition(" (")[2].encode()) % 50
        label = html.escape(name if len(name) * LETTER < width else name[: max(int(width / LETTER) - 1, 0)])
        parts.append(
            f'<g><title>{html.escape(name)}: {share:.1%}</title><rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{ROW - 1}" '
            f'fill="hsl({hue} 80% 70%)"/><text x="{x + 2:.1f}" y="{y + 12:.1f}">{label}</text></g>'
        )
    return "\n".join([*parts, "</svg>", ""])


def lay_out(frame: Frame, total: int, depth: int = 0, start: float = 0.0) -> Iterator[tuple[int, float, float, str]]:
    """Yield depth, start and width (as shares of all samples) and name of each frame that is wide enough."""
    for name, inner in sorted(frame.below.items(), key=lambda item: -item[1].n):
        share = inner.n / max(total, 1)
        if share < LEAST_SHARE:
            continue
        yield depth, start, share, name
        yield from lay_out(inner, total, depth + 1, start)
        start += share


@contextmanager
def scoring() -> Iterator[list[str]]:
    """A night of images of 64 px."""
    with score_pipeline.own_store():
        score_pipeline.prepare(SIDE, N_PAIRS)
        yield ["-m", "alchemist_core", "score", "--dataset", score_pipeline.name_of(SIDE), "--rater", "newest"]


@contextmanager
def materializing(side: int, n_pairs: int) -> Iterator[list[str]]:
    """Half of a corpus."""
    with own_store() as engine:
        add_pictures(engine, "members", side=side, n_pairs=n_pairs, shard_bytes=1 << 25)
        yield ["-m", "alchemist_core", "materialize", "members", "--shard-size", "1000"]


@contextmanager
def selecting() -> Iterator[list[str]]:
    """From Postgres, nothing kept, to committed membership."""
    with own_store() as engine:
        Pool(engine).grow(N_SAMPLES)
        assert load_settings().home.exists()
        yield ["-m", "tests.benchmarks.select_work", "commit", "0.2"]


WORK: dict[str, Callable[[], "contextmanager[list[str]]"]] = {  # type: ignore[type-arg]  # a context manager with a list
    "score": scoring, "materialize": partial(materializing, LARGE_SIDE, N_LARGE),
    "materialize-small": partial(materializing, SMALL_SIDE, N_SMALL), "select": selecting,
}  # fmt: skip

if __name__ == "__main__":
    main()
