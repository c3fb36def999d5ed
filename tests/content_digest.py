"""Digests of a store's content that do not depend on names, to show that a redesign changed no score, member or byte.

    python -m tests.content_digest of ALCHEMIST HOME > before.json     # in each checkout, after its `make demo`
    python -m tests.content_digest compare before.json after.json      # prints what differs; exit code 1 if anything does

ALCHEMIST is the program of the checkout that made HOME. The digest uses only commands that both versions have (`export`,
`materialize`), so renamed tables, columns and flags do not matter.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

SUBSETS = ("scenes-auto-r20", "scenes-auto-r50")


def digest(alchemist: str, home: Path) -> dict[str, Any]:
    """Return the digests of one home's store: scores, members, and the bytes of the materialized datasets."""
    with tempfile.TemporaryDirectory() as folder:
        found: dict[str, Any] = {"scores": _scores(alchemist, home, Path(folder) / "scores.parquet")}
        for name in SUBSETS:
            found[f"members of {name}"] = _members(alchemist, home, name, Path(folder) / f"{name}.parquet")
    found |= {
        f"SHA256SUMS {path.parent.name}": sorted(path.read_text().splitlines())
        for path in sorted(home.rglob("SHA256SUMS"))
    }
    return found


def _scores(alchemist: str, home: Path, out: Path) -> str:
    _run(alchemist, home, "export", "scores", f"--out={out}")
    return _hash_rows(out, ("pair_hash", "score", "rank"))


def _members(alchemist: str, home: Path, name: str, out: Path) -> str:
    # 0.1.0 names the subset with a flag, which later versions refuse.
    usage = subprocess.run([alchemist, "export", "subset", "--help"], check=True, capture_output=True, text=True).stdout
    _run(alchemist, home, "export", "subset", f"--name={name}" if "--name NAME" in usage else name, f"--out={out}")
    return _hash_rows(out, ("pair_hash", "rank", "score"))


def _run(alchemist: str, home: Path, *words: str) -> None:
    subprocess.run([alchemist, *words], env=os.environ | {"ALCHEMIST_HOME": str(home)}, check=True, stdout=sys.stderr)


def _hash_rows(path: Path, columns: tuple[str, ...]) -> str:
    table = pq.read_table(path, columns=list(columns)).sort_by([(columns[0], "ascending")])
    found = hashlib.sha256()
    for column in columns:
        for value in table[column].to_pylist():
            found.update(repr(value).encode())
    return f"{table.num_rows} rows {found.hexdigest()}"


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Name each digest that differs or is missing on one side.

    >>> differences({"scores": "a", "members": "b"}, {"scores": "a", "members": "c"})
    ['members: b / c']
    """
    return [
        f"{name}: {before.get(name)} / {after.get(name)}"
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]


def main(words: list[str]) -> int:
    if words[:1] == ["of"] and len(words) == 3:
        print(json.dumps(digest(words[1], Path(words[2]).resolve()), indent=1))
        return 0
    if words[:1] == ["compare"] and len(words) == 3:
        found = differences(*(json.loads(Path(path).read_text()) for path in words[1:]))
        print("\n".join(found) or "equal")
        return int(bool(found))
    print(__doc__)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
