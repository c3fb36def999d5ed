"""Versions of a subset: listed, shown, compared, published and rolled back."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine, text

from alchemist_core.__main__ import main
from alchemist_core.cli.export import ExportSubsetConfig
from alchemist_core.cli.export import subset as export_subset
from alchemist_core.cli.sample import TakedownConfig, takedown
from alchemist_core.cli.shard import ChangeConfig, retire
from alchemist_core.cli.subset import DiffSubsetConfig, DiffSubsetResult, RollbackSubsetConfig, diff, rollback
from alchemist_core.errors import ConfigError
from alchemist_core.store.registry import find_shards
from alchemist_core.store.subsets import choose_version
from tests.drawn_versions import N_PAIRS, NAME, current, grow, members, run_publish, select
from tests.scored_nights import add_dataset, add_night

pytestmark = pytest.mark.db


def compare(**fields: int) -> DiffSubsetResult:
    return diff(DiffSubsetConfig.model_validate({"name": NAME, **fields}))


def adds_up(engine: Engine, report: DiffSubsetResult, one: int, other: int) -> bool:
    before, after = members(engine, one), members(engine, other)
    return (report.n_before, report.n_after) == (len(before), len(after)) and (
        sum(report.leavers.values()),
        sum(report.joiners.values()),
        report.n_both,
    ) == (len(before - after), len(after - before), len(before & after))


def test_a_pool_that_grows_on_the_same_scale_loses_members_to_better_keys_alone(pool: Engine) -> None:
    select()
    grow(pool, "2026-01-02", N_PAIRS // 10)
    select()
    report = compare()
    assert set(report.leavers) <= {"better key"}
    assert set(report.joiners) <= {"new pair", "k grew", "better key"}
    assert report.joiners["new pair"] > 0
    assert adds_up(pool, report, 1, 2)


def test_a_takedown_is_named_among_the_leavers(pool: Engine) -> None:
    select()
    grow(pool, "2026-01-02", N_PAIRS // 10)
    gone = min(members(pool, 1))
    with pool.connect() as connection:
        image = connection.execute(
            text("SELECT image_hash FROM alchemist.samples WHERE pair_hash = :h"), {"h": gone}
        ).scalar_one()
    takedown(TakedownConfig(image_hash=bytes(image).hex(), reason="asked for by its author"))
    select()
    report = compare()
    assert report.leavers["taken down"] == 1
    assert set(report.leavers) <= {"better key", "taken down"}
    assert adds_up(pool, report, 1, 2)


def test_samples_of_a_retired_shard_left_because_of_it(pool: Engine) -> None:
    grow(pool, "2026-01-02", N_PAIRS)
    select()
    (shard,) = find_shards(pool, subject="2026-01-02/0.tar")
    retire(ChangeConfig(shard=str(shard.shard_id), reason="its licence was withdrawn"))
    select()
    report = compare()
    assert report.leavers["retired"] > 0
    assert "eligible" not in report.leavers
    assert "its shard was retired or replaced" in report.summary()
    assert adds_up(pool, report, 1, 2)


def test_on_a_new_scale_ranks_have_moved_and_the_parts_still_add_up(pool: Engine) -> None:
    select()
    grow(pool, "2026-01-02", N_PAIRS // 10, shift=2.0)
    select(rescale=True)
    report = compare()
    assert report.leavers["rank moved"] > 0
    assert adds_up(pool, report, 1, 2)


def test_another_retention_changes_k_alone_and_another_seed_selects_anew(pool: Engine) -> None:
    select()
    select(retention=0.3)
    select(retention=0.3, seed=5)
    grown = compare(from_=1, to=2)
    assert (grown.leavers, grown.joiners) == ({}, {"k grew": 200})
    assert compare(from_=2, to=1).leavers == {"k shrank": 200}
    anew = compare()
    assert (set(anew.leavers), set(anew.joiners)) == ({"drawn anew"}, {"drawn anew"})
    assert adds_up(pool, anew, 2, 3)


def take_one_down(engine: Engine) -> None:
    image = "SELECT image_hash FROM alchemist.samples WHERE pair_hash = :h"
    with engine.connect() as connection:
        found = connection.execute(text(image), {"h": min(members(engine, 1))}).scalar_one()
    takedown(TakedownConfig(image_hash=bytes(found).hex(), reason="asked for by its author"))


def hold_the_last_night(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE alchemist.nights SET state = 'held', reason = 'drift' WHERE crawl_date = '2026-01-02'")
        )


CHANGES: dict[str, Callable[[Engine], object]] = {
    "taken down": take_one_down,
    "held": hold_the_last_night,
    "new pair": lambda engine: grow(engine, "2026-01-03", 300, shift=0.5),
}
POLICIES = ({"retention": 0.3}, {"seed": 3}, {"max_share": 0.6, "max_share_of": "dataset"}, {"stratify": True})


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 6))])
def test_the_parts_add_up_whatever_happened_between_two_versions(pool: Engine, seed: int) -> None:
    rng = random.Random(seed)
    add_dataset_of(pool, "other", 500)
    grow(pool, "2026-01-02", 400)
    select(dataset="web,other")
    happened = rng.sample(sorted(CHANGES), rng.randint(1, 3))
    for name in happened:
        CHANGES[name](pool)
    policy = {name: value for one in rng.sample(POLICIES, rng.randint(0, 2)) for name, value in one.items()}
    select(dataset="web,other", rescale=rng.random() < 0.5, **policy)
    for one, other in ((1, 2), (2, 1)):
        report = compare(from_=one, to=other)
        assert adds_up(pool, report, one, other), (happened, policy)
    assert set(happened) & {"taken down", "held"} <= compare(from_=1, to=2).leavers.keys()


def add_dataset_of(engine: Engine, name: str, n: int) -> None:
    scores = np.random.default_rng(n).normal(0, 1, n).astype(np.float32).tolist()
    with engine.begin() as connection:
        add_dataset(connection, dataset_id=2, name=name)
    add_night(engine, "2026-01-01", {"0.tar": scores}, state="selectable", dataset_id=2)


def test_a_version_is_compared_with_the_one_that_it_replaced(pool: Engine) -> None:
    for retention in (0.1, 0.2, 0.3):
        select(retention=retention)
    run_publish(1)
    run_publish(3)
    assert (compare().before, compare(to=2).before) == ("best v1", "best v1")
    with pytest.raises(ConfigError, match="is the first version"):
        compare(to=1)


def test_a_rollback_returns_to_what_was_published_before(pool: Engine) -> None:
    select(retention=0.1)
    select(retention=0.2)
    with pytest.raises(ConfigError, match="No version of best is published"):
        rollback(RollbackSubsetConfig(name=NAME))
    run_publish(1)
    with pytest.raises(ConfigError, match="best v1 has no published predecessor"):
        rollback(RollbackSubsetConfig(name=NAME))
    run_publish(2)
    assert rollback(RollbackSubsetConfig(name=NAME)).version == current(pool).version == 1
    with pool.connect() as connection:
        actions = connection.execute(text("SELECT action FROM alchemist.audit_events ORDER BY 1")).scalars().all()
    assert actions == ["publish", "publish", "rollback"]


def test_a_second_person_or_a_retry_rolls_back_no_further(pool: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    for version, retention in enumerate((0.1, 0.2, 0.3), 1):
        select(retention=retention)
        run_publish(version)
    command = ["subset", "rollback", NAME, "--from", "3", "--json"]
    found = []
    for _ in range(2):
        capsys.readouterr()
        assert main(command) == 0
        found.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    assert [(one["version"], one["is_new"]) for one in found] == [(2, True), (2, False)]
    assert current(pool).version == 2
    with pytest.raises(ConfigError, match=r"There is no subset 'best' v9 \(versions: 1, 2, 3\)"):
        rollback(RollbackSubsetConfig(name=NAME, from_=9))


def test_a_version_that_was_never_published_is_nothing_to_go_back_to(pool: Engine) -> None:
    select(retention=0.1)
    select(retention=0.2)
    run_publish(1)
    with pytest.raises(
        ConfigError, match=r"best v2 was never published\. Publish it: alchemist subset publish best --version 2"
    ):
        rollback(RollbackSubsetConfig(name=NAME, version=2))
    with pytest.raises(ConfigError, match=r"There is no subset 'best' v9 \(versions: 1, 2\)"):
        rollback(RollbackSubsetConfig(name=NAME, version=9))


def test_a_rolled_back_subset_is_what_readers_see(pool: Engine, tmp_path: Path) -> None:
    select(retention=0.1)
    select(retention=0.2)
    assert export_subset(ExportSubsetConfig(name=NAME, out=tmp_path / "m.csv")).n_rows == 400
    run_publish(1)
    run_publish(2)
    rollback(RollbackSubsetConfig(name=NAME))
    assert export_subset(ExportSubsetConfig(name=NAME, out=tmp_path / "m.csv")).n_rows == 200
    assert export_subset(ExportSubsetConfig(name=NAME, version=2, out=tmp_path / "m.csv")).n_rows == 400
    assert choose_version(pool, NAME, version=None).version == 1


@pytest.mark.slow
def test_show_plots_the_kept_ranks_and_prints_the_next_command(
    pool: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    select()
    assert main(["subset", "show", NAME]) == 0
    shown = capsys.readouterr().out
    bars = [line for line in shown.splitlines() if line.strip()[:1].isdigit()]
    assert len(bars) == 20
    assert all("#" not in line for line in bars[:5])
    kept = [int(line.split(" of ")[0].split()[-1].replace(",", "")) for line in bars]
    assert sum(kept) == 400
    steps = shown.splitlines()[-1]
    assert steps.startswith(f"next: alchemist train-downstream {NAME} --version 1 ")
    assert steps.endswith(f"if it is better than random: alchemist subset publish {NAME} --version 1")
    assert main(["subset", "publish", NAME]) == 0
    assert main(["subset", "list"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == [
        "best",
        "v1",
        "published",
        "400",
        "samples",
        "shift_gsample",
        "0.2",
    ]


def test_a_subset_that_is_not_there_is_refused_with_those_that_are(
    pool: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    select()
    assert main(["subset", "diff", "nothing", "--from", "1", "--to", "2"]) == 2
    assert "There is no subset 'nothing' v2 (subsets: best)" in capsys.readouterr().err
