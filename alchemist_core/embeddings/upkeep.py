"""Upkeep of the files of embeddings: taken-down samples are removed from them, and files that no row names are deleted.

Letters: M samples taken down in a file · N samples of a file.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine

from alchemist_core.embeddings.files import file_uri, list_on_disk, own_path, write_embeddings
from alchemist_core.embeddings.reading import Embeddings, find
from alchemist_core.errors import DataError
from alchemist_core.settings import load_settings
from alchemist_core.store.embeddings import (
    StoredFile,
    list_raters_with_files,
    list_uris,
    read_taken_down_ids,
    replace_file,
)

ORPHAN_AGE_S = 3600.0
"""A file that is this old and that no row names belongs to no commit: a process was killed before it."""


def remove_taken_down(engine: Engine) -> tuple[int, list[DataError]]:
    """Write each file that has a taken-down sample again without it.

    Returns:
        The number of samples removed, and why files could not be read; the others were written.
    """
    taken_down_M = read_taken_down_ids(engine)
    n_removed, failures = 0, list[DataError]()
    for rater_id in list_raters_with_files(engine) if len(taken_down_M) else []:
        with _collect(failures):
            embeddings = Embeddings(engine, rater_id)
            for file in embeddings.overlapping(taken_down_M):
                with _collect(failures):
                    n_removed += _remove(engine, embeddings, file, taken_down_M)
    return n_removed, failures


@contextmanager
def _collect(failures: list[DataError]) -> Iterator[None]:
    try:
        yield
    except DataError as error:
        failures.append(error)


def _remove(engine: Engine, embeddings: Embeddings, file: StoredFile, taken_down_M: NDArray[np.int64]) -> int:
    place_M = find(embeddings.map(file).sample_id_N, taken_down_M)
    place_M = place_M[place_M >= 0]
    return len(place_M) if len(place_M) and _rewrite(engine, embeddings, file, place_M) else 0


def _rewrite(engine: Engine, embeddings: Embeddings, file: StoredFile, place_M: NDArray[np.int64]) -> bool:
    """Write a file again without some of its samples, let its row name the new file, and delete the old one."""
    path, mapped = own_path(file.uri, embeddings.rater_id), embeddings.map(file)
    ids, kept = np.delete(mapped.sample_id_N, place_M), np.delete(mapped.embedding_ND, place_M, axis=0)
    new = None
    if len(ids):
        # Another name: readers have mapped the old file.
        name = f"{file.uri.rpartition('/')[2].removesuffix('.arrow').partition('.')[0]}.{len(ids)}"
        new = write_embeddings(file_uri(embeddings.rater_id, name), ids, kept)
    is_replaced = replace_file(engine, file, new)
    if is_replaced:
        path.unlink(missing_ok=True)
    return is_replaced


def remove_orphans(engine: Engine, *, min_age_s: float = ORPHAN_AGE_S) -> int:
    """Delete files of embeddings that no row names; return their number.

    Args:
        engine: The store.
        min_age_s: Age in seconds below which a file may belong to a commit that is under way.
    """
    # The list of files first: a file that is written after it is not considered, and one in it has its row by now, or is too young.
    found = [path for path in list_on_disk() if time.time() - path.stat().st_mtime >= min_age_s]
    named = list_uris(engine)
    artifacts = load_settings().artifacts
    orphans = [path for path in found if path.relative_to(artifacts).as_posix() not in named]
    for path in orphans:
        path.unlink(missing_ok=True)
    return len(orphans)
