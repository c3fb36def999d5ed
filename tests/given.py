"""Rows for tests that need a store with something in it: a test names what it is about, the rest is filled in.

Keys are given, not made, so that a test can refer to them.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, text

Row = Mapping[str, Any]
PARTITIONED = {"scores": "rater_id", "subset_samples": "subset_id"}


def sha256(word: object) -> bytes:
    return hashlib.sha256(str(word).encode()).digest()


def filled(table: str, row: Row) -> dict[str, Any]:
    """A whole row of a table."""
    return {**dict(_fillers(table, row)), **row}


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


def _fillers(table: str, row: Row) -> Iterator[tuple[str, Any]]:  # noqa: C901, PLR0912  one case a table
    match table:
        case "datasets":
            yield from {"root_uri": f"/data/{row['name']}", "role": "train"}.items()
        case "shards":
            uri = f"{row['shard_id']:06d}.tar"
            yield from {"uri": uri, "sha256": sha256(uri), "size_bytes": 1, "state": "verified"}.items()
        case "samples":
            word = row["sample_id"]
            hashes = {"image_hash": sha256(f"image {word}"), "caption_hash": sha256(f"caption {word}")}
            shape = {"caption": f"pair {word}", "width": 64, "height": 64, "format": "JPEG"}
            yield from {**hashes, "pair_hash": sha256(word), **shape}.items()
        case "sample_locations":
            yield "key", f"{row['ordinal']:06d}"
            yield from {"member_exts": ["jpg", "txt"], "member_offsets": [512, 1536], "member_sizes": [9, 9]}.items()
        case "quarantined_samples":
            stage = "score" if row.get("rater_id") else "ingest"
            yield from {"key": f"{row['ordinal']:06d}", "reason": "truncated", "detail": "", "stage": stage}.items()
        case "raters":
            identity = {
                "identity_hash": row["name"],
                "checkpoint_uri": "rater",
                "checkpoint_sha256": sha256(row["name"]),
            }
            yield from {"rule": "alignment", "config": {}, **identity}.items()
        case "nights":
            yield "revision", 1
            if row.get("state", "scored") != "scored":
                yield from {"decided_by": "ann", "decided_at": "2026-01-03T00:00:00Z"}.items()
        case "shard_scores":
            made = {"code_version": "1", "device": "cpu", "dtype": "float32", "run_id": 1}
            yield from {"n_reused": 0, "n_quarantined": 0, **made}.items()
            yield "n_samples", row["n_scored"] + row.get("n_quarantined", 0)
        case "rank_scales":
            yield "n_reference", len(row["knot_scores"])
        case "rank_snapshots":
            yield from {"night_ids": [], "n_eligible": 1, "eligible_hash": f"eligible {row['snapshot_id']}"}.items()
        case "subsets":
            spec = {
                "strategy": "gsample",
                "retention": 0.2,
                "seed": 0,
                "spec": {},
                "spec_hash": f"spec {row['subset_id']}",
            }
            manifest = {"manifest_sha256": "m", "manifest_uri": "m.parquet", "n_samples": 1, "created_by": "ann"}
            yield from {"version": 1, **spec, **manifest}.items()
            if row.get("state", "selected") != "selected":
                yield "published_at", "2026-01-04T00:00:00Z"
        case "models":
            identity = {"identity_hash": f"model {row['model_id']}", "config": {}, "members_sha256": "m"}
            size = {"retention": 0.2, "seed": 0, "n_samples": 1, "n_steps": 1}
            yield from {**identity, **size, "checkpoint_uri": "model", "checkpoint_sha256": sha256("model")}.items()
        case "evaluation_contracts":
            yield from {"contract_hash": f"contract {row['contract_id']}", "contract": {}}.items()
        case "evaluations":
            yield from {"metric": "heldout_loss", "n": 10}.items()
        case "runs":
            yield from {"config": {}, "config_hash": "c", "code_version": "1", "host": "here", "pid": 1}.items()
        case "check_results":
            yield from {"expectation": "e", "severity": "fail", "is_success": True, "observed": {}}.items()
