"""Where copies lie: folders of the home, folders elsewhere, and `s3://` prefixes. A finished copy has its manifest there, which comes last.

To an object store each copy goes by way of the home: checked there, uploaded, and removed.
"""

import hashlib
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from alchemist_core.data import s3
from alchemist_core.data.artifacts import artifact_path
from alchemist_core.data.copy_manifest import MANIFEST_NAME, read_copy_manifest
from alchemist_core.data.copying import Copy, Layout, Report, copy_members, hidden_folder, identify_copy
from alchemist_core.data.member_table import MemberTable
from alchemist_core.data.shard_copying import CopiedShard, Verify
from alchemist_core.data.storage import is_s3, open_shard, sha256_of
from alchemist_core.errors import DataError

_N_UPLOADS = 4
_COPY, _SHA256 = "alchemist-copy", "alchemist-sha256"


def place_of(uri: str) -> str:
    """Return where a copy lies, as people write it: relative addresses are under the home, so that it can be moved."""
    return uri if is_s3(uri) else str(artifact_path(uri))


def require_reachable(uri: str) -> None:
    """Refuse an object store that cannot be asked, before anything is noted or read.

    Raises:
        DataError: There is no such bucket, or it cannot be reached.
    """
    if is_s3(uri):
        s3.find_objects(uri)


def copy_to(
    members: MemberTable, uri: str, layout: Layout, *, verify: Verify = "read_back", report: Report | None = None
) -> Copy:
    """Copy records to a folder or an `s3://` prefix, as `copy_members` does: what is there and right is not written again.

    Raises:
        DataError: As `copy_members`; or the object store refuses, or holds something else under the prefix.
    """
    if not is_s3(uri):
        return copy_members(members, artifact_path(uri), layout, verify=verify, report=report)
    identity = identify_copy(members, layout)
    if (shards := _find_uploaded(uri, identity, verify)) is not None:
        return Copy(Path(uri), shards, 0)
    local = _staging(uri) / uri.rstrip("/").rpartition("/")[2]
    copy = copy_members(members, local, layout, verify="source", report=report)
    n_bytes = _upload_all(local, uri, identity, verify)
    shutil.rmtree(_staging(uri))
    return copy._replace(n_bytes_written=n_bytes)


def copy_size(uri: str) -> int:
    """Return the bytes that a copy takes up, also one that was not finished."""
    n_uploaded = sum(size for _, size, _ in s3.find_objects(uri)) if is_s3(uri) else 0
    return n_uploaded + sum(path.stat().st_size for folder in _folders(uri) for path in folder.rglob("*"))


def remove_copy(uri: str) -> None:
    """Remove a copy, also one that was not finished."""
    if is_s3(uri):
        s3.remove_objects(uri)
    for folder in _folders(uri):
        shutil.rmtree(folder, ignore_errors=True)


def _staging(uri: str) -> Path:
    """Return the folder of the home by way of which a copy is uploaded."""
    return artifact_path(f"uploading/{hashlib.sha256(uri.encode()).hexdigest()[:16]}")


def _folders(uri: str) -> list[Path]:
    if is_s3(uri):
        return [_staging(uri)] if _staging(uri).exists() else []
    return [folder for folder in (artifact_path(uri), hidden_folder(artifact_path(uri))) if folder.exists()]


def _find_uploaded(uri: str, identity: str, verify: Verify) -> list[CopiedShard] | None:
    """Return the tars of a finished and undamaged copy; None where it has to be made, or made whole."""
    labels = {found: s3.read_labels(found) for found, _, _ in s3.find_objects(uri)}
    if strange := [found for found, (_, label) in labels.items() if label.get(_COPY) != identity]:
        raise DataError(
            f"{strange[0]} is there and belongs to something else; remove what lies under {uri}, or name another place"
        )
    manifest = f"{uri.rstrip('/')}/{MANIFEST_NAME}"
    if manifest not in labels:
        return None
    with open_shard(manifest) as file:
        found = read_copy_manifest(file)
    shards = found[1] if found else []
    is_whole = found is not None and all(
        _is_whole(f"{uri.rstrip('/')}/{shard.name}", shard, labels, verify) for shard in shards
    )
    return shards if is_whole else None


def _is_whole(uri: str, shard: CopiedShard, labels: dict[str, tuple[int, dict[str, str]]], verify: Verify) -> bool:
    size_bytes, label = labels.get(uri, (-1, {}))
    if size_bytes != shard.size_bytes or label.get(_SHA256) != shard.sha256:
        return False
    return verify == "source" or sha256_of(uri).hex() == shard.sha256


def _upload_all(folder: Path, uri: str, identity: str, verify: Verify) -> int:
    """Upload what is not there yet, several files at a time, and the manifest when all others are; returns the bytes that were sent."""
    size_of = {found: size for found, size, _ in s3.find_objects(uri)}
    upload = partial(_upload, uri=uri.rstrip("/"), identity=identity, verify=verify, size_of=size_of)
    others = sorted(path for path in folder.iterdir() if path.name != MANIFEST_NAME)
    with ThreadPoolExecutor(_N_UPLOADS) as pool:
        n_bytes = sum(pool.map(upload, others))
    return n_bytes + upload(folder / MANIFEST_NAME)


def _upload(path: Path, *, uri: str, identity: str, verify: Verify, size_of: Mapping[str, int]) -> int:
    to, size_bytes = f"{uri}/{path.name}", path.stat().st_size
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    is_there = size_of.get(to) == size_bytes and s3.read_labels(to)[1].get(_SHA256) == digest
    if is_there and (verify == "source" or sha256_of(to).hex() == digest):
        return 0
    s3.put_file(to, path, {_COPY: identity, _SHA256: digest})
    if verify == "read_back" and sha256_of(to).hex() != digest:
        raise DataError(f"{to} reads back otherwise than it was written; check the object store, then run again")
    return size_bytes
