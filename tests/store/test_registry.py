"""A dataset and a shard are registered once, even by concurrent runs."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Engine, text

from alchemist_core.errors import ConfigError
from alchemist_core.shards.faults import Reason, make_fault
from alchemist_core.store.checks import read_time
from alchemist_core.store.registry import (
    NewShard,
    await_shard,
    confirm_shard,
    count_shards,
    find_cut,
    find_dataset,
    forget_unread,
    known_shards,
    list_datasets,
    mark_unreadable,
    quarantined_in,
    register_dataset,
    register_shard,
    reject_shard,
    retire_shard,
    unreadable_shards,
)
from alchemist_core.store.samples import find_images
from tests.given import insert_rows, sha256
from tests.waiting import wait_until_blocked

pytestmark = pytest.mark.db


@pytest.mark.parametrize("role", ["train", "validation"])
def test_a_dataset_that_another_process_is_registering_is_found_once_it_has(engine: Engine, role: str) -> None:
    with ThreadPoolExecutor(1) as thread:
        with engine.begin() as other:
            other.execute(text("INSERT INTO alchemist.datasets (name, root_uri, role) VALUES ('web', '/a', 'train')"))
            second = thread.submit(register_dataset, engine, "web", root_uri="/a/", role=role)
            wait_until_blocked(other, second)
        if role == "train":
            assert second.result().root_uri == "/a"
        else:
            with pytest.raises(ConfigError, match="'web' is registered with role 'train', not 'validation'"):
                second.result()
    assert [row.name for row in list_datasets(engine)] == ["web"]


def test_a_shard_that_another_process_is_registering_is_left_to_it(engine: Engine) -> None:
    web = register_dataset(engine, "web", root_uri="/a", role="train")
    shard = NewShard(web.dataset_id, "a.tar", sha256("a"), 1, date(2026, 1, 1), run_id=1)
    with ThreadPoolExecutor(1) as thread:
        with engine.begin() as other:
            insert_rows(
                other,
                {"shards": [{"shard_id": 1, "dataset_id": web.dataset_id, "uri": "a.tar", "crawl_date": "2026-01-01"}]},
            )
            second = thread.submit(register_shard, engine, shard, [], [])
            wait_until_blocked(other, second)
        assert second.result() is None
    assert list(known_shards(engine, web.dataset_id)) == ["a.tar"]


DAY = date(2026, 1, 1)
STATES = ("registered", "verified", "missing", "changed", "rejected", "growing", "retired", "superseded")


@pytest.fixture
def web(engine: Engine) -> Engine:
    """A dataset with a shard in each state, numbered from 1 as in STATES."""
    reasons: dict[str, dict[str, Any]] = {"rejected": {"rejected_reason": "not_a_tar"}}
    shards = [
        {"shard_id": n, "dataset_id": 1, "crawl_date": DAY, "state": state, **reasons.get(state, {})}
        for n, state in enumerate(STATES, start=1)
    ]
    with engine.begin() as connection:
        insert_rows(connection, {"datasets": [{"dataset_id": 1, "name": "web"}], "shards": shards})
        connection.execute(text("ALTER TABLE alchemist.shards ALTER COLUMN shard_id RESTART WITH 100"))
    return engine


def states(engine: Engine) -> dict[int, str]:
    with engine.connect() as connection:
        found = connection.execute(text("SELECT shard_id, state FROM alchemist.shards ORDER BY 1"))
        return {row.shard_id: row.state for row in found}


def mark(engine: Engine, shard_id: int, state: str, reason: str) -> bool:
    with engine.begin() as connection:
        return mark_unreadable(connection, shard_id, state, reason)


def test_only_a_shard_whose_samples_are_registered_can_be_missing_or_confirmed(web: Engine) -> None:
    for shard_id in states(web):
        mark(web, shard_id, "missing", "no file")
    assert list(states(web).values()) == [
        "registered", "missing", "missing", "missing", "rejected", "growing", "retired", "superseded",
    ]  # fmt: skip
    for shard_id in states(web):
        confirm_shard(web, shard_id, datetime(2026, 1, 5, tzinfo=UTC), 10_240)
    assert list(states(web).values())[1:4] == ["verified"] * 3
    assert list(states(web).values())[4:] == ["rejected", "growing", "retired", "superseded"]
    with web.connect() as connection:
        row = connection.execute(text("SELECT * FROM alchemist.shards WHERE shard_id = 2")).one()
    assert row.state_reason is None
    assert (row.verified_at, row.size_bytes) == (datetime(2026, 1, 5, tzinfo=UTC), 10_240)


def test_a_restored_shard_keeps_the_time_of_its_restoration(web: Engine) -> None:
    def changed_at(shard_id: int) -> datetime | None:
        with web.connect() as connection:
            statement = text("SELECT state_changed_at FROM alchemist.shards WHERE shard_id = :id")
            return connection.execute(statement, {"id": shard_id}).scalar_one()

    mark(web, 2, "missing", "no file")
    missing_at = changed_at(2)
    confirm_shard(web, 2, datetime(2026, 1, 5, tzinfo=UTC), 10_240)
    restored_at = changed_at(2)
    assert missing_at is not None
    assert restored_at is not None
    assert missing_at < restored_at
    confirm_shard(web, 2, datetime(2026, 1, 6, tzinfo=UTC), 10_240)
    assert changed_at(2) == restored_at, "it was only read again"


def test_a_shard_is_newer_than_a_check_that_read_while_it_was_registered(engine: Engine) -> None:
    register(engine, "a.tar", pair(0, "cat"))
    with ThreadPoolExecutor(1) as thread:
        with engine.begin() as other:
            # The transaction of the second shard waits here for a sample of this one, and a check begins meanwhile.
            other.execute(text("SELECT 1 FROM alchemist.samples FOR UPDATE"))
            second = thread.submit(register, engine, "b.tar", pair(0, "cat"))
            wait_until_blocked(other, second)
            checked_at = read_time(engine)
        assert second.result() == 0
    with engine.connect() as connection:
        statement = text("SELECT created_at FROM alchemist.shards WHERE uri = 'b.tar'")
        assert connection.execute(statement).scalar_one() > checked_at


def test_what_is_missing_is_so_since_the_first_time_that_it_was_found(web: Engine) -> None:
    assert mark(web, 2, "missing", "first")
    before = known_shards(web, 1)["000002.tar"]
    assert not mark(web, 2, "missing", "second"), "it already was"
    assert known_shards(web, 1)["000002.tar"] == before
    assert before.reason == "first"
    assert mark(web, 2, "changed", "third")
    assert known_shards(web, 1)["000002.tar"].reason == "third"


def test_known_are_all_but_the_superseded_shards_of_the_dataset(web: Engine) -> None:
    with web.begin() as connection:
        insert_rows(connection, {
            "datasets": [{"dataset_id": 2, "name": "books"}], "shards": [{"shard_id": 20, "dataset_id": 2, "crawl_date": DAY}],
        })  # fmt: skip
    known = known_shards(web, 1)
    assert [shard.state for _, shard in sorted(known.items())] == list(STATES[:-1])
    assert known["000005.tar"].reason == "not_a_tar"
    assert count_shards(web, dataset="web") == dict.fromkeys(STATES, 1)
    assert count_shards(web) == dict.fromkeys(STATES, 1) | {"verified": 2}


def test_only_what_was_never_registered_is_forgotten(web: Engine) -> None:
    forget_unread(web, list(states(web)))
    assert list(states(web).values()) == [state for state in STATES if state not in ("rejected", "growing")]


def test_retirements_are_numbered_and_each_shard_leaves_once(web: Engine) -> None:
    with web.begin() as connection:
        assert retire_shard(connection, 2, reason="a")
        assert not retire_shard(connection, 2, reason="again")
        assert retire_shard(connection, 5, state="superseded", reason="b")
        assert not retire_shard(connection, 8, reason="it was superseded")
        # A retired shard can still be superseded; its retirement_id stays.
        assert retire_shard(connection, 2, state="superseded", reason="c")
        found = connection.execute(
            text("SELECT shard_id, state, retirement_id, rejected_reason FROM alchemist.shards WHERE shard_id IN (2, 5) ORDER BY 1")
        )  # fmt: skip
        assert [tuple(row) for row in found] == [(2, "superseded", 1, None), (5, "superseded", 2, None)]


def test_two_retirements_at_once_get_numbers_in_the_order_of_their_commits(web: Engine) -> None:
    def retire() -> bool:
        with web.begin() as connection:
            return retire_shard(connection, 3, reason="b")

    with ThreadPoolExecutor(1) as thread:
        with web.begin() as first:
            retire_shard(first, 2, reason="a")
            second = thread.submit(retire)
            wait_until_blocked(first, second)
        assert second.result()
    with web.connect() as connection:
        numbers = connection.execute(
            text("SELECT retirement_id FROM alchemist.shards WHERE shard_id IN (2, 3) ORDER BY 1")
        )
        assert numbers.scalars().all() == [1, 2]


def test_what_cannot_be_read_and_was_not_scored_is_named_by_dataset_and_address(web: Engine) -> None:
    with web.begin() as connection:
        insert_rows(connection, {
            "datasets": [{"dataset_id": 2, "name": "books"}],
            "raters": [{"rater_id": 1, "name": "r"}, {"rater_id": 2, "name": "s"}],
            "shards": [
                {"shard_id": 20, "dataset_id": 2, "crawl_date": "2026-01-02", "state": "changed"},
                {"shard_id": 21, "dataset_id": 1, "crawl_date": DAY, "state": "missing"},
            ],
            "nights": [{"night_id": 1, "dataset_id": 1, "crawl_date": DAY, "rater_id": 1}],
            "shard_scores": [{"rater_id": 1, "shard_id": 21, "night_id": 1, "n_scored": 0}],
        })  # fmt: skip

        def named(rater_id: int, day: date | None, *dataset_ids: int) -> list[int]:
            return [row.shard_id for row in unreadable_shards(connection, dataset_ids, day, rater_id=rater_id)]

        assert named(1, None, 1, 2) == [20, 3, 4]
        assert named(2, None, 1) == [3, 4, 21]
        assert named(1, DAY, 1, 2) == [3, 4]


def pair(
    ordinal: int, word: str, *, repair: str | None = None, url: str | None = "https://a.example", licence: str | None = "CC0",
    metadata: str = '{"likes": 3}',
) -> Any:  # fmt: skip
    member = SimpleNamespace(ext="jpg", offset=512, size=9)
    return SimpleNamespace(
        record=SimpleNamespace(ordinal=ordinal, key=f"k{ordinal}", files=(member,)), image_hash=sha256(f"i{word}"),
        caption_hash=sha256(f"c{word}"), pair_hash=sha256(word), caption=word, width=4, height=3, format="JPEG",
        perceptual_hash=7, attributes={"source_url": url, "licence": licence},
        metadata=metadata, content_hash=sha256("x"), content_checksum=bytes(16),
        repair=repair,
    )  # fmt: skip


def test_a_shard_is_registered_with_all_its_records(engine: Engine) -> None:
    web = register_dataset(engine, "web", root_uri="/a", role="train")
    shard = NewShard(web.dataset_id, "a.tar", sha256("a"), 77, DAY, run_id=5)
    faults = [make_fault(2, "k2", Reason.TRUNCATED_TAR, "cut")]
    assert (
        register_shard(
            engine, shard, [pair(0, "cat"), pair(1, "dog", repair="trailing_bytes")], faults, imported=["likes"]
        )
        == 2
    )
    again = NewShard(web.dataset_id, "b.tar", sha256("b"), 77, DAY, run_id=5)
    assert register_shard(engine, again, [pair(0, "dog"), pair(1, "dog"), pair(2, "emu")], []) == 1
    with engine.connect() as connection:
        row = connection.execute(text("SELECT * FROM alchemist.shards WHERE uri = 'a.tar'")).one()
        assert (row.state, row.n_samples, row.n_repaired, row.size_bytes, row.run_id) == ("verified", 3, 1, 77, 5)
        assert row.verified_at is not None
        bad = connection.execute(text("SELECT * FROM alchemist.quarantined_samples")).one()
        assert (bad.shard_id, bad.ordinal, bad.stage, bad.rater_id, bad.run_id) == (row.shard_id, 2, "ingest", None, 5)
        sample = connection.execute(text("SELECT * FROM alchemist.samples WHERE caption = 'cat'")).one()
        assert (sample.width, sample.height, sample.perceptual_hash, sample.licence) == (4, 3, 7, "CC0")
        assert (sample.source_url, sample.metadata) == ("https://a.example", {"likes": 3})
        place = connection.execute(
            text("SELECT * FROM alchemist.sample_locations WHERE key = 'k1' AND repair IS NOT NULL")
        ).one()
        assert (place.file_exts, place.file_offsets, place.file_sizes) == (["jpg"], [512], [9])
        imported = connection.execute(text("SELECT imported FROM alchemist.heuristic_scores")).scalars().all()
        assert imported == [{"likes": 3}] * 2
    assert find_cut(engine, [row.shard_id + 1, row.shard_id]) == {row.shard_id}
    assert find_cut(engine, [row.shard_id + 1]) == set()
    assert [(bad.key, bad.detail) for bad in quarantined_in(engine, row.shard_id, limit=5)] == [("k2", "cut")]
    assert quarantined_in(engine, row.shard_id, limit=0) == []


def register(engine: Engine, name: str, *pairs: Any) -> int | None:
    web = register_dataset(engine, "web", root_uri="/a", role="train")
    return register_shard(engine, NewShard(web.dataset_id, name, sha256(name), 77, DAY, run_id=5), pairs, [])


def attributes(engine: Engine) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        statement = text("SELECT source_url, licence, metadata FROM alchemist.samples ORDER BY caption")
        return [tuple(row) for row in connection.execute(statement)]


def test_an_image_is_found_by_each_url_that_a_crawl_gave_it(engine: Engine) -> None:
    # Longer than an entry of an index may be, even compressed.
    long_url = "https://c.example/" + "".join(sha256(n).hex() for n in range(200))
    register(engine, "a.tar", pair(0, "cat"), pair(1, "cat", url="https://twin.example"), pair(2, "dog"))
    assert register(engine, "b.tar", pair(0, "cat", url="https://b.example"), pair(1, "cat", url=long_url)) == 0
    register(engine, "c.tar", pair(0, "cat", url="https://b.example"), pair(1, "cat", url=None), pair(2, "cat"))
    for url in ("https://b.example", "https://twin.example", long_url):
        assert find_images(engine, url=url) == [sha256("icat")], url
    assert find_images(engine, url="https://a.example") == sorted([sha256("icat"), sha256("idog")])
    assert attributes(engine)[0] == ("https://a.example", "CC0", {"likes": 3}), "the first crawl decides"
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM alchemist.sample_urls")).scalar_one() == 3


def test_a_later_crawl_fills_what_the_first_one_did_not_give(engine: Engine) -> None:
    bare: dict[str, Any] = {"url": None, "licence": None, "metadata": "{}"}
    register(
        engine, "a.tar", pair(0, "cat", **bare), pair(1, "dog", **bare | {"licence": "MIT"}), pair(2, "emu", **bare)
    )
    register(
        engine, "b.tar", pair(0, "cat", **bare), pair(1, "cat"), pair(2, "cat", url="https://b.example"), pair(3, "dog")
    )
    filled = ("https://a.example", "CC0", {"likes": 3})
    assert attributes(engine) == [filled, (filled[0], "MIT", filled[2]), (None, None, {})]
    assert find_images(engine, url="https://b.example") == [sha256("icat")]


def test_two_ingests_of_the_same_samples_wait_for_each_other_in_one_order(engine: Engine) -> None:
    words = [f"w{n}" for n in range(60)]
    register(engine, "a.tar", *(pair(n, word, url=None) for n, word in enumerate(words)))
    middle = sorted(sha256(word) for word in words)[30]
    given = {
        name: [pair(n, word, url=f"https://{name}.example/{word}") for n, word in enumerate(order)]
        for name, order in {"b": words, "c": words[::-1]}.items()
    }
    with ThreadPoolExecutor(2) as threads:
        with engine.begin() as other:
            # Both stop in the middle of their samples, with what they have locked before.
            other.execute(text("SELECT 1 FROM alchemist.samples WHERE pair_hash = :h FOR NO KEY UPDATE"), {"h": middle})
            done = [threads.submit(register, engine, f"{name}.tar", *pairs) for name, pairs in given.items()]
            wait_until_blocked(other, *done)
        assert [one.result() for one in done] == [0, 0]
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM alchemist.sample_urls")).scalar_one() == len(words)


def test_a_revision_takes_the_place_of_the_shard_under_its_address(web: Engine) -> None:
    shard = NewShard(1, "000002.tar", sha256("new"), 1, DAY, run_id=1)
    assert register_shard(web, shard, [pair(0, "cat")], [], supersedes=2) == 1
    assert states(web)[2] == "superseded"
    assert known_shards(web, 1)["000002.tar"].sha256 == sha256("new")


def test_an_upload_or_what_is_not_a_tar_is_replaced_by_a_later_file(web: Engine) -> None:
    at = datetime(2026, 1, 5, tzinfo=UTC)
    for uri in ("000005.tar", "000006.tar"):
        await_shard(web, NewShard(1, uri, sha256("u"), 1, DAY, run_id=1, verified_at=at), "begun")
        assert (known_shards(web, 1)[uri].state, known_shards(web, 1)[uri].reason) == ("growing", "begun")
        reject_shard(web, NewShard(1, uri, sha256("u"), 1, DAY, run_id=1, verified_at=at), "not_a_tar")
        known = known_shards(web, 1)[uri]
        # Nobody has verified what is no tar.
        assert (known.state, known.reason, known.verified_at) == ("rejected", "not_a_tar", None)
    assert len(states(web)) == len(STATES)
    reject_shard(web, NewShard(1, "000002.tar", sha256("u"), 1, DAY, run_id=1), "not_a_tar")
    assert states(web)[2] == "verified"


def test_a_dataset_that_was_removed_is_named_with_its_reason_and_not_listed(web: Engine) -> None:
    with web.begin() as connection:
        insert_rows(connection, {"datasets": [
            {"dataset_id": 3, "name": "gone", "removed_at": "2026-01-05", "removed_reason": "asked"},
            {"dataset_id": 4, "name": "a", "role": "validation"},
        ]})  # fmt: skip
    assert [row.name for row in list_datasets(web)] == ["a", "web"]
    assert [row.name for row in list_datasets(web, role="train")] == ["web"]
    for ask in (lambda: find_dataset(web, "gone"), lambda: register_dataset(web, "gone", root_uri="/g", role="train")):
        with pytest.raises(ConfigError, match=r"'gone' was removed on 2026-01-05 \(asked\)"):
            ask()
    with pytest.raises(ConfigError, match=r"'b' is not registered \(registered: a, web\)"):
        find_dataset(web, "b")


def test_a_root_moves_only_when_that_is_asked_for_and_the_audit_log_reports_it(web: Engine) -> None:
    assert register_dataset(web, "web", root_uri="/data/web/", role="train").root_uri == "/data/web"
    assert register_dataset(web, "web", root_uri=None, role="train").root_uri == "/data/web"
    with pytest.raises(ConfigError, match="--move-root"):
        register_dataset(web, "web", root_uri="/other", role="train")
    assert register_dataset(web, "web", root_uri="/other", role="train", move_root=True).root_uri == "/other"
    assert find_dataset(web, "web").root_uri == "/other"
    with web.connect() as connection:
        (event,) = connection.execute(text("SELECT action, subject, before, after FROM alchemist.audit_events")).all()
    assert tuple(event) == ("move_root", "dataset web", {"root_uri": "/data/web"}, {"root_uri": "/other"})
