"""The names of arms: what the models of a comparison are trained on, as users write them and as they are stored."""

from typing import Annotated

from pydantic import AfterValidator

from alchemist_core.config import Words

# The stored name of the arm `oracle`. It is part of the identity of trained models, so it cannot change.
ORACLE = "planted"
ARMS = ("subset", "random", "minus_loss", "validation", ORACLE, "full")


def place_of_arm(arm: str) -> tuple[int, str]:
    """Return the sort key of an arm: the order of `ARMS`; arms with added samples follow those without."""
    return ARMS.index(arm.partition("+")[0]), arm


def arm_title(arm: str) -> str:
    """Return the name of an arm as readers see it.

    >>> arm_title("planted+plain"), arm_title("random")
    ('oracle+plain', 'random')
    """
    return "oracle" + arm.removeprefix(ORACLE) if arm.partition("+")[0] == ORACLE else arm


def stored_arm(word: str) -> str:
    """Return the stored name of an arm.

    >>> stored_arm("oracle+plain"), stored_arm("random")
    ('planted+plain', 'random')
    """
    return ORACLE + word.removeprefix("oracle") if word.partition("+")[0] == "oracle" else word


def _stored_arms(words: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(map(stored_arm, words))


ArmNames = Annotated[Words, AfterValidator(_stored_arms)]
"""Arms in a config; `oracle` is stored as `planted`."""
