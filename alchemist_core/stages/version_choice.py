"""Which version of a subset a stage works on where none is named: what readers see, said before the work begins."""

from sqlalchemy import Engine

from alchemist_core.store.subsets import SubsetRow, find_subset, published_version
from alchemist_core.telemetry import say

VERSION_TEXT = "Version number; none: the published one, the newest where none is"


def choose_version(engine: Engine, name: str, *, version: int | None, is_newest: bool = False) -> SubsetRow:
    """Return the version that is named, else the published one, else the newest; where none is named, say which and why.

    Args:
        engine: The store.
        name: Name of the subset.
        version: Version number, if one is named.
        is_newest: Take the newest although another is published: what is copied or checked before it is published.

    Raises:
        ConfigError: There is none.
    """
    if version is not None:
        return find_subset(engine, name, version=version)
    newest, published = find_subset(engine, name), published_version(engine, name)
    if published is None:
        say(f"{newest.title} is taken, the newest version: none is published.")
        return newest
    if is_newest:
        say(f"{newest.title} is taken, the newest version; published is v{published.version}.")
        return newest
    is_same = newest.version == published.version
    more = "" if is_same else f"; the newest is v{newest.version} (--version {newest.version})"
    say(f"{published.title} is taken, the published version{more}.")
    return published
