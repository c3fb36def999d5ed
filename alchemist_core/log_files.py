"""Keep log files within bounds: a process's growing log by its size, logs of finished tasks by age and total size.

Writers keep their log open, so that `rotate` copies and empties it instead of renaming it, as logrotate's `copytruncate` does.
"""

import time
from collections.abc import Iterator
from pathlib import Path

MIB = 1 << 20
IN_USE_S = 3600.0
"""A log that was written within this time may still grow, so that it is never removed to reduce the total size."""


def rotate(path: Path, *, max_bytes: int) -> bool:
    """Copy the end of a log that is larger than the limit to `NAME.1`, empty the log, and return whether this was done.

    Both files together stay below twice the limit. A line that is written during the call may be lost.
    """
    size = path.stat().st_size
    if size <= max_bytes:
        return False
    with path.open("r+b") as log:
        log.seek(size - max_bytes)
        # Skip the rest of a line whose beginning is not copied.
        log.readline()
        path.with_name(f"{path.name}.1").write_bytes(log.read(max_bytes))
        log.truncate(0)
    return True


def remove_old(folder: Path, *, keep_days: float, max_bytes: int) -> tuple[int, int]:
    """Remove files that are too old, then the oldest until the rest fits the size, then empty folders.

    Args:
        folder: Airflow's logs. Symbolic links in it are not followed; a link whose target is gone is removed.
        keep_days: Days to keep a file after its last line.
        max_bytes: Maximal size of all files together.

    Returns:
        The number of files removed, and the number that remain.
    """
    now = time.time()
    files = sorted(_files(folder))
    total, n_removed = sum(size for _, size, _ in files), 0
    for changed_at, size, path in files:
        age_s = now - changed_at
        if age_s > keep_days * 86_400 or (total > max_bytes and age_s > IN_USE_S):
            path.unlink(missing_ok=True)
            total, n_removed = total - size, n_removed + 1
    _remove_empty(folder)
    return n_removed, len(files) - n_removed


def _files(folder: Path) -> Iterator[tuple[float, int, Path]]:
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            state = path.stat()
            yield state.st_mtime, state.st_size, path


def _remove_empty(folder: Path) -> None:
    # Deepest first, so that a folder that holds only empty folders is removed too.
    for path in sorted(folder.rglob("*"), key=lambda path: len(path.parts), reverse=True):
        if path.is_symlink():
            if not path.exists():
                path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()
