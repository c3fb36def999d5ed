"""What a verb's module tells the command line."""

from collections.abc import Callable
from typing import Any, NamedTuple

from alchemist_core.config import Config, Report


class Command(NamedTuple):
    """What a verb (or one of its sub-verbs) runs: its config model and its function."""

    config: type[Config]
    run: Callable[..., Report | Any | None]
    next_step: Callable[[Any, Any], str | None] = lambda _config, _report: None
    """What a person types behind it, by its config and its report; None where nothing follows."""
