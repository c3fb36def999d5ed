"""Two datasets with a few hundred scored samples each, some with near-duplicates, in an evaluation dataset, or with heuristics."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from sqlalchemy import Engine, text

from alchemist_core.files import artifact_path
from alchemist_core.stages.select import SelectConfig, SelectResult
from alchemist_core.stages.select import run as select
from alchemist_core.store.manifests import read_manifest
from alchemist_core.store.subsets import find_subset
from tests.given import insert_rows
from tests.scored_nights import add_dataset, add_night, add_rater

WEB, BOOKS, BENCH = 1, 2, 3
N_WEB, N_BOOKS = 300, 100


def fill(engine: Engine) -> None:
    """web: 300 samples of two nights; books: 100; every fifth image has its own host, the others share one."""
    with engine.begin() as connection:
        add_rater(connection)
        for number, name in ((WEB, "web"), (BOOKS, "books")):
            add_dataset(connection, dataset_id=number, name=name)
        insert_rows(connection, {"datasets": [{"dataset_id": BENCH, "name": "bench", "role": "evaluation"}]})
    rng = np.random.default_rng(0)
    add_night(engine, "2026-01-01", {"a.tar": normal(rng, 200)}, state="selectable")
    add_night(engine, "2026-01-02", {"a.tar": normal(rng, 100)}, state="selectable")
    add_night(engine, "2026-01-01", {"a.tar": normal(rng, 100)}, state="selectable", dataset_id=BOOKS)
    change(engine, """
        UPDATE alchemist.samples SET
            source_url = CASE WHEN sample_id % 5 = 0 THEN 'https://h' || sample_id || '.example/p.jpg' ELSE 'https://one.example/p.jpg' END,
            perceptual_hash = hashtextextended(encode(pair_hash, 'hex'), 7);
        INSERT INTO alchemist.heuristic_scores (sample_id, aesthetic, imported)
        SELECT sample_id, sample_id % 37, jsonb_build_object('likes', sample_id % 11) FROM alchemist.samples WHERE sample_id % 4 <> 0
    """)  # fmt: skip


def normal(rng: np.random.Generator, n: int) -> list[float]:
    # Rounded, so that scores tie.
    scores: list[float] = np.round(rng.normal(size=n), 2).astype(np.float32).tolist()
    return scores


def change(engine: Engine, statements: str, **parameters: Any) -> None:
    with engine.begin() as connection:
        connection.execute(text(statements), parameters)


def set_duplicates(engine: Engine, firsts: Sequence[tuple[int, int]]) -> None:
    """Store which sample (by id) is a near-duplicate of which earlier one."""
    rows = [
        {"sample_id": later, "first_sample_id": first, "distance": 1, "is_same_image": False} for later, first in firsts
    ]
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO alchemist.distinct_images (sample_id) SELECT sample_id FROM alchemist.samples ON CONFLICT DO NOTHING"
            )
        )
        insert_rows(connection, {"duplicate_samples": rows})


def add_to_bench(engine: Engine, image_hash: bytes, perceptual_hash: int, *, ordinal: int = 0) -> None:
    """Add an image to the evaluation dataset."""
    pair = {"sample_id": 10_000 + ordinal, "image_hash": image_hash, "perceptual_hash": perceptual_hash}
    place = {"shard_id": 900 + ordinal, "ordinal": ordinal, "sample_id": 10_000 + ordinal}
    shard = {"shard_id": 900 + ordinal, "dataset_id": BENCH, "crawl_date": "2025-01-01", "n_samples": 1}
    with engine.begin() as connection:
        insert_rows(connection, {"shards": [shard], "samples": [pair], "sample_locations": [place]})


def draw(retention: float | str = 0.2, *, dataset: str = "web,books", name: str = "s", **policy: Any) -> SelectResult:
    """Select without near-duplicates; `rescale`, `dry_run` and `rater` are options of the stage, all others of the policy."""
    stage = {field: policy.pop(field) for field in ("rescale", "dry_run", "rater") if field in policy}
    given = {"strategy": "shift_gsample", "retention": retention, "dedup": "near"} | policy
    return select(SelectConfig.model_validate({"dataset": dataset, "name": name, "policy": given, **stage}))


def members(engine: Engine, name: str = "s", version: int | None = None) -> set[bytes]:
    subset = find_subset(engine, name, version=version)
    return set(read_manifest(artifact_path(subset.manifest_uri), sha256=subset.manifest_sha256).pair_hashes())


def member_ids(engine: Engine, name: str = "s", version: int | None = None) -> set[int]:
    hashes = sorted(members(engine, name, version))
    with engine.connect() as connection:
        statement = text("SELECT sample_id FROM alchemist.samples WHERE pair_hash = ANY(:hashes)")
        return set(connection.execute(statement, {"hashes": hashes}).scalars())


def pairs(engine: Engine, columns: str = "*") -> Iterator[Any]:
    with engine.connect() as connection:
        yield from connection.execute(
            text(f"SELECT {columns} FROM alchemist.samples WHERE sample_id < 10000 ORDER BY sample_id")
        ).all()
