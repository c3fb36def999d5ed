"""Networks of the libraries transformers and diffusers, loaded from a folder.

The libraries fill weights that the files lack with random numbers and only warn; here that is refused.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from alchemist_core.errors import ConfigError
from alchemist_core.models.published.weights import first_lost


def load_pretrained(kind: Any, folder: str | Path, *, what: str, remedy: str, **options: Any) -> Any:
    """Load a network in eval mode; every weight must come from the folder's files.

    Args:
        kind: Class of the network.
        folder: Its folder.
        what: Its name, for the error.
        remedy: What to give instead, for the error.
        options: Further options of `from_pretrained`.

    Raises:
        ConfigError: The folder does not hold this network, or lacks some of its weights; the message names the first.
    """
    try:
        with _without_warnings():
            network, found = kind.from_pretrained(
                folder, local_files_only=True, output_loading_info=True, ignore_mismatched_sizes=True, **options
            )
    except SafetensorError as error:
        lost = next(filter(None, map(first_lost, sorted(Path(folder).glob("*.safetensors")))), None)
        raise ConfigError(
            f"The weights in {folder} are cut off or damaged: {f'they end inside of {lost}' if lost else error}. Download them again."
        ) from error
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise ConfigError(f"{folder} does not hold {what}: {reason}. {remedy}") from error
    wrong = [
        f"{key} is {tuple(theirs)}, not {tuple(ours)}" for key, theirs, ours in sorted(found["mismatched_keys"])
    ] + [f"{key} is missing" for key in sorted(found["missing_keys"])]
    if wrong:
        raise ConfigError(f"{folder} does not hold {what}. First difference: {wrong[0]}; {len(wrong)} in all. {remedy}")
    return network.eval()


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep the libraries from printing a table of differences, which the error says in one line."""
    loggers = [logging.getLogger(name) for name in ("transformers", "diffusers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
