"""The oracle arms: samples known to be good, repeated or filled up with samples of one kind, and the best of them by measurement."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from alchemist_core.errors import ConfigError
from alchemist_core.experiments.arms import parse_arm
from alchemist_core.experiments.results import ArmRow, best_oracle, compare_cells, verdict
from alchemist_core.experiments.trial import Cell
from alchemist_core.stages.select import SelectConfig
from alchemist_core.stages.select import run as select
from alchemist_core.stages.train_downstream import Arms, TrainDownstreamConfig, read_validation
from alchemist_core.store.engine import open_store
from alchemist_core.store.manifests import hashes_sha256, list_hashes
from alchemist_core.store.snapshots import reload_snapshot
from alchemist_core.store.subsets import find_subset, rater_of_subset

# Of the 240 training scenes of the small corpus.
N_GOOD, N_PLAIN, N_CHAOTIC = 96, 60, 48


@pytest.fixture
def draw(scored_store: Any, corpus: Path) -> Callable[..., list[bytes]]:
    def members(arm: str, retention: float, seed: int = 0) -> list[bytes]:
        policy = {"retention": retention}
        name = f"s{retention:g}"
        select(SelectConfig.model_validate({"dataset": "scenes", "name": name, "policy": policy}))
        subset = find_subset(open_store(), name)
        eligible = reload_snapshot(open_store(), subset.snapshot_id).pairs.open_pairs()
        return list_hashes(Arms(subset, eligible, corpus / "truth.parquet").samples(arm, seed).pair_hash_M32)

    return members


@pytest.fixture(scope="session")
def kind_of(corpus: Path) -> dict[bytes, str]:
    return {row["pair_hash"]: row["kind"] for row in pq.read_table(corpus / "truth.parquet").to_pylist()}


def kinds(members: list[bytes], kind_of: dict[bytes, str]) -> Counter[str]:
    return Counter(kind_of[member] for member in members)


@pytest.mark.db
@pytest.mark.e2e
def test_a_filling_replaces_the_missing_good_samples(
    draw: Callable[..., list[bytes]], kind_of: dict[bytes, str]
) -> None:
    repeated, filled = draw("planted", 0.5), draw("planted+plain", 0.5)
    assert kinds(repeated, kind_of) == {"informative": 120}
    assert kinds(filled, kind_of) == {"informative": N_GOOD, "plain": 120 - N_GOOD}
    assert len(set(filled)) == 120
    assert set(filled) != set(draw("planted+plain", 0.5, seed=1))
    # If there are enough good samples, nothing is filled up; if the filling is too small too, good samples are repeated.
    assert draw("planted+plain", 0.2) == draw("planted", 0.2)
    assert kinds(draw("planted+chaotic", 0.8), kind_of) == {"informative": 192 - N_CHAOTIC, "chaotic": N_CHAOTIC}


@pytest.mark.db
@pytest.mark.e2e
def test_an_unknown_filling_is_refused_with_the_known_kinds(draw: Callable[..., list[bytes]]) -> None:
    with pytest.raises(
        ConfigError, match=r"no sample of kind 'blurred'\. Its kinds: chaotic, informative, plain, wrong_caption"
    ):
        draw("planted+blurred", 0.5)


@pytest.mark.parametrize("word", ["oracle+plain", "planted+plain"])
def test_the_words_of_oracle_arms_are_controls_stored_under_one_name(word: str) -> None:
    arm = parse_arm(word, retention=0.5, first_rater="loss")
    assert (arm.word, arm.trains, arm.rater, arm.is_sized) == ("planted+plain", "planted+plain", "loss", True)
    with pytest.raises(ConfigError, match=r"unknown strategy 'plain\+oracle'.*oracle\+KIND"):
        parse_arm("plain+oracle", retention=0.5)


@pytest.mark.db
@pytest.mark.e2e
@pytest.mark.usefixtures("scored_store")
def test_arms_with_validation_data_join_it_to_the_subset_and_controls_are_as_large_as_a_repeated_subset() -> None:
    policy = {"retention": 0.5, "strategy": "shift_gsample", "drop_top_ratio": 0.75, "mean_rank": 0.9, "fill": "repeat"}
    select(SelectConfig.model_validate({"dataset": "scenes", "name": "few", "policy": policy}))
    engine = open_store()
    subset = find_subset(engine, "few")
    eligible = reload_snapshot(engine, subset.snapshot_id).pairs.open_pairs()
    arms = Arms(subset, eligible, None, lambda: read_validation(engine, rater_of_subset(engine, subset)))
    few, random, validation, both = (
        arms.samples(arm, 0) for arm in ("subset", "random", "validation", "subset+validation")
    )
    assert few.weight_M is not None
    assert (subset.n_samples, few.n_reads, random.n_reads, validation.n_reads) == (len(few.weight_M), 120, 120, 200)
    assert len(set(list_hashes(random.pair_hash_M32))) == 120
    assert not set(list_hashes(validation.pair_hash_M32)) & set(list_hashes(eligible.pair_hash_N32))
    assert list_hashes(both.pair_hash_M32) == list_hashes(few.pair_hash_M32) + list_hashes(validation.pair_hash_M32)
    assert both.weight_M is not None
    assert both.weight_M.tolist() == [*few.weight_M.tolist(), *[1.0] * 200]
    # Without repeats the identity of a model is the one it had before weights existed.
    assert random.sha256() == hashes_sha256(random.pair_hash_M32)
    assert few.sha256() != hashes_sha256(few.pair_hash_M32)


def rows_of(**losses: list[float]) -> dict[str, ArmRow]:
    cells = [
        Cell(arm.replace("_", "+"), 0.5, seed, 9, 9, loss) for arm, of in losses.items() for seed, loss in enumerate(of)
    ]
    return {row.arm: row for row in compare_cells(cells)}


def test_a_typed_oracle_is_stored_and_hashed_under_the_stored_name() -> None:
    typed, stored = (
        TrainDownstreamConfig(subset="s", arms=("random", arm)) for arm in ("oracle+plain", "planted+plain")
    )
    assert typed == stored
    assert typed.fingerprint() == stored.fingerprint()


def test_the_gap_is_measured_to_the_best_oracle_and_the_table_names_it() -> None:
    rows = rows_of(
        random=[3.0, 3.1], planted=[2.5, 2.6], planted_plain=[2.0, 2.1], planted_chaotic=[2.2, 2.3], mine=[2.25, 2.35]
    )
    gap = rows["mine"].gap_closed
    assert gap is not None
    assert gap.mean == pytest.approx(0.75)
    assert [arm for arm, row in rows.items() if row.is_best_oracle] == ["planted+plain"]
    assert verdict(rows["planted+plain"]) == "better than random, the best oracle"
    assert all(row.gap_closed is None for arm, row in rows.items() if arm != "mine")


def test_a_single_oracle_is_not_marked() -> None:
    rows = rows_of(random=[3.0, 3.1], planted=[2.0, 2.1], mine=[2.5, 2.6])
    assert not rows["planted"].is_best_oracle
    assert rows["mine"].gap_closed is not None
    assert rows["mine"].gap_closed.mean == pytest.approx(0.5)
    assert best_oracle({"random": {0: 1.0}}) is None
