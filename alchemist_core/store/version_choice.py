"""Which version of a subset is meant where none is named: one rule for every command and for training, and the choice is printed."""

from typing import Protocol, TypeVar

from sqlalchemy import Engine

from alchemist_core.errors import ConfigError
from alchemist_core.store.subsets import SubsetRow, find_predecessor, find_subset, last_withdrawn, published_version
from alchemist_core.telemetry import say

VERSION_TEXT = "Version number; none: the published version, the newest where none is published"
NEWEST_TEXT = "Take the newest version although another is published: what is checked and copied before it is published"


class Versioned(Protocol):
    """A config that has both ways to name a version."""

    @property
    def version(self) -> int | None:
        """Version number, if one is named."""

    @property
    def newest(self) -> bool:
        """Whether the newest is wanted."""


AnyVersioned = TypeVar("AnyVersioned", bound=Versioned)


def refuse_two_versions(config: AnyVersioned) -> AnyVersioned:
    """Give a config back that names a version in one way at most.

    Raises:
        ValueError: It names one in both ways.
    """
    if config.newest and config.version is not None:
        message = f"--version {config.version} and --newest contradict each other: leave one of them out"
        raise ValueError(message)
    return config


def choose_version(
    engine: Engine, name: str, *, version: int | None, is_newest: bool = False, may_be_withdrawn: bool = False
) -> SubsetRow:
    """Return the version that is named, else the published one, else the newest; where none is named, print which and why.

    Args:
        engine: The store.
        name: Name of the subset.
        version: Version number, if one is named.
        is_newest: Take the newest although another is published.
        may_be_withdrawn: Whether a withdrawn version is an answer: for what shows history, and for nothing that reads members.

    Raises:
        ConfigError: There is none; or it was withdrawn, and the text says why and what to use.
    """
    if version is not None:
        return _named(engine, name, version, may_be_withdrawn=may_be_withdrawn)
    newest, published = find_subset(engine, name), published_version(engine, name)
    if published is not None and not is_newest:
        _say_published(engine, published, newest)
        return published
    withdrawn = last_withdrawn(engine, name) if published is None else None
    if not may_be_withdrawn and (newest.state == "withdrawn" or (withdrawn is not None and not is_newest)):
        # Nothing is published because somebody took it back: readers by name must not fall to whatever else there is.
        raise ConfigError(f"{describe_withdrawal(withdrawn or newest)} {_instead(engine, withdrawn or newest)}")
    why = "none is published" if published is None else f"published is v{published.version}"
    say(f"Using {newest.title}, the newest version; {why}.")
    return newest


def _named(engine: Engine, name: str, version: int, *, may_be_withdrawn: bool) -> SubsetRow:
    found = find_subset(engine, name, version=version)
    if found.state == "withdrawn":
        if not may_be_withdrawn:
            raise ConfigError(f"{describe_withdrawal(found)} {_instead(engine, found)}")
        say(describe_withdrawal(found))
    return found


def describe_withdrawal(subset: SubsetRow) -> str:
    """Return who withdrew a version, when and why, as a sentence."""
    return f"{subset.title} was withdrawn on {subset.withdrawn_at:%Y-%m-%d} by {subset.withdrawn_by}: {subset.withdrawn_reason!r}."


def _say_published(engine: Engine, published: SubsetRow, newest: SubsetRow) -> None:
    withdrawn = last_withdrawn(engine, published.name)
    more = (
        "" if newest.version == published.version else f"; the newest is v{newest.version} (--version {newest.version})"
    )
    # Only one that stood in its place is worth a word.
    before = find_predecessor(engine, withdrawn) if withdrawn is not None else None
    if withdrawn is not None and before is not None and before.subset_id == published.subset_id:
        more += f". {describe_withdrawal(withdrawn)}".removesuffix(".")
    say(f"Using {published.title}, the published version{more}.")


def _instead(engine: Engine, withdrawn: SubsetRow) -> str:
    published = published_version(engine, withdrawn.name)
    if published is not None:
        return f"Use the published version {published.title}: leave --version out."
    return (
        f"No version of {withdrawn.name} is published now. Name another one (--version N; alchemist subset list shows them), "
        f"or publish one: alchemist subset publish {withdrawn.name} --version N."
    )
