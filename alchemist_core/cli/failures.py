"""Turn any exception into one line for the user.

Exceptions caused by the user or the machine (a path, a full disk, a server, a damaged file) become errors with a remedy. All
others are defects: the traceback is written to a file of the home, and the line names that file.
"""

import errno
import json
import os
import re
import sys
import tempfile
import traceback
from contextlib import suppress
from datetime import UTC, datetime

from pydantic import ValidationError

from alchemist_core.errors import AlchemistError, ConfigError, DataError
from alchemist_core.extras import EXTRA_OF, missing_library
from alchemist_core.settings import load_settings

TRACEBACK_VARIABLE = "ALCHEMIST_TRACEBACK"
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
REMEDIES = {
    errno.ENOENT: "does not exist. Check the path",
    errno.EACCES: "is not accessible to this user. Change its permissions, or give another path",
    errno.EPERM: "is not accessible to this user. Change its permissions, or give another path",
    errno.EROFS: "is on a read-only file system. Give a writable path; ALCHEMIST_HOME sets the home",
    errno.EISDIR: "is a folder. Give a file",
    errno.ENOTDIR: "is not a folder, or one of its parents is a file. Give another path",
    errno.EEXIST: "exists. Give another path",
    errno.ENAMETOOLONG: "is too long for the file system. Give a shorter path",
    errno.ELOOP: "is a loop of symbolic links. Give another path",
}

NUMBERS = ((FileNotFoundError, errno.ENOENT), (PermissionError, errno.EACCES), (IsADirectoryError, errno.EISDIR))

SERVER = "A server did not answer as expected: {}. Check its address and the network, then run the command again."
BY_LIBRARY = {
    "pyarrow": "A Parquet or Arrow file is damaged or has another format: {}. Write it again, or give another file.",
    "safetensors": "A safetensors file is damaged or has another format: {}. Give another file.",
    "safetensors_rust": "A safetensors file is damaged or has another format: {}. Give another file.",
    **dict.fromkeys(("boto3", "botocore", "httpx", "requests", "urllib3"), SERVER),
}
# Libraries written in Rust report the error number in this form.
OS_ERROR = re.compile(r"\(os error (\d+)\)")

# How torch's communication libraries report that a process is gone.
LOST_PEER = re.compile(r"gloo|NCCL error|DistNetworkError|Connection (closed|reset) by peer|Broken pipe")


def explain(error: BaseException) -> AlchemistError | None:
    """Return the error to print, or None for a defect of the code."""
    if isinstance(error, AlchemistError):
        return error
    if isinstance(error, OSError):
        return _explain_os_error(error)
    if isinstance(error, MemoryError):
        return AlchemistError(
            "This machine is out of memory. Use smaller batches or fewer workers, then run the command again."
        )
    if isinstance(error, UnicodeError):
        return ConfigError(
            f"A text is not valid UTF-8: {first_line(error)}. Write it as UTF-8 and run the command again."
        )
    if isinstance(error, json.JSONDecodeError):
        return DataError(f"A JSON text is damaged: {first_line(error)}. Write it again.")
    if isinstance(error, ModuleNotFoundError) and (library := (error.name or "").partition(".")[0]) in EXTRA_OF:
        return missing_library(library)
    return _explain_by_library(error)


def first_line(error: BaseException) -> str:
    """Return the first line of an error message, of bounded length."""
    lines = str(error).strip().splitlines()
    return lines[0][:500].rstrip(".") if lines else type(error).__name__


def _explain_os_error(error: OSError) -> AlchemistError:
    # Libraries raise these classes without an error number.
    number = error.errno or next((code for kind, code in NUMBERS if isinstance(error, kind)), None)
    # Of a copy the first name is the source, and the disk of the target is the full one.
    named = (error.filename2 if number in FULL else None) or error.filename
    place = os.fsdecode(named) if isinstance(named, (str, bytes, os.PathLike)) else ""
    if number in FULL:
        at = f" at {place}" if place else ""
        return AlchemistError(f"The disk is full{at}. Free space, then run the same command again.")
    if number in REMEDIES:
        fault, _, remedy = REMEDIES[number].partition(". ")
        return ConfigError(f"{f'{place} {fault}' if place else first_line(error)}. {remedy}.")
    return AlchemistError(
        f"{place or 'A file or a connection'} cannot be used: {first_line(error)}. Check the path, the disk and the network, then run the "
        "command again."
    )


def _explain_by_library(error: BaseException) -> AlchemistError | None:
    """Classify by the name of the library or its message, so that no library has to be imported."""
    library, message = type(error).__module__.partition(".")[0], first_line(error)
    if library in {"sqlalchemy", "psycopg2"}:
        from alchemist_core.store.refusals import explain_refusal  # noqa: PLC0415

        return explain_refusal(error)
    if isinstance(error, ValidationError):
        return _explain_validation(error)
    if found := OS_ERROR.search(str(error)):
        return _explain_os_error(OSError(int(found[1]), message))
    if "WORLD_SIZE" in os.environ and LOST_PEER.search(str(error)):
        return AlchemistError(
            f"Another process of this training ended or cannot be reached: {message}. Start the command again on each node: it resumes "
            "from its checkpoint."
        )
    if "PytorchStreamWriter" in str(error):
        return AlchemistError(
            f"A checkpoint cannot be written: {message}. Free space, then run the same command again."
        )
    if type(error).__name__ == "OutOfMemoryError":
        return AlchemistError(
            f"The device is out of memory: {message}. Use smaller batches, then run the command again."
        )
    remedy = BY_LIBRARY.get(library)
    return None if remedy is None else DataError(remedy.format(message))


def _explain_validation(error: ValidationError) -> ConfigError:
    faults = [f"{'.'.join(map(str, fault['loc'])) or error.title}: {fault['msg']}" for fault in error.errors()]
    return ConfigError(
        f"The values are not valid ({error.title}): {'; '.join(faults)}. Correct them; --help lists the bounds."
    )


def report_defect(error: BaseException, words: list[str]) -> str:
    """Store the traceback of a defect, and return the line that names the defect and the file."""
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
    """Append to the error log of the home; if the home is not writable, write a temporary file."""
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
    return "which could not be written to any file"
