"""How a command ends that cannot succeed: one line for a person, whatever was raised.

What a user or the machine caused (a path, a full disk, a server, a damaged file) becomes an error with a remedy. What is left is
a defect: its traceback goes to a file of the home, and the line names that file.
"""

import errno
import json
import os
import sys
import tempfile
import traceback
from contextlib import suppress
from datetime import UTC, datetime

from pydantic import ValidationError

from alchemist_core.errors import AlchemistError, ConfigError, DataError
from alchemist_core.settings import load_settings

TRACEBACK_VARIABLE = "ALCHEMIST_TRACEBACK"
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
REMEDIES = {
    errno.ENOENT: "does not exist. Check the path",
    errno.EACCES: "may not be used by this user. Change its permissions, or name another path",
    errno.EPERM: "may not be used by this user. Change its permissions, or name another path",
    errno.EROFS: "lies on a read-only file system. Name a path that can be written; ALCHEMIST_HOME names the home",
    errno.EISDIR: "is a folder. Name a file",
    errno.ENOTDIR: "is not a folder, or one of its parents is a file. Name another path",
    errno.EEXIST: "exists. Name another path",
    errno.ENAMETOOLONG: "is too long for the file system. Name a shorter path",
    errno.ELOOP: "is a loop of symbolic links. Name another path",
}


def explain(error: BaseException) -> AlchemistError | None:
    """Return the line that helps, or None for a defect of the code."""
    if isinstance(error, AlchemistError):
        return error
    if isinstance(error, OSError):
        return _explain_os_error(error)
    if isinstance(error, MemoryError):
        return AlchemistError(
            "The memory of this machine is used up. Use smaller batches or fewer workers, then run the command again."
        )
    if isinstance(error, UnicodeError):
        return ConfigError(
            f"A text is not valid UTF-8: {first_line(error)}. Write it as UTF-8 and run the command again."
        )
    if isinstance(error, json.JSONDecodeError):
        return DataError(f"A JSON text is damaged: {first_line(error)}. Write it again.")
    return _explain_by_library(error)


def first_line(error: BaseException) -> str:
    """Return what an error says, on one line and of bounded length."""
    lines = str(error).strip().splitlines()
    return lines[0][:500].rstrip(".") if lines else type(error).__name__


def _explain_os_error(error: OSError) -> AlchemistError:
    name = error.filename if error.filename is not None else None
    place = f"{os.fsdecode(name)} " if isinstance(name, (str, bytes, os.PathLike)) else ""
    if error.errno in FULL:
        return AlchemistError(
            f"The disk is full{f' at {place.strip()}' if place else ''}. Free space, then run the same command again."
        )
    if error.errno in REMEDIES:
        return ConfigError(f"{place or 'A path '}{REMEDIES[error.errno]}.")
    return AlchemistError(
        f"{place}cannot be used: {first_line(error)}. Check the path, the disk and the network, then run the command again.".lstrip()
    )


def _explain_by_library(error: BaseException) -> AlchemistError | None:
    """Judge by the library's name: none of them is imported before it has raised something."""
    library = type(error).__module__.partition(".")[0]
    if library in {"sqlalchemy", "psycopg2"}:
        from alchemist_core.store.refusals import explain_refusal  # noqa: PLC0415

        return explain_refusal(error)
    if isinstance(error, ValidationError):
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc'])) or error.title}: {fault['msg']}" for fault in error.errors()
        )
        return ConfigError(
            f"Values do not fit together ({error.title}): {faults}. Correct them; --help lists the bounds."
        )
    if library == "pyarrow":
        return DataError(
            f"A Parquet or Arrow file is damaged or of another form: {first_line(error)}. Write it again, or name another file."
        )
    if library in {"botocore", "boto3", "requests", "httpx", "urllib3"}:
        return DataError(
            f"A server did not answer as expected: {first_line(error)}. Check its address and the network, then run the command again."
        )
    if type(error).__name__ == "OutOfMemoryError":
        return AlchemistError(
            f"The memory of the device is used up: {first_line(error)}. Use smaller batches, then run the command again."
        )
    return None


def report_defect(error: BaseException, words: list[str]) -> str:
    """Keep the traceback of a defect, and return the line that names it and where the traceback is."""
    notes = [note for note in getattr(error, "__notes__", ()) if note.startswith("run ")]
    shown = "".join(traceback.format_exception(error))
    if os.environ.get(TRACEBACK_VARIABLE, "") not in {"", "0"}:
        sys.stderr.write(shown)
    where = _keep(
        f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} pid {os.getpid()}: alchemist {' '.join(words[:2])}\n{shown}\n"
    )
    during = f" in {notes[0]}" if notes else ""
    return (
        f"This is a defect of Alchemist: {type(error).__name__}{during}: {first_line(error)}. Please report it with the traceback {where}; "
        f"{TRACEBACK_VARIABLE}=1 prints it."
    )


def _keep(text: str) -> str:
    """Append to the home's log of errors; where the home cannot be written, write a file of its own."""
    with suppress(OSError, AlchemistError):
        path = load_settings().home.resolve() / "logs" / "errors.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "a", errors="replace") as file:
            file.write(text)
        return f"in {path}"
    with (
        suppress(OSError),
        tempfile.NamedTemporaryFile("w", prefix="alchemist-error-", delete=False, errors="replace") as own,
    ):
        own.write(text)
        return f"in {own.name}"
    return "that could be written nowhere"
