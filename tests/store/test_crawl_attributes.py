"""A new crawl attribute is one line and a migration; ingest, tables and exports use them."""

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from PIL import Image

pytestmark = pytest.mark.db

# The whole change, and what a user then does.
ONE_MORE_ATTRIBUTE = """
import sys
from pathlib import Path
from sqlalchemy import text

from alchemist_core.shards import crawl_attributes
crawl_attributes.CRAWL_ATTRIBUTES += (crawl_attributes.CrawlAttribute("artist", ("artist", "author"), "Who made the image"),)

from alchemist_core.store.engine import make_engine, migrate
url, folder = sys.argv[1], Path(sys.argv[2])
with make_engine(url).begin() as connection:
    connection.execute(text("ALTER TABLE alchemist.samples ADD COLUMN artist varchar"))
assert migrate(url), "the column's comment is new"

from alchemist_core.cli.export import ExportSamplesConfig, samples
from alchemist_core.stages.ingest import IngestConfig, run
from alchemist_core.store.engine import open_store
run(IngestConfig(dataset="web", root=str(folder)))
report = samples(ExportSamplesConfig(out=folder / "out.jsonl", where="artist like 'Ann%' and licence is null"))
with open_store().connect() as connection:
    comment = connection.execute(text("SELECT col_description('alchemist.samples'::regclass, attnum) FROM pg_attribute"
        " WHERE attrelid = 'alchemist.samples'::regclass AND attname = 'artist'")).scalar_one()
    metadata = connection.execute(text("SELECT metadata FROM alchemist.samples WHERE caption = 'by Ann Lee'")).scalar_one()
assert (report.n_rows, comment, metadata) == (1, "Who made the image", {"year": 1999})
"""


def write_tar(path: Path, authors: list[str]) -> None:
    with tarfile.open(path, "w") as tar:
        for number, author in enumerate(authors):
            image = io.BytesIO()
            Image.new("RGB", (64, 64), (number, 0, 0)).save(image, "PNG")
            about = json.dumps({"author": author, "year": 1999}).encode()
            for ext, data in (("png", image.getvalue()), ("txt", f"by {author}".encode()), ("json", about)):
                entry = tarfile.TarInfo(f"{number:06d}.{ext}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))


@pytest.mark.slow
def test_one_more_attribute_is_one_line_and_a_migration(database_url: str, tmp_path: Path) -> None:
    (tmp_path / "2026-01-01").mkdir()
    write_tar(tmp_path / "2026-01-01" / "a.tar", ["Ann Lee", "Bob"])
    subprocess.run([sys.executable, "-c", ONE_MORE_ATTRIBUTE, database_url, str(tmp_path)], check=True)
    (row,) = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert (row["caption"], row["artist"], row["licence"]) == ("by Ann Lee", "Ann Lee", None)
