"""Rows for tests that need a filled store: a test names the values that matter, the rest is filled in.

Keys are given, not generated, so that a test can refer to them.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, text

Row = Mapping[str, Any]
THREE_VERSIONS: dict[str, list[Row]] = {
    "raters": [{"rater_id": 1, "name": "r"}],
    "rank_scales": [{"rank_scale_id": 1, "rater_id": 1, "knot_scores": [1], "knot_ranks": [0]}],
    "rank_snapshots": [{"snapshot_id": 1, "rank_scale_id": 1, "dataset_names": ["web"]}],
    "subsets": [{"subset_id": n, "name": "s", "version": n, "snapshot_id": 1} for n in (1, 2, 3)],
}
"""Versions 1 to 3 of subset s, selected from one snapshot under rater r."""

PARTITIONED = {"scores": "rater_id", "subset_samples": "subset_id"}


def sha256(word: object) -> bytes:
    return hashlib.sha256(str(word).encode()).digest()


def filled(table: str, row: Row) -> dict[str, Any]:
    """A whole row of a table."""
    return {**FILLERS.get(table, lambda _row: {})(row), **row}


def insert_rows(connection: Connection, given: Mapping[str, Sequence[Row]]) -> None:
    """Insert tables of rows, in the order given; partitions are made as needed."""
    for table, rows in given.items():
        for row in rows:
            if table in PARTITIONED:
                partition = {"parent": table, "id": row[PARTITIONED[table]]}
                connection.execute(text("SELECT alchemist.add_partition(:parent, :id)"), partition)
            _insert(connection, table, filled(table, row))


def _insert(connection: Connection, table: str, row: Row) -> None:
    columns = ", ".join(row)
    places = ", ".join(f":{name}" for name in row)
    statement = f"INSERT INTO alchemist.{table} ({columns}) OVERRIDING SYSTEM VALUE VALUES ({places})"
    values = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in row.items()}
    connection.execute(text(statement), values)


def _shard(row: Row) -> dict[str, Any]:
    uri = row.get("uri", f"{row['shard_id']:06d}.tar")
    return {"uri": uri, "sha256": sha256(uri), "size_bytes": 1, "state": "verified"}


def _sample(row: Row) -> dict[str, Any]:
    word = row.get("caption", row["sample_id"])
    hashes = {
        "image_hash": sha256(f"image {word}"),
        "caption_hash": sha256(f"caption {word}"),
        "pair_hash": sha256(word),
    }
    return {**hashes, "caption": f"pair {word}", "width": 64, "height": 64, "format": "JPEG"}


def _bad_sample(row: Row) -> dict[str, Any]:
    stage = "score" if row.get("rater_id") else "ingest"
    return {"key": f"{row['ordinal']:06d}", "reason": "truncated", "detail": "", "stage": stage}


def _rater(row: Row) -> dict[str, Any]:
    checkpoint = {"checkpoint_uri": f"raters/{row['name']}", "checkpoint_sha256": sha256(row["name"])}
    return {"rule": "alignment", "config": {}, "identity_hash": row["name"], **checkpoint}


def _night(row: Row) -> dict[str, Any]:
    is_open = row.get("state", "scored") == "scored"
    return {"revision": 1} | ({} if is_open else {"decided_by": "ann", "decided_at": "2026-01-03T00:00:00Z"})


def _shard_score(row: Row) -> dict[str, Any]:
    counts = {"n_reused": 0, "n_quarantined": 0, "n_samples": row["n_scored"] + row.get("n_quarantined", 0)}
    return {**counts, "code_version": "1", "device": "cpu", "dtype": "float32", "run_id": 1}


def _subset(row: Row) -> dict[str, Any]:
    spec = {
        "strategy": "gsample",
        "retention": 0.2,
        "seed": 0,
        "spec": {},
        "spec_hash": f"spec {row.get('version', 1)}",
    }
    manifest = {"n_samples": 1, "manifest_sha256": "m", "manifest_uri": "m.parquet", "created_by": "ann"}
    is_selected = row.get("state", "selected") == "selected"
    published = {} if is_selected else {"published_at": "2026-01-04T00:00:00Z"}
    withdrawn = {"withdrawn_at": "now", "withdrawn_by": "ann", "withdrawn_reason": "broken captions"}
    return {"version": 1, **spec, **manifest, **published} | (withdrawn if row.get("state") == "withdrawn" else {})


def _model(row: Row) -> dict[str, Any]:
    size = {"retention": 0.2, "seed": 0, "n_samples": 1, "n_steps": 1, "members_sha256": "m", "config": {}}
    identity = f"{row['arm']} {row.get('seed', 0)}"
    return {
        **size,
        "identity_hash": identity,
        "checkpoint_uri": f"models/{identity}",
        "checkpoint_sha256": sha256(identity),
    }


FILLERS: dict[str, Callable[[Row], dict[str, Any]]] = {
    "datasets": lambda row: {"root_uri": f"/data/{row['name']}", "role": "train"},
    "shards": _shard,
    "samples": _sample,
    "sample_urls": lambda row: {"url_hash": sha256(row["source_url"])},
    "sample_locations": lambda row: {
        "key": f"{row['ordinal']:06d}",
        "file_exts": ["jpg", "txt"],
        "file_offsets": [512, 1536],
        "file_sizes": [9, 9],
    },
    "quarantined_samples": _bad_sample,
    "raters": _rater,
    "nights": _night,
    "shard_scores": _shard_score,
    "shard_embeddings": lambda row: {
        "uri": f"embeddings/{row['rater_id']}/{row['shard_id']}.arrow",
        "sha256": sha256(row["shard_id"]),
        "first_sample_id": 1,
        "last_sample_id": 2,
    },
    "cluster_centroids": lambda row: {
        "uri": "embeddings/centroids.npy",
        "sha256": sha256("centroids"),
        "n_probes": 1,
        "n_sampled": row["n_clusters"],
        "seed": 0,
    },
    "rank_scales": lambda row: {"n_reference": len(row["knot_scores"])},
    "rank_snapshots": lambda _: {"night_ids": [], "n_eligible": 1, "eligible_hash": "e"},
    "subsets": _subset,
    "models": _model,
    "evaluation_protocols": lambda row: {"protocol_hash": f"contract {row['protocol_id']}", "protocol": {}},
    "evaluations": lambda _: {"metric": "heldout_loss", "n": 10},
    "runs": lambda _: {"config": {}, "config_hash": "c", "code_version": "1", "host": "here", "pid": 1},
    "check_results": lambda _: {"expectation": "e", "severity": "fail", "is_success": True, "observed": {}},
}
