"""Decoding in worker processes gives the result of decoding in place, even if workers die."""

import fcntl
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from alchemist_core.errors import AlchemistError, ChangedShardError, MissingShardError
from alchemist_core.shards.decoding import TASK_IMAGES, DecodeTask, InlineDecoders, ProcessDecoders, open_decoders
from alchemist_core.shards.images import decode_image
from alchemist_core.shards.workers import WorkerDiedError, Workers
from tests.shards.conftest import draw_image
from tests.shards.deadly import CutTask, DieTask, KillerTask, SleepTask, UnreadableTask

SIDE = 8


def write_pictures(path: Path, pictures: list[bytes]) -> DecodeTask:
    """One file of concatenated images, and the task that decodes them all."""
    ranges, offset = [], 0
    for picture in pictures:
        ranges.append((offset, len(picture)))
        offset += len(picture)
    path.write_bytes(b"".join(pictures))
    hashes = [hashlib.sha256(picture).digest() for picture in pictures]
    return DecodeTask(str(path), ranges, hashes, SIDE, [True] * len(pictures))


@pytest.fixture
def pictures() -> list[bytes]:
    return [draw_image(seed, kind="JPEG", size=(40, 30)) for seed in range(20)]


@pytest.fixture
def task(tmp_path: Path, pictures: list[bytes]) -> DecodeTask:
    return write_pictures(tmp_path / "pictures", pictures)


@pytest.fixture
def decoders() -> Iterator[ProcessDecoders]:
    made = ProcessDecoders(2, SIDE)
    yield made
    made.close()


def collect(decoders: ProcessDecoders | InlineDecoders, tasks: list[DecodeTask]) -> dict[tuple[int, int], tuple]:
    """All results by task and index: pixels, measures, fault."""
    found: dict[tuple[int, int], tuple] = {}

    def take() -> None:
        for part in decoders.wait():
            for at in range(len(part.image_BHWC)):
                place = (part.ticket, part.first + at)
                assert place not in found, "a picture came back twice"
                measure_BM = part.decoded.measure_BM
                measures = None if measure_BM is None else measure_BM[at].tolist()
                found[place] = (part.image_BHWC[at].tolist(), measures, part.decoded.faults.get(at))

    for number, task in enumerate(tasks):
        while not decoders.has_room():
            take()
        decoders.submit(task, number)
    while not decoders.is_idle():
        take()
    return found


def test_workers_give_what_the_process_itself_gives(decoders: ProcessDecoders, task: DecodeTask) -> None:
    tasks = [replace(task, is_measured_B=[number % 2 == 0] * 20) for number in range(9)]
    found = collect(decoders, tasks)
    assert len(found) == 9 * 20
    assert found == collect(InlineDecoders(SIDE), tasks)


def test_pixels_are_those_of_decode_image(task: DecodeTask, pictures: list[bytes]) -> None:
    found = collect(InlineDecoders(SIDE), [task])
    assert [found[0, at][0] for at in range(20)] == [decode_image(data, SIDE).tolist() for data in pictures]


def test_a_broken_image_is_one_fault_and_changes_nothing_beside_it(tmp_path: Path, pictures: list[bytes]) -> None:
    whole = collect(InlineDecoders(SIDE), [write_pictures(tmp_path / "whole", pictures)])
    cut = [*pictures[:7], pictures[7][:300], *pictures[8:]]
    found = collect(InlineDecoders(SIDE), [write_pictures(tmp_path / "cut", cut)])
    assert found[0, 7][2] is not None
    assert {place: value for place, value in found.items() if place != (0, 7)} == {
        place: value for place, value in whole.items() if place != (0, 7)
    }


@pytest.mark.parametrize("n_workers", [0, 1])
def test_a_shard_that_changed_or_is_gone_comes_with_its_error_beside_the_others(
    task: DecodeTask, n_workers: int
) -> None:
    changed = replace(task, image_hash_B=[*task.image_hash_B[:-1], bytes(32)])
    tasks = [changed, replace(task, uri="/absent.tar"), task]
    decoders, parts = open_decoders(n_workers, SIDE), {}
    try:
        for number, one in enumerate(tasks):
            decoders.submit(one, number)
        while not decoders.is_idle():
            parts |= {part.ticket: (type(part.error), str(part.error), part.n_images) for part in decoders.wait()}
    finally:
        decoders.close()
    assert [parts[number][0] for number in range(3)] == [ChangedShardError, MissingShardError, type(None)]
    assert "not the tar that was registered" in parts[0][1]
    assert "absent.tar" in parts[1][1]
    assert {n_images for *_, n_images in parts.values()} == {len(task.ranges)}


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_killed_workers_are_replaced_and_nothing_is_lost_or_doubled(
    decoders: ProcessDecoders, task: DecodeTask, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    expected, found = collect(InlineDecoders(SIDE), [task] * 30), {}
    submit = decoders.submit

    def submit_and_kill(task: DecodeTask, ticket: object) -> None:
        submit(task, ticket)
        if rng.random() < 0.2:
            decoders.await_ready()
            os.kill(int(rng.choice(decoders.pids)), signal.SIGKILL)

    decoders.submit = submit_and_kill  # type: ignore[method-assign]
    found = collect(decoders, [task] * 30)
    assert found.keys() == expected.keys()
    # An image that was alone in a worker when that one was killed too may be blamed for it; none is lost without a reason.
    differing = [place for place in found if found[place] != expected[place]]
    assert all(found[place][2] is not None and found[place][2][0] == "decoder_died" for place in differing)
    assert len(differing) <= 3


def test_an_image_that_kills_its_decoder_is_quarantined_and_its_neighbours_are_decoded(task: DecodeTask) -> None:
    decoders = ProcessDecoders(1, SIDE)
    try:
        found = collect(decoders, [task, KillerTask(*vars_of(task), deadly_hash=task.image_hash_B[5]), task])
    finally:
        decoders.close()
    assert found[1, 5][2][0] == "decoder_died"
    assert sum(value[2] is not None for value in found.values()) == 1
    assert all(found[1, at] == found[0, at] == found[2, at] for at in range(20) if at != 5)


def vars_of(task: DecodeTask) -> tuple:
    return (task.uri, task.ranges, task.image_hash_B, task.side, task.is_measured_B)


def test_a_worker_that_cannot_start_is_an_error_and_not_a_loop() -> None:
    with Workers(1, module="no_such_module") as workers, pytest.raises(AlchemistError, match="while it started"):
        workers.await_ready()


def test_of_a_dead_worker_s_tasks_one_was_begun() -> None:
    with Workers(1, module=DieTask.__module__) as workers:
        for number in range(3):
            workers.submit(DieTask(), number)
        ended = []
        while len(ended) < 3:
            ended += list(workers.wait())
    assert [done.ticket for done in ended] == [0, 1, 2]
    errors = [done.error for done in ended]
    assert all(isinstance(error, WorkerDiedError) for error in errors)
    assert [error.is_begun for error in errors if isinstance(error, WorkerDiedError)] == [True, False, False]


@pytest.mark.slow
def test_a_worker_that_dies_in_the_middle_of_its_answer_is_replaced_too() -> None:
    with Workers(1, module=CutTask.__module__) as workers:
        workers.submit(CutTask(), 0)
        workers.submit(SleepTask(0.01), 1)
        ended = []
        while len(ended) < 2:
            ended += list(workers.wait())
        errors = [done.error for done in ended]
        assert [error.is_begun for error in errors if isinstance(error, WorkerDiedError)] == [True, False]
        workers.submit(SleepTask(0.01), 2)
        while not (again := list(workers.wait())):
            pass
    assert (again[0].ticket, again[0].error) == (2, None)


def test_a_task_that_a_worker_cannot_read_comes_back_as_an_error_and_the_next_is_worked_on() -> None:
    with Workers(1, module=DieTask.__module__) as workers:
        workers.submit(UnreadableTask(), 0)
        workers.submit(SleepTask(0.01), 1)
        ended = []
        while len(ended) < 2:
            ended += list(workers.wait())
    assert isinstance(ended[0].error, ValueError)
    assert ended[1].error is None


def test_workers_end_when_their_parent_is_killed() -> None:
    code = (
        "from alchemist_core.shards.workers import Workers; from tests.shards.deadly import SleepTask; import time\n"
        "w = Workers(2, module='tests.shards.deadly'); w.await_ready(); w.submit(SleepTask(0.5), 0)\n"
        "print(*w.pids, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 20
    while any(is_running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(pids) == 2
    assert not any(is_running(pid) for pid in pids)


def test_a_lock_that_workers_inherit_is_held_until_the_last_of_them_has_exited(tmp_path: Path) -> None:
    """A worker is in the middle of a task when its parent is killed; three tasks keep it from noticing that at once."""
    code = (
        "from alchemist_core.shards.workers import Workers; from tests.shards.deadly import SleepTask; import fcntl, os, time\n"
        f"lock = os.open({str(tmp_path)!r}, os.O_RDONLY); fcntl.flock(lock, fcntl.LOCK_EX)\n"
        "w = Workers(1, module='tests.shards.deadly', keep_open=(lock,)); w.await_ready()\n"
        "for n in range(3): w.submit(SleepTask(1.0), n)\n"
        "print(*w.pids, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    (pid,) = [int(pid) for pid in parent.stdout.readline().split()]
    time.sleep(0.3)
    parent.kill()
    parent.wait()
    assert is_running(pid)
    lock = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    assert not is_running(pid)
    os.close(lock)
    parent.communicate()


def test_a_worker_exits_in_the_middle_of_a_task_when_its_parent_is_killed() -> None:
    code = (
        "from alchemist_core.shards.workers import Workers; from tests.shards.deadly import SleepTask; import time\n"
        "w = Workers(1, module='tests.shards.deadly'); w.await_ready(); w.submit(SleepTask(300), 0); w.submit(SleepTask(300), 1)\n"
        "print(*w.pids, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    (pid,) = [int(pid) for pid in parent.stdout.readline().split()]
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 20
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(pid)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_a_worker_s_memory_stays_bounded(tmp_path: Path) -> None:
    """1,000 images of a megapixel: far more bytes and pixels than a worker may hold at a time."""
    large = [draw_image(seed, kind="JPEG", size=(1000, 1000)) for seed in range(4)]
    task = write_pictures(tmp_path / "large", large * 4)
    decoders = ProcessDecoders(1, SIDE)
    try:
        collect(decoders, [task] * 3)
        settled = resident_bytes(decoders.pids[0])
        collect(decoders, [task] * 20)
        assert resident_bytes(decoders.pids[0]) < settled + (32 << 20)
        assert settled < 400 << 20
    finally:
        decoders.close()


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_slow_worker_is_given_no_more_than_it_has_places(task: DecodeTask) -> None:
    with Workers(1, module=SleepTask.__module__) as workers:
        n_given = 0
        while workers.has_room():
            workers.submit(SleepTask(0.05), n_given)
            n_given += 1
        assert n_given == 3
        assert TASK_IMAGES * n_given < 1000
