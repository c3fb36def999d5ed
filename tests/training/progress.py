"""What a training calls after each step: nothing, or the end of its process."""

from collections.abc import Callable

from alchemist_core.training.encoding import IMAGES_ENCODED


class KilledError(Exception):
    """Stands for a process that is killed here."""


def ignore(_done: int, _total: int, _note: str) -> None:
    pass


def collect(steps: list[int]) -> Callable[[int, int, str], None]:
    """Append each step to a list."""

    def append(done: int, _total: int, note: str) -> None:
        if note != IMAGES_ENCODED:
            steps.append(done)

    return append


def kill_at(step: int) -> Callable[[int, int, str], None]:
    """End the process after this step."""

    def kill(done: int, _total: int, note: str) -> None:
        if done == step and note != IMAGES_ENCODED:
            raise KilledError

    return kill


def kill_at_any_step(_done: int, _total: int, note: str) -> None:
    if note != IMAGES_ENCODED:
        raise KilledError
