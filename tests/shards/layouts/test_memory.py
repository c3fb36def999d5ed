"""Reading 100,000 rows of Parquet needs only the memory of a few."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.shards.layouts.given_layouts import png

ROOT = Path(__file__).parents[3]
N_ROWS = 100_000
# The rows of the file would take 400 MB at once.
PICTURE = png() + bytes(4096 - len(png()))
IMPORT = """
import sys
from pathlib import Path
from alchemist_core.shards.layouts.parquet_images import read_parquet
from alchemist_core.shards.layouts.records import write_shards
from tests.peak_memory import peak_mib

records = read_parquet(Path(sys.argv[1]))
for _ in range(200):
    next(records)
before = peak_mib()
n = 200 + write_shards(records, Path(sys.argv[2]), shard_size=1000)
print(n, round(peak_mib() - before))
"""


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parquet")
    schema = pa.schema([("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("text", pa.string())])
    with pq.ParquetWriter(folder / "rows.parquet", schema, compression="none", use_dictionary=False) as writer:
        for start in range(0, N_ROWS, 1000):
            images = [{"bytes": PICTURE, "path": None}] * 1000
            texts = [f"caption {place}" for place in range(start, start + 1000)]
            writer.write_table(pa.table({"image": images, "text": texts}, schema=schema))
    return folder


@pytest.mark.slow
def test_a_hundred_thousand_rows_are_imported_in_bounded_memory(parquet: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, str(parquet), str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    n_rows, grown_mib = map(int, done.stdout.split())
    assert n_rows == N_ROWS
    assert len(list(tmp_path.glob("*.tar"))) == N_ROWS // 1000
    assert grown_mib < 64
