"""Where copies lie: folders of the home, folders elsewhere, and `s3://` prefixes. A finished copy has its manifest there, which comes last.

To an object store each tar goes by way of the home: written there, uploaded, and removed, so that only tars under way need room.
"""

import hashlib
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from alchemist_core.errors import DataError, MissingShardError
from alchemist_core.files import artifact_path, file_sha256
from alchemist_core.shards import s3
from alchemist_core.shards.storage import is_s3, open_shard, sha256_of
from alchemist_core.subsets.copying import (
    MANIFEST_NAME,
    CopiedShard,
    Copy,
    InFolder,
    Layout,
    Report,
    ShardPlan,
    Verify,
    copy_members,
    hidden_folder,
    identify_copy,
    read_copy_manifest,
)
from alchemist_core.subsets.member_table import MemberTable

_N_QUESTIONS = 16
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
        return copy_members(members, artifact_path(uri), layout, place=InFolder(verify), report=report)
    bucket = _InBucket(uri.rstrip("/"), identify_copy(members, layout), verify)
    if (shards := bucket.find_copy()) is not None:
        return Copy(Path(uri), shards, 0)
    local = _staging(uri) / bucket.uri.rpartition("/")[2]
    copy = copy_members(members, local, layout, place=bucket, report=report)
    beside = sorted(local.iterdir(), key=lambda path: path.name == MANIFEST_NAME)
    n_bytes = copy.n_bytes_written + sum(map(bucket.put, beside))
    shutil.rmtree(_staging(uri))
    return copy._replace(n_bytes_written=n_bytes)


def is_finished(uri: str) -> bool:
    """Tell whether a copy has its manifest, which is written last; one that cannot be looked at counts as finished."""
    if not is_s3(uri):
        return (artifact_path(uri) / MANIFEST_NAME).exists()
    try:
        s3.stat_object(f"{uri.rstrip('/')}/{MANIFEST_NAME}")
    except MissingShardError:
        return False
    except DataError:
        return True
    return True


def copy_size(uri: str) -> int:
    """Return the bytes that a copy takes up, also one that was not finished.

    Raises:
        DataError: It cannot be looked at, so that nobody knows whether it is there.
    """
    n_uploaded = sum(size for _, size, _ in s3.find_objects(uri)) if is_s3(uri) else 0
    try:
        return n_uploaded + sum(map(_folder_size, _folders(uri)))
    except OSError as error:
        raise DataError(
            f"{error.filename or uri} cannot be looked at ({error.strerror}): correct its rights, then run again"
        ) from error


def remove_copy(uri: str) -> None:
    """Remove a copy, also one that was not finished.

    Raises:
        DataError: Something of it cannot be removed, and is still there.
    """
    if is_s3(uri):
        s3.remove_objects(uri)
    for folder in _folders(uri):
        try:
            shutil.rmtree(folder)
        except OSError as error:
            raise DataError(
                f"{folder} cannot be removed ({error.strerror or error}): correct the folder's rights, then run again"
            ) from error


def _folder_size(folder: Path) -> int:
    def refuse(error: OSError) -> None:
        raise error

    found = os.walk(folder, onerror=refuse)
    return sum(Path(where, name).lstat().st_size for where, _, names in found for name in names)


def _staging(uri: str) -> Path:
    """Return the folder of the home by way of which a copy is uploaded."""
    return artifact_path(f"uploading/{hashlib.sha256(uri.encode()).hexdigest()[:16]}")


def _folders(uri: str) -> list[Path]:
    if is_s3(uri):
        return [_staging(uri)] if _staging(uri).exists() else []
    return [folder for folder in (artifact_path(uri), hidden_folder(artifact_path(uri))) if folder.exists()]


@dataclass(frozen=True, slots=True)
class _InBucket:
    """A copy under a prefix, whose objects all bear its identity and their sha256 as labels."""

    uri: str
    identity: str
    verify: Verify

    def has(self, _folder: Path, shard: CopiedShard) -> bool:
        """Tell whether an uploaded tar is there and whole."""
        return self._is_whole(f"{self.uri}/{shard.name}", shard.size_bytes, shard.sha256)

    def write(self, folder: Path, plan: ShardPlan) -> tuple[CopiedShard, int]:
        """Copy a tar's records, upload it and free its room; bytes are those that were sent."""
        shard, _ = InFolder("source").write(folder, plan)
        n_bytes = self.put(folder / shard.name)
        (folder / shard.name).unlink()
        return shard, n_bytes

    def put(self, path: Path) -> int:
        """Upload a file unless it is there; returns the bytes that were sent.

        Raises:
            DataError: The store refuses it, or gives back other bytes.
        """
        to, size_bytes = f"{self.uri}/{path.name}", path.stat().st_size
        digest = file_sha256(path).hex()
        if self._is_whole(to, size_bytes, digest):
            return 0
        s3.put_file(to, path, {_COPY: self.identity, _SHA256: digest})
        if self.verify == "read_back" and sha256_of(to).hex() != digest:
            raise DataError(f"{to} reads back otherwise than it was written; check the object store, then run again")
        return size_bytes

    def find_copy(self) -> list[CopiedShard] | None:
        """Return the tars of a finished and undamaged copy; None where it has to be made, or made whole.

        Raises:
            DataError: Something else lies under the prefix, or the store cannot be asked.
        """
        sizes = {found: size for found, size, _ in s3.find_objects(self.uri)}
        with ThreadPoolExecutor(_N_QUESTIONS) as pool:
            labels = dict(zip(sizes, (label for _, label in pool.map(s3.read_labels, sizes)), strict=True))
            if strange := [found for found, label in labels.items() if label.get(_COPY) != self.identity]:
                raise DataError(
                    f"{strange[0]} is there and belongs to something else; remove what lies under {self.uri}, or name another place"
                )
            shards = self._read_manifest() if f"{self.uri}/{MANIFEST_NAME}" in labels else None
            if shards is None:
                return None
            tars = {f"{self.uri}/{shard.name}": (shard.size_bytes, shard.sha256) for shard in shards}
            if any((sizes.get(tar), labels.get(tar, {}).get(_SHA256)) != wanted for tar, wanted in tars.items()):
                return None
            is_read_back = pool.map(self._reads_back, labels, (label[_SHA256] for label in labels.values()))
            return shards if all(is_read_back) else None

    def _read_manifest(self) -> list[CopiedShard] | None:
        with open_shard(f"{self.uri}/{MANIFEST_NAME}") as file:
            found = read_copy_manifest(file)
        return found[1] if found else None

    def _is_whole(self, uri: str, size_bytes: int, digest: str) -> bool:
        try:
            found_bytes, label = s3.read_labels(uri)
        except DataError:
            return False
        return (found_bytes, label.get(_SHA256)) == (size_bytes, digest) and self._reads_back(uri, digest)

    def _reads_back(self, uri: str, digest: str) -> bool:
        return self.verify == "source" or sha256_of(uri).hex() == digest
