"""What a training calls after each step: nothing, or the end of its process."""

from collections.abc import Callable


class KilledError(Exception):
    """Stands for a process that is killed here."""


def ignore(_done: int, _total: int, _note: str) -> None:
    pass


def kill_at(step: int) -> Callable[[int, int, str], None]:
    """End the process after this step."""

    def kill(done: int, _total: int, _note: str) -> None:
        if done == step:
            raise KilledError

    return kill


def kill_at_any_step(_done: int, _total: int, _note: str) -> None:
    raise KilledError
