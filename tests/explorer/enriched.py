"""More of everything than the small store has, so that each page of the explorer has something to show and to decide."""

import hashlib
import io
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine, text

from alchemist_core.embeddings.files import FOLDER, file_uri, write_embeddings
from alchemist_core.embeddings.text_service import TextServer
from alchemist_core.files import artifact_path
from alchemist_core.selection.curves import SelectionCurve
from alchemist_core.store.embeddings import insert_file
from alchemist_core.store.manifests import Manifest, hash_rows, sort_hashes, write_manifest
from tests.explorer.conftest import N_NEW, N_OLD
from tests.given import insert_rows

N = N_OLD + N_NEW
CLIP, DIM, N_CLUSTERS = 8, 4, 3
CHECKS = [
    {"name": "auc_of_damage", "value": 0.9123, "low": 0.7, "high": None, "note": "AUC of clean against damaged samples", "is_ok": True},
    {"name": "score_spread", "value": 0.41, "low": 0.1, "high": 5.0, "note": "", "is_ok": True},
    {"name": "auc_of_flags", "value": None, "low": None, "high": None, "note": "not measured: 3 flags (at least 20)", "is_ok": True},
]  # fmt: skip


def history(n: int = 400) -> list[dict[str, float]]:
    """The steps of a training whose losses fall, with a held-out loss every 50 steps."""
    return [
        {
            "step": step, "validation_loss": 3 + 2 * math.exp(-step / 90), "train_loss": 3.2 + 2 * math.exp(-step / 90),
            "reference_loss": 3.1 + 2 * math.exp(-step / 80), "cost_spread": 0.1 + step / 4_000, "price": 1.0,
            "effective_sample_size": 8 - step / 100, "entropy": 1.0, "group_weight": 1.0,
            **({"held_out_loss": 3.1 + 2 * math.exp(-step / 90)} if step % 50 == 49 else {}),
        }
        for step in range(n)
    ]  # fmt: skip


def curve() -> dict[str, Any]:
    """A stored curve of a selection of the upper ranks."""
    n_pool, n_kept = np.full(10, 80), np.array([60, 50, 30, 20, 4, 0, 0, 0, 0, 0])
    share = n_kept / n_pool
    stored: dict[str, Any] = SelectionCurve(n_pool, n_kept, share, share).as_json()
    return stored


def embeddings() -> np.ndarray:
    """Embeddings of all samples: three directions with noise, and sample 75 of the new night apart from them."""
    rng = np.random.default_rng(0)
    vectors = np.eye(N_CLUSTERS, DIM)[np.arange(N) % N_CLUSTERS] + rng.normal(0, 0.05, (N, DIM))
    vectors[74] = [0.1, 0.1, 0.1, 2.0]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float16)


def enrich(engine: Engine) -> None:
    """Fill the copy of the small store that the settings name; files of embeddings are written to its home."""
    write_manifest_of_first(engine)
    with engine.begin() as connection:
        insert_rows(connection, _rows_of_raters())
        insert_rows(connection, _rows_of_subsets())
        insert_rows(connection, {"experiments": [_experiment()], "notifications": _notifications()})
        for shard_id, first, n in ((1, 1, N_OLD), (2, N_OLD + 1, N_NEW)):
            own = np.arange(first, first + n)
            insert_file(
                connection, CLIP, shard_id, write_embeddings(file_uri(CLIP, str(shard_id)), own, embeddings()[own - 1])
            )
        insert_rows(connection, {
            "cluster_centroids": [{"rater_id": CLIP, "n_clusters": N_CLUSTERS, "threshold": 0.9, **_centroids()}],
            "clusters": [
                {"rater_id": CLIP, "sample_id": i, "cluster": (i - 1) % N_CLUSTERS, "block_id": 1} for i in range(1, N + 1)
            ],
            "score_distributions": [{
                "night_id": 2, "n": N_NEW, "quantiles": [], "psi": 0.31, "ks_distance": 0.2, "verdict": "held", "n_tested": N_NEW,
                "reference": "accepted nights", "n_reference": N_OLD,
                "histogram": {"edges": [1.0, 2.0, 3.0], "counts": [2, 4, 5, 1], "reference_shares": [0.2, 0.3, 0.3, 0.2]},
            }],
        })  # fmt: skip
        connection.exec_driver_sql(
            "UPDATE alchemist.score_distributions SET explanation = "
            """'[{"kind": "shard", "name": "b.tar", "n": 12, "contribution": 0.3, "psi_without": 0.01, "samples": ["web/b/1"]}]'"""
        )
        connection.exec_driver_sql(
            "UPDATE alchemist.nights SET state = 'held', reason = 'scores drifted: PSI 0.31', decided_by = 'drift' WHERE night_id = 2"
        )


def write_manifest_of_first(engine: Engine) -> None:
    """Write the manifest of version 1 into the home of the settings, as `select` does: a publication reads it."""
    digest = write_members("best-1.parquet", list(range(2, N + 1, 4)))
    with engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE alchemist.subsets SET manifest_uri = 'best-1.parquet', manifest_sha256 = :digest WHERE subset_id = 1"
            ),
            {"digest": digest},
        )


def _rows_of_raters() -> dict[str, list[dict[str, Any]]]:
    report = {"is_certified": True, "checks": CHECKS, "history": history(), "best_step": 350, "n_steps": 400}
    return {
        "raters": [
            {"rater_id": 7, "name": "r2", "acceptance_report": report, "config": {"training": {"batch_size": 8}}},
            {"rater_id": CLIP, "name": "clip_score", "kind": "scorer", "rule": "scorer", "config": {"name": "clip"}},
        ],
        "rank_scales": [{"rater_id": 7, "knot_scores": [1.0, float(N)], "knot_ranks": [1.0, 0.0]}],
        "nights": [
            {"night_id": 10 + number, "dataset_id": 1, "crawl_date": f"2026-01-0{number}", "rater_id": CLIP, "state": "selectable"}
            for number in (1, 2)
        ],
        "shard_scores": [
            {"rater_id": CLIP, "shard_id": shard, "night_id": 10 + shard, "n_scored": n} for shard, n in ((1, N_OLD), (2, N_NEW))
        ],
        "scores": [{"rater_id": 7, "sample_id": i, "score": 1 + (i * 31) % N} for i in range(1, N + 1)],
    }  # fmt: skip


def _rows_of_subsets() -> dict[str, list[dict[str, Any]]]:
    members = list(range(2, N + 1, 6))
    digest = write_members("best-2.parquet", members)
    return {
        "subsets": [{
            "subset_id": 2, "name": "best", "version": 2, "snapshot_id": 1, "n_samples": len(members), "strategy": "top_k",
            "curves": curve(), "manifest_uri": "best-2.parquet", "manifest_sha256": digest,
        }],
        "subset_samples": [{"subset_id": 2, "sample_id": i, "rank": 0.1} for i in members],
        **compared_arms(),
    }  # fmt: skip


@contextmanager
def serving_texts(embed: Callable[[str], NDArray[np.float32]]) -> Iterator[str]:
    """A service of a tower in this process; yields its address."""
    with TextServer("clip", embed, address="127.0.0.1", port=0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def compared_arms() -> dict[str, list[dict[str, Any]]]:
    """Version 2 and random samples under three seeds; the version has the lower loss."""
    return {
        "models": [
            {"model_id": 2 * seed + number, "arm": arm, "subset_id": 2, "seed": seed}
            for seed in range(3) for number, arm in enumerate(("subset", "random"), 1)
        ],
        "evaluation_protocols": [{"protocol_id": 1}],
        "evaluations": [
            {"model_id": 2 * seed + number, "protocol_id": 1, "value": value + seed}
            for seed in range(3) for number, value in enumerate((2.0, 2.5 + seed / 100), 1)
        ],
    }  # fmt: skip


def write_members(uri: str, members: list[int]) -> str:
    """Write the manifest of a version, which a publication reads; return the hash of its members."""
    hashes = sort_hashes(hash_rows([hashlib.sha256(b"pair %d" % sample_id).digest() for sample_id in members]))
    manifest = Manifest(hashes, np.full(len(members), 0.1), np.ones(len(members)))
    write_manifest(artifact_path(uri), manifest)
    return manifest.sha256()


def _experiment() -> dict[str, Any]:
    svg = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 40 20"><path d="M0 20L40 0" stroke="#0072b2" fill="none"/></svg>'
    sheet = {
        "notes": ["Does selection help?", "Three seeds."],
        "table": [["arm", "loss"], ["random", "3.2"], ["subset", "3.1"]],
        "figures": [["Loss", svg]],
    }
    cell = {"retention": 0.2, "n_samples": 9, "n_steps": 9}
    cells = [
        {**cell, "arm": arm, "seed": seed, "loss": loss + seed / 10 + seed * seed / 1000}
        for arm, loss in (("random", 3.2), ("learnability/shift_gsample", 3.1))
        for seed in range(3)
    ]
    return {
        "experiment_id": 1, "name": "sweep", "config": {"experiment": "methods"},
        "result": {"sheet": sheet, "cells": cells}, "finished_at": "2026-01-05",
    }  # fmt: skip


def _notifications() -> list[dict[str, Any]]:
    page = "http://127.0.0.1:8080/dags/build_subset/runs/r/tasks/approve/required_actions"
    return [{
        "key": "question:build_subset.approve:r:-1:1", "kind": "question",
        "event": {"what_happened": "build_subset.approve: Publish subset best?", "where_to_look": page, "facts": {"run": "r"}},
    }]  # fmt: skip


def _centroids() -> dict[str, Any]:
    data = io.BytesIO()
    np.save(data, np.eye(N_CLUSTERS, DIM, dtype=np.float32))
    uri = f"{FOLDER}/{CLIP}/centroids.npy"
    artifact_path(uri).write_bytes(data.getvalue())
    return {"uri": uri, "sha256": hashlib.sha256(data.getvalue()).digest()}
