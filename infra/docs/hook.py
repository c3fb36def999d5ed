"""Hook of MkDocs that adds the pages that are not written by hand. MkDocs loads it by the name in mkdocs.yml."""

import sys
from functools import cache
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parents[2]))

from infra.docs import site


@cache
def _pages() -> dict[str, str]:
    # Once for each `mkdocs serve`, because the server of the database takes seconds.
    with site.migrated_database() as connection:
        return site.render(connection)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for path, text in _pages().items():
        files.append(File.generated(config, path, content=text))
    return files
