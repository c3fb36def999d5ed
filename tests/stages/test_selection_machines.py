"""The same inputs give the same manifest on every machine, in every process and for every order of rows."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping

import numpy as np
import pytest
from sqlalchemy import Engine, text

from alchemist_core.selection import chunks
from alchemist_core.settings import load_settings
from alchemist_core.store import eligible
from alchemist_core.store.engine import open_store
from tests.scored_nights import add_dataset, add_night, add_rater
from tests.selectable_store import change, draw, set_duplicates

pytestmark = pytest.mark.db

OPTIONS = {
    "dedup": "near",
    "dataset": "web",
    "retention": 0.2,
    "max_share": 0.05,
    "max_share_of": "source",
    "where": "sample_id <> 9",
}


@pytest.fixture
def store(engine: Engine) -> Engine:
    """600 samples of several sources, one of which is large."""
    add_pairs(engine)
    change(
        engine,
        "UPDATE alchemist.samples SET source_url = 'https://h' || (sample_id % 40) * (sample_id % 40) / 40 || '.example/'",
    )
    set_duplicates(engine, [(i, i - 5) for i in range(100, 160, 7)])
    return engine


def add_pairs(engine: Engine, *, is_reversed: bool = False) -> None:
    """Add a night of 600 samples, the shards in order or reversed."""
    with engine.begin() as connection:
        add_rater(connection)
        add_dataset(connection)
    scores = np.random.default_rng(0).normal(size=600).astype(np.float32).tolist()
    for i in reversed(range(6)) if is_reversed else range(6):
        add_night(engine, "2026-01-01", {f"{i}.tar": scores[i::6]})
    change(engine, "UPDATE alchemist.nights SET state = 'selectable', decided_at = now(), decided_by = 'ann'")


def selected_elsewhere(environment: Mapping[str, str], *, cores: int) -> str:
    """The hash of the manifest that another process computes, with this environment and number of cores."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in OPTIONS.items()]
    command = [
        sys.executable,
        "-m",
        "alchemist_core",
        "select",
        "--strategy",
        "shift_gsample",
        "--dry-run",
        "--json",
        *flags,
    ]
    mine = sorted(os.sched_getaffinity(0))[:cores]
    done = subprocess.run(
        command,
        env={**os.environ, **environment},
        preexec_fn=lambda: os.sched_setaffinity(0, mine),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["n_removed"] == {"predicate": 1, "duplicate": 9, "cap": report["n_removed"]["cap"]}
    return str(report["manifest_sha256"])


def older_processor() -> str:
    """Every optional processor extension that numpy uses: without it, numpy's logarithm differs in the last bit."""
    numpy_core = np._core._multiarray_umath
    return " ".join(name for name in numpy_core.__cpu_dispatch__ if numpy_core.__cpu_features__[name])


@pytest.mark.slow
def test_other_hash_seeds_threads_cores_and_processors_give_the_same_manifest(store: Engine) -> None:
    here = draw(dry_run=True, **OPTIONS).manifest_sha256
    for environment, cores in (
        ({"PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1"}, 1),
        ({"PYTHONHASHSEED": "2", "OMP_NUM_THREADS": "4", "LC_ALL": "C", "TZ": "Asia/Tokyo"}, 2),
        ({"PYTHONHASHSEED": "3", "NPY_DISABLE_CPU_FEATURES": older_processor()}, 2),
    ):
        assert selected_elsewhere(environment, cores=cores) == here


def test_another_order_of_rows_gives_the_same_manifest(store: Engine) -> None:
    before = draw(dry_run=True, **OPTIONS)
    for table, column in (("samples", "licence"), ("scores_1", "score"), ("sample_locations", "key")):
        # Every row is written again, in arbitrary order.
        change(store, f"""
            CREATE TEMPORARY TABLE shuffled AS SELECT ctid AS place FROM alchemist.{table} ORDER BY md5(ctid::text);
            DO $$ DECLARE row record; BEGIN
                FOR row IN SELECT place FROM shuffled LOOP
                    UPDATE alchemist.{table} SET {column} = {column} WHERE ctid = row.place;
                END LOOP;
            END $$;
            DROP TABLE shuffled
        """)  # fmt: skip
    with store.connect() as connection:
        order = connection.execute(text("SELECT sample_id FROM alchemist.samples LIMIT 5")).scalars().all()
    assert order != sorted(order)
    after = draw(dry_run=True, **OPTIONS)
    assert after.manifest_sha256 == before.manifest_sha256


@pytest.mark.parametrize(
    ("rows", "piece"), [pytest.param(1, 1 << 16, marks=pytest.mark.slow), (7, 3), (250, 100), (10_000, 1)]
)
def test_pieces_of_any_size_give_the_same_manifest(
    store: Engine, monkeypatch: pytest.MonkeyPatch, rows: int, piece: int
) -> None:
    before = draw(dry_run=True, **OPTIONS)
    monkeypatch.setattr(eligible, "RANGE", rows)
    monkeypatch.setattr(chunks, "CHUNK", piece)
    change(store, "UPDATE alchemist.samples SET licence = 'CC0' WHERE sample_id = 1")
    again = draw(**OPTIONS)
    assert again.manifest_sha256 == before.manifest_sha256


def test_a_corpus_that_was_ingested_in_another_order_gives_the_same_members(
    store: Engine, make_database: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids of samples and shards may differ. The first sample of a group depends on the order, so duplicates are kept here."""
    plain = {"dataset": "web", "retention": 0.2, "seed": 4, "dedup": "off"}
    before = draw(dry_run=True, **plain)
    monkeypatch.setenv("ALCHEMIST_DATABASE_URL", make_database())
    load_settings.cache_clear()
    other = open_store()
    add_pairs(other, is_reversed=True)
    first = "SELECT pair_hash FROM alchemist.samples ORDER BY sample_id LIMIT 1"
    with store.connect() as one, other.connect() as another:
        assert one.execute(text(first)).scalar_one() != another.execute(text(first)).scalar_one()
    assert draw(dry_run=True, **plain).manifest_sha256 == before.manifest_sha256
    other.dispose()
