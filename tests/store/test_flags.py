"""Flags: the newest row of a sample and a label decides, a condition names them, and a snapshot reads them as they were."""

import numpy as np
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from alchemist_core.errors import ConfigError
from alchemist_core.selection.config import EligibleOptions
from alchemist_core.store.embeddings import read_matching
from alchemist_core.store.flags import (
    MOST_SAMPLES,
    FlagCounts,
    as_label,
    list_flagged,
    read_flags_of,
    read_history,
    set_flags,
)
from alchemist_core.store.snapshots import reload_snapshot
from tests.selectable_store import change, fill
from tests.store.test_snapshots import same, take

pytestmark = pytest.mark.db
IDS = np.arange(10, 14)


@pytest.fixture
def store(engine: Engine) -> Engine:
    fill(engine)
    return engine


def set_labels(engine: Engine, sample_id: int) -> set[str]:
    return {flag.label for flag in read_flags_of(engine, [sample_id]).get(sample_id, [])}


def test_a_flag_is_set_once_and_undone_with_its_history(store: Engine) -> None:
    assert set_flags(store, [10, 11, 11], "bad", actor="ann", comment="blurred") == FlagCounts(2, 0)
    assert set_flags(store, [10, 12], "Bad", actor="bob") == FlagCounts(1, 1)
    assert set_flags(store, [10], "good", actor="bob") == FlagCounts(1, 0)
    assert set_labels(store, 10) == {"bad", "good"}
    assert set_flags(store, [10, 13], "bad", actor="bob", undo=True) == FlagCounts(1, 1)
    assert set_labels(store, 10) == {"good"}
    history = [(row.label, row.is_set, row.comment, row.flagged_by) for row in read_history(store, 10)]
    assert history == [("bad", False, None, "bob"), ("good", True, None, "bob"), ("bad", True, "blurred", "ann")]
    assert [row.sample_id for row in list_flagged(store, label="good", n=9)] == [10]
    assert [(row.sample_id, row.flagged_by) for row in list_flagged(store, label="bad", n=9)] == [
        (12, "bob"),
        (11, "ann"),
    ]
    with store.connect() as connection:
        events = connection.execute(text("SELECT actor, action, subject FROM alchemist.audit_events ORDER BY 1, 2, 3"))
        assert [tuple(event) for event in events] == [
            ("ann", "flag", "bad of 2 samples"), ("bob", "flag", "bad of sample 12"), ("bob", "flag", "good of sample 10"),
            ("bob", "unflag", "bad of sample 10"),
        ]  # fmt: skip


def test_another_comment_is_stored(store: Engine) -> None:
    set_flags(store, [10], "bad", actor="ann")
    assert set_flags(store, [10], "bad", actor="bob", comment="cut off") == FlagCounts(1, 0)
    assert set_flags(store, [10], "bad", actor="bob", comment=" cut off ") == FlagCounts(0, 1)
    (flag,) = read_flags_of(store, [10])[10]
    assert (flag.comment, flag.flagged_by) == ("cut off", "bob")


@pytest.mark.parametrize(
    ("sample_ids", "label", "comment", "words"),
    [
        ([10], "9 lives", None, "is not a valid label"),
        ([10], "x" * 41, None, "is not a valid label"),
        ([10], "bad'; DROP", None, "is not a valid label"),
        ([], "bad", None, "No sample is chosen"),
        ([10, 999_999], "bad", None, "There is no sample 999999"),
        (range(MOST_SAMPLES + 1), "bad", None, "the limit is 1,000"),
        ([10], "bad", "x" * 2001, "the limit is 2,000"),
    ],
)
def test_what_cannot_be_stored_is_refused_whole(
    store: Engine, sample_ids: list[int], label: str, comment: str | None, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        set_flags(store, sample_ids, label, actor="ann", comment=comment)
    assert list_flagged(store, n=9) == []


def test_a_label_is_written_as_conditions_name_it() -> None:
    assert [as_label(given) for given in (" Wrong caption", "too-dark", "bad")] == ["wrong_caption", "too_dark", "bad"]


@pytest.mark.parametrize(
    "statement", ["UPDATE alchemist.sample_flags SET label = 'good'", "DELETE FROM alchemist.sample_flags"]
)
def test_flags_are_append_only(store: Engine, statement: str) -> None:
    set_flags(store, [10], "bad", actor="ann")
    with pytest.raises(DBAPIError, match="append-only"):
        change(store, statement)


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("flagged_bad", {10, 11}),
        ("flagged_bad and not flagged_good", {10}),
        ("FLAGGED_BAD = false and sample_id between 10 and 13", {12, 13}),
        ("flagged_too_dark or flagged_wrong_caption", {13}),
        ("flagged_unsafe", set()),
    ],
)
def test_a_condition_names_flags(store: Engine, where: str, found: set[int]) -> None:
    set_flags(store, [10, 11, 12], "bad", actor="ann")
    set_flags(store, [12], "bad", actor="ann", undo=True)
    set_flags(store, [11], "good", actor="ann")
    set_flags(store, [13], "too dark", actor="ann")
    assert set(IDS[read_matching(store, where, IDS)].tolist()) == found


def test_a_label_that_nobody_used_is_no_column(store: Engine) -> None:
    with pytest.raises(ConfigError, match="there is no column 'flagged_odd'"):
        read_matching(store, "flagged_odd", IDS)
    with pytest.raises(ConfigError, match="expected a number, found true or false"):
        read_matching(store, "flagged_bad + 1 > 0", IDS)


def test_a_snapshot_reads_the_flags_as_they_were(store: Engine) -> None:
    set_flags(store, [10, 11], "bad", actor="ann")
    options = EligibleOptions(where="not flagged_bad")
    first, all_ = take(store, options=options), take(store)
    assert first.n_eligible == all_.n_eligible - 2
    set_flags(store, [12], "bad", actor="ann")
    set_flags(store, [10], "bad", actor="ann", undo=True)
    later = take(store, options=options)
    assert first.snapshot_id is not None
    assert same(reload_snapshot(store, first.snapshot_id), first)
    assert later.snapshot_id != first.snapshot_id
    assert later.eligible_hash != first.eligible_hash
    # Selections that name no flag do not depend on them.
    assert take(store).snapshot_id == all_.snapshot_id


def test_a_snapshot_from_before_the_first_flag_has_none(store: Engine) -> None:
    options = EligibleOptions(where="sample_id <> 20 and not flagged_bad")
    first = take(store, options=options)
    set_flags(store, [10], "bad", actor="ann")
    assert first.snapshot_id is not None
    assert same(reload_snapshot(store, first.snapshot_id), first)
