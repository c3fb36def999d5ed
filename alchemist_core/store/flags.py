"""Flags that people set on samples: good, bad, wrong caption, unsafe, or a label of their own.

Rows are only added: the newest row of a sample and a label decides whether the flag is set. So the flags of any earlier moment can be
read again, and the history of a flag is kept when it is undone.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Engine, Select, func, insert, select, text

from alchemist_core.errors import ConfigError
from alchemist_core.store.audit import record_event
from alchemist_core.store.leases import take_lock
from alchemist_core.store.tables import Sample, SampleFlag

LABELS = ("good", "bad", "wrong_caption", "unsafe")
"""Labels that everybody means the same by. People may use others."""
WORST = frozenset({"bad", "wrong_caption", "unsafe"})
"""Labels of samples that a rater should rank low."""
PREFIX = "flagged_"
"""Of the columns by which conditions name flags, such as `flagged_bad`."""
MOST_SAMPLES = 1_000
MOST_COMMENT = 2_000
_LABEL = re.compile(r"[a-z][a-z0-9_]{0,39}")


def as_label(given: str) -> str:
    """Return a label as it is stored and as conditions name it: small letters, digits and underscores.

    >>> as_label("Wrong caption")
    'wrong_caption'

    Raises:
        ConfigError: It has other characters, or more than 40.
    """
    label = re.sub(r"[\s-]+", "_", given.strip().lower())
    if not _LABEL.fullmatch(label):
        raise ConfigError(
            f"{given!r} is not a valid label. Use {', '.join(LABELS)}, or a word of your own: a letter, then letters, digits and "
            "underscores, 40 at most."
        )
    return label


class Flag(NamedTuple):
    """A row of `sample_flags`: a flag that was set or undone."""

    flag_id: int
    sample_id: int
    label: str
    is_set: bool
    comment: str | None
    flagged_by: str
    flagged_at: datetime


class Flags(NamedTuple):
    """Flags that a condition can name."""

    labels: Mapping[str, str]
    """Labels by the names of their columns."""
    last_flag_id: int
    """Rows up to this one count."""

    def column(self, name: str, sample_id: ColumnElement[Any]) -> ColumnElement[bool]:
        """Return whether a sample has a flag, never null.

        Args:
            name: Name of the flag's column.
            sample_id: The column that gives the sample.
        """
        return sample_id.in_(flagged_ids(self.labels[name], last_flag_id=self.last_flag_id))


NO_FLAGS = Flags({}, 0)


def flagged_ids(label: str, *, last_flag_id: int | None = None) -> Select[Any]:
    """Return the statement for the ids of the samples with a flag.

    Args:
        label: The label.
        last_flag_id: Rows up to this one count; None: all.
    """
    newest = select(func.max(SampleFlag.flag_id)).where(SampleFlag.label == label).group_by(SampleFlag.sample_id)
    if last_flag_id is not None:
        newest = newest.where(SampleFlag.flag_id <= last_flag_id)
    return select(SampleFlag.sample_id).where(SampleFlag.flag_id.in_(newest), SampleFlag.is_set)


def known_flags(connection: Connection, *, last_flag_id: int | None = None) -> Flags:
    """Return the flags that a condition can name: those of `LABELS`, and labels that people have used.

    Args:
        connection: The store.
        last_flag_id: Rows up to this one count; None: all.
    """
    used = connection.execute(select(SampleFlag.label).distinct()).scalars()
    newest = connection.execute(select(func.coalesce(func.max(SampleFlag.flag_id), 0))).scalar_one()
    labels = {f"{PREFIX}{label}": label for label in (*LABELS, *sorted(set(used) - set(LABELS)))}
    return Flags(labels, newest if last_flag_id is None else last_flag_id)


class FlagCounts(NamedTuple):
    """What became of the samples that somebody flagged."""

    n_changed: int
    n_same: int
    """Samples that had the flag, or that had none to undo."""


def set_flags(
    engine: Engine, sample_ids: Sequence[int], label: str, *, actor: str, comment: str | None = None, undo: bool = False
) -> FlagCounts:
    """Set a flag of samples, or undo it; a flag that is set already is set again only with another comment.

    Args:
        engine: The store.
        sample_ids: The samples, `MOST_SAMPLES` at most.
        label: The label.
        actor: The person.
        comment: Their comment.
        undo: Undo the flag, whoever set it; its history is kept.

    Raises:
        ConfigError: The label or the comment is not valid, there are too many samples, or one is not in the store.
    """
    label, wanted = as_label(label), sorted(set(sample_ids))
    comment = (comment or "").strip() or None
    _require_bounds(wanted, comment)
    with engine.begin() as connection:
        # Ids then ascend in the order of the commits, so that a snapshot's last id says which rows it has seen.
        take_lock(connection, "sample_flags")
        _require_known(connection, wanted)
        is_set = {row.sample_id: row.comment for row in _current(connection, wanted) if row.label == label}
        changed = [one for one in wanted if _is_change(is_set, one, comment, undo=undo)]
        if changed:
            row = {"label": label, "is_set": not undo, "comment": comment, "flagged_by": actor}
            connection.execute(insert(SampleFlag), [{"sample_id": sample_id, **row} for sample_id in changed])
            record_event(
                connection, actor, "unflag" if undo else "flag", f"{label} of {_named(changed)}",
                after={"sample_ids": changed, "label": label, "comment": comment},
            )  # fmt: skip
    return FlagCounts(len(changed), len(wanted) - len(changed))


def _is_change(is_set: Mapping[int, str | None], sample_id: int, comment: str | None, *, undo: bool) -> bool:
    if undo or sample_id not in is_set:
        return undo == (sample_id in is_set)
    return comment is not None and comment != is_set[sample_id]


def _named(sample_ids: Sequence[int]) -> str:
    return f"sample {sample_ids[0]}" if len(sample_ids) == 1 else f"{len(sample_ids):,} samples"


def _require_bounds(sample_ids: Sequence[int], comment: str | None) -> None:
    if not sample_ids:
        raise ConfigError("No sample is chosen. Choose at least one.")
    if len(sample_ids) > MOST_SAMPLES:
        raise ConfigError(f"{len(sample_ids):,} samples; the limit is {MOST_SAMPLES:,} at once.")
    if len(comment or "") > MOST_COMMENT:
        raise ConfigError(f"The comment has {len(comment or ''):,} characters; the limit is {MOST_COMMENT:,}.")


def _require_known(connection: Connection, sample_ids: Sequence[int]) -> None:
    known = set(connection.execute(select(Sample.sample_id).where(Sample.sample_id.in_(sample_ids))).scalars())
    if unknown := [sample_id for sample_id in sample_ids if sample_id not in known]:
        raise ConfigError(f"There is no sample {unknown[0]} in the store, so nothing was flagged.")


_CURRENT = text("""
    SELECT flag_id, sample_id, label, true AS is_set, comment, flagged_by, flagged_at FROM alchemist.current_flags
    WHERE sample_id = ANY(CAST(:sample_ids AS bigint[])) ORDER BY sample_id, label
""")


def _current(connection: Connection, sample_ids: Sequence[int]) -> list[Flag]:
    return [Flag._make(row) for row in connection.execute(_CURRENT, {"sample_ids": list(sample_ids)})]


def read_flags_of(engine: Engine, sample_ids: Sequence[int]) -> dict[int, list[Flag]]:
    """Return the flags of samples that are set now, by sample id; samples without one are absent."""
    found: dict[int, list[Flag]] = {}
    with engine.connect() as connection:
        for flag in _current(connection, sample_ids):
            found.setdefault(flag.sample_id, []).append(flag)
    return found


_COLUMNS = [getattr(SampleFlag, name) for name in Flag._fields]


def read_history(engine: Engine, sample_id: int) -> list[Flag]:
    """Return every row about a sample, the newest first: flags that were set, and those that were undone."""
    statement = select(*_COLUMNS).where(SampleFlag.sample_id == sample_id).order_by(SampleFlag.flag_id.desc())
    with engine.connect() as connection:
        return [Flag._make(row) for row in connection.execute(statement.limit(MOST_SAMPLES))]


class FlaggedSample(NamedTuple):
    """A sample with a flag that is set now."""

    sample_id: int
    label: str
    comment: str | None
    flagged_by: str
    flagged_at: datetime
    caption: str
    is_taken_down: bool


_FLAGGED = text("""
    SELECT
        current_flags.sample_id, label, comment, flagged_by, flagged_at, samples.caption,
        EXISTS(SELECT 1 FROM alchemist.takedowns WHERE takedowns.image_hash = samples.image_hash) AS is_taken_down
    FROM alchemist.current_flags INNER JOIN alchemist.samples ON current_flags.sample_id = samples.sample_id
    WHERE (CAST(:label AS text) IS NULL OR label = :label) AND (CAST(:flagged_by AS text) IS NULL OR flagged_by = :flagged_by)
    ORDER BY flag_id DESC LIMIT :n
""")


def list_flagged(
    engine: Engine, *, label: str | None = None, flagged_by: str | None = None, n: int
) -> list[FlaggedSample]:
    """Return the samples that are flagged now, the newest flag first.

    Args:
        engine: The store.
        label: Only this label; None: every one.
        flagged_by: Only flags of this person; None: of everybody.
        n: Most rows to return.
    """
    given = {"label": label, "flagged_by": flagged_by, "n": n}
    with engine.connect() as connection:
        return [FlaggedSample._make(row) for row in connection.execute(_FLAGGED, given)]


_HASHES = text("""
    SELECT DISTINCT samples.pair_hash FROM alchemist.current_flags
    INNER JOIN alchemist.samples ON current_flags.sample_id = samples.sample_id
    LEFT JOIN alchemist.takedowns ON samples.image_hash = takedowns.image_hash
    WHERE current_flags.label = ANY(CAST(:labels AS text[])) AND takedowns.image_hash IS NULL
    ORDER BY samples.pair_hash LIMIT :n
""")


def flagged_hashes(engine: Engine, labels: Collection[str], *, n: int) -> list[bytes]:
    """Return the pair hashes of samples with one of these flags, in their order, at most n; taken-down ones are absent."""
    with engine.connect() as connection:
        found = connection.execute(_HASHES, {"labels": sorted(labels), "n": n}).scalars()
        return [bytes(pair_hash) for pair_hash in found]


def count_flags_of_members(engine: Engine, subset_id: int) -> dict[str, int]:
    """Return how many members of a subset version have each flag now, by label; labels that none has are absent.

    Only members that are in the store are counted: of a version whose members are not, the result is empty.
    """
    statement = text("""
        SELECT label, count(*) AS n FROM alchemist.current_flags
        WHERE EXISTS (
            SELECT 1 FROM alchemist.subset_samples
            WHERE subset_samples.subset_id = :subset_id AND subset_samples.sample_id = current_flags.sample_id
        )
        GROUP BY label
    """)
    with engine.connect() as connection:
        return {row.label: row.n for row in connection.execute(statement, {"subset_id": subset_id})}
