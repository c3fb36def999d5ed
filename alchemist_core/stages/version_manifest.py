"""The manifest of a stored version: read where it is, drawn again from the version's spec where it was collected or lost."""

from sqlalchemy import Engine

from alchemist_core.data.artifacts import artifact_path
from alchemist_core.data.manifests import Manifest, read_manifest, write_manifest
from alchemist_core.errors import DataError
from alchemist_core.stages.drawing import Drawn, redraw
from alchemist_core.store.subsets import SubsetRow
from alchemist_core.telemetry import say


def load_manifest(engine: Engine, subset: SubsetRow) -> Manifest:
    """Return a version's members, compared with the hash that was registered.

    Raises:
        DataError: If the file or the draw does not give the registered members.
    """
    path = artifact_path(subset.manifest_uri)
    if not path.is_file():
        say(f"The manifest of {subset.title} is not there: drawing it again.")
        manifest = manifest_of(redraw(engine, subset))
        if (found := manifest.sha256()) != subset.manifest_sha256:
            raise DataError(
                f"{subset.title} was {subset.manifest_sha256}, its spec now gives {found}: not used. Restore {path} from a backup."
            )
        write_manifest(path, manifest)
    return read_manifest(path, sha256=subset.manifest_sha256)


def manifest_of(drawn: Drawn) -> Manifest:
    """Return a draw's members with rank and score."""
    pairs, member_K = drawn.snapshot.pairs, drawn.member_K
    return Manifest(pairs.pair_hash_N32[member_K], drawn.snapshot.rank_N[member_K], pairs.score_N[member_K])
