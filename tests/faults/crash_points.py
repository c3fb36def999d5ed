"""Crash points: named moments at which a process can be killed, before or after a call of one of our functions.

`moments` returns the points of a command; `arm` makes this process kill itself at one. The product does not contain any of this.
"""

import importlib
import os
import signal
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from alchemist_core.cli.verbs import load_commands


class CrashPoint(NamedTuple):
    """A moment: where the function is looked up by its caller, and whether the call itself still happens."""

    title: str
    module: str
    attribute: str
    when: str

    @property
    def function(self) -> str:
        return f"{self.module}:{self.attribute}"


_STAGES, _STORE, _SHARDS, _SUBSETS, _CLI = (
    f"alchemist_core.{room}" for room in ("stages", "store", "shards", "subsets", "cli")
)
_RENAMED = (
    CrashPoint("before a rename", "pathlib", "Path.replace", "before"),
    CrashPoint("after a rename", "pathlib", "Path.replace", "after"),
)
_BEGUN = (CrashPoint("after the run is claimed", f"{_STAGES}.execution", "claim_run", "after"),)
_ENDED = (
    CrashPoint("before the run is finished", f"{_STAGES}.execution", "finish_run", "before"),
    CrashPoint("after the run is finished", f"{_STAGES}.execution", "finish_run", "after"),
)
_TRAINING = (
    CrashPoint("checkpoint half written", "os", "fsync", "before"),
    CrashPoint("before the folder has its name", "pathlib", "Path.rename", "before"),
    CrashPoint("after the folder has its name", "pathlib", "Path.rename", "after"),
)
# In the order of execution, so that later points are still ahead after a crash at one.
POINTS: dict[str, tuple[CrashPoint, ...]] = {
    "ingest": (
        *_BEGUN,
        CrashPoint("after the dataset is registered", f"{_STORE}.registry", "register_dataset", "after"),
        CrashPoint("before a shard's rows", f"{_STORE}.registry", "_insert_shard", "before"),
        CrashPoint("inside the COPY of samples", f"{_STORE}.copy", "encode_row", "before"),
        CrashPoint("before a shard's commit", f"{_STORE}.registry", "_insert_samples", "after"),
        CrashPoint("after a shard's commit", f"{_STORE}.registry", "register_shard", "after"),
        *_ENDED,
    ),
    "train-rater": (
        *_BEGUN, *_TRAINING, *_RENAMED,
        CrashPoint("before the rater is registered", f"{_STORE}.raters", "register_rater", "before"),
        CrashPoint("after the rater is registered", f"{_STORE}.raters", "register_rater", "after"),
        *_ENDED,
    ),
    "rater promote": (
        CrashPoint("before the promotion", f"{_CLI}.rater", "promote_rater", "before"),
        CrashPoint("after the promotion", f"{_CLI}.rater", "promote_rater", "after"),
    ),
    "score": (
        *_BEGUN,
        CrashPoint("after a shard is claimed", f"{_STORE}.ledger", "claim_unscored_shard", "after"),
        CrashPoint("before the COPY of scores", f"{_STORE}.ledger", "copy_scores", "before"),
        CrashPoint("after the COPY of scores", f"{_STORE}.ledger", "copy_scores", "after"),
        CrashPoint("before a shard's commit", f"{_STORE}.ledger", "_commit", "after"),
        CrashPoint("after a shard's commit", f"{_STORE}.ledger", "commit_shard", "after"),
        *_ENDED,
    ),
    "duplicates find": (
        CrashPoint("before duplicates are looked for", f"{_CLI}.duplicates", "find_duplicates", "before"),
        CrashPoint("inside a block of duplicates", f"{_STORE}.samples", "load_query", "before"),
        CrashPoint("after duplicates were found", f"{_CLI}.duplicates", "find_duplicates", "after"),
    ),
    "night publish": (
        CrashPoint("before a night is decided", f"{_STAGES}.publishing", "decide_night", "before"),
        CrashPoint("after a night is decided", f"{_STAGES}.publishing", "decide_night", "after"),
    ),
    "select": (
        *_BEGUN, *_RENAMED,
        CrashPoint("before the manifest", f"{_STAGES}.select", "write_manifest", "before"),
        CrashPoint("before the version's row", f"{_STAGES}.select", "store_subset", "before"),
        CrashPoint("after the version's row", f"{_STAGES}.select", "store_subset", "after"),
        *_ENDED,
    ),
    "subset publish": (
        CrashPoint("before the membership", f"{_STORE}.subsets", "store_members", "before"),
        CrashPoint("after the membership, before publishing", f"{_STORE}.subsets", "store_members", "after"),
        CrashPoint("before the publishing commit", f"{_STORE}.subsets", "_make_current", "after"),
        CrashPoint("after publishing", f"{_CLI}.subset", "publish_subset", "after"),
    ),
    "materialize": (
        *_BEGUN, *_RENAMED,
        CrashPoint("inside a tar", f"{_SUBSETS}.tar_copies", "plain_headers", "before"),
        CrashPoint("before a tar is noted", f"{_SUBSETS}.materialized", "Journal.add", "before"),
        CrashPoint("after a tar is noted", f"{_SUBSETS}.materialized", "Journal.add", "after"),
        CrashPoint("after the last tar", f"{_SUBSETS}.materialized", "Journal.remove", "after"),
        CrashPoint("before the copy is noted", f"{_STAGES}.materialize", "mark_materialized", "before"),
        *_ENDED,
    ),
    "train-downstream": (
        *_BEGUN, *_TRAINING, *_RENAMED,
        CrashPoint("before a model's row", f"{_STORE}.models", "store_model", "before"),
        CrashPoint("after a model's row", f"{_STORE}.models", "store_model", "after"),
        *_ENDED,
    ),
    "evaluate": (
        *_BEGUN,
        CrashPoint("after the protocol", f"{_STORE}.models", "store_protocol", "after"),
        CrashPoint("before a value", f"{_STORE}.models", "store_values", "before"),
        CrashPoint("after a value", f"{_STORE}.models", "store_values", "after"),
        *_ENDED,
    ),
    "report": (*_BEGUN, *_RENAMED, *_ENDED),
}  # fmt: skip


def points_of(words: Sequence[str]) -> tuple[CrashPoint, ...]:
    """The points of a command line."""
    return POINTS[command_of(words)]


def command_of(words: Sequence[str]) -> str:
    """The verb and sub-verb of a command line."""
    second = words[1:2] if "" not in load_commands(words[0]) else ()
    return " ".join((words[0], *second))


def arm(point: CrashPoint, *, call: int) -> None:
    """Let this process kill itself at the `call`-th call, from 1."""

    def hit(n_calls: int, now: str) -> None:
        if n_calls == call and now == point.when:
            os.kill(os.getpid(), signal.SIGKILL)

    _wrap(point, hit)


def count(points: tuple[CrashPoint, ...]) -> dict[str, int]:
    """Count the calls of each point's function from now on, in a dictionary that grows."""
    n_calls: dict[str, int] = {}
    for point in {point.function: point for point in points}.values():
        _wrap(point, lambda n, _, function=point.function: n_calls.__setitem__(function, n))
    return n_calls


def _wrap(point: CrashPoint, hit: Callable[[int, str], None]) -> None:
    owner: Any = importlib.import_module(point.module)
    *path, name = point.attribute.split(".")
    for part in path:
        owner = getattr(owner, part)
    original, n_calls = getattr(owner, name), 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal n_calls
        n_calls += 1
        number = n_calls
        hit(number, "before")
        result = original(*args, **kwargs)
        hit(number, "after")
        return result

    setattr(owner, name, wrapped)
