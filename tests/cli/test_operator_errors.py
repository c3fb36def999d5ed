"""Mistakes of operators: each ends with one helpful line and its exit code, without a traceback, and changes nothing.

`operator_errors.txt` is the table: exit code | a part of the line | the command. {f} is the folder of prepared files, {long} a name of
300 characters, {hash} a hash that no image has. This file adds rows for every command. All run on one scored store.
"""

import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from _pytest.mark import ParameterSet
from sqlalchemy import make_url, text

from alchemist_core.__main__ import main
from alchemist_core.cli.db import BackupConfig, backup
from alchemist_core.cli.subset import PublishSubsetConfig, publish
from alchemist_core.cli.verbs import PASS_THROUGH, VERBS, load_commands
from alchemist_core.settings import load_settings
from alchemist_core.store.backups import table_checksums
from alchemist_core.store.engine import make_engine, open_store
from tests.faults.test_kills import environment
from tests.trained_store import TrainedStore, select_subset, use_store

pytestmark = [pytest.mark.db, pytest.mark.e2e]

TABLE = Path(__file__).with_name("operator_errors.txt")
AWAY = "postgresql://nobody@127.0.0.1:1/none"
# A valid command line of each command that opens the store.
OPENS_STORE = (
    "ingest --dataset new --root {f}/empty",
    "train-rater --preset tiny --dataset scenes --validation v",
    "score --dataset scenes",
    "select --dataset scenes --retention 0.2",
    "materialize half",
    "train-downstream half --preset tiny",
    "evaluate half --evaluation t",
    "report",
    "rater certify newest",
    "rater promote newest",
    "check --suite scores",
    "night check-drift --dataset scenes",
    "night publish --dataset scenes",
    "night release --dataset scenes --crawl-date 2026-01-01 --reason looked",
    "night reject --dataset scenes --crawl-date 2026-01-01 --reason looked",
    "sample takedown --image-hash {hash} --reason asked",
    "sample retry-quarantine --dataset scenes",
    "duplicates find",
    "duplicates list",
    "plan score --dataset scenes",
    "plan promote newest",
    "plan evaluate",
    "subset list",
    "subset show half",
    "subset diff half",
    "subset publish half",
    "subset rollback half",
    "subset gc",
    "sample explain {hash} --subset half",
    "export scores --out {f}/out.csv",
    "export samples --out {f}/out.csv",
    "export subset half --out {f}/out.csv",
    "export locations half --to {f}/out.parquet",
    "subset compare half",
    "experiment list",
    "experiment show mine",
    "experiment delete mine",
    "tune-selection list",
    "image-text-head --dataset scenes --out {f}/head.safetensors",
    "db checksum",
    "db backup {f}/backup",
    "maintain leases",
    "maintain takedowns",
    "maintain retention",
    "maintain statistics",
)
COMMANDS = [f"{verb} {name}".strip() for verb in VERBS for name in load_commands(verb)]
OWN_PARSER = [command for command in COMMANDS if tuple(command.split()) not in PASS_THROUGH]


@dataclass(frozen=True)
class Row:
    """One mistake: a command line, its exit code, a part of its output, and its settings."""

    code: int
    text: str
    line: str
    settings: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        given = " ".join(f"{name}={value}" for name, value in self.settings.items())
        return f"{given} {self.line}".strip()[:100]


def read_table() -> list[Row]:
    lines = [line for line in TABLE.read_text().splitlines() if line and not line.startswith("#")]
    parts = [line.split(" | ", 2) for line in lines]
    return [Row(int(code), said.strip(), line) for code, said, line in parts]


ROWS = [
    *read_table(),
    *(Row(2, f"See: alchemist {command} --help", f"{command} --nonsense") for command in OWN_PARSER[::3]),
    *(Row(3, "alchemist db start", line, {"ALCHEMIST_DATABASE_URL": AWAY}) for line in OPENS_STORE),
    *(Row(3, "alchemist db migrate", line, {"ALCHEMIST_DATABASE_URL": "{empty}"}) for line in OPENS_STORE[::3]),
    *(Row(2, name, "subset list", {name: value}) for name, value in (
        ("ALCHEMIST_DATABASE_URL", "mysql://here/x"), ("ALCHEMIST_DATABASE_URL", "nonsense"),
        ("ALCHEMIST_LEASE_TTL_S", "0"), ("ALCHEMIST_LEASE_TTL_S", "soon"), ("ALCHEMIST_SCORE_SLOTS", "0"),
        ("ALCHEMIST_DECODE_WORKERS", "-1"), ("ALCHEMIST_STATSD_PORT", "80"), ("ALCHEMIST_OPENLINEAGE", "perhaps"),
        ("ALCHEMIST_PRICE_PER_GPU_HOUR", "-1"), ("ALCHEMIST_BUDGET_PER_DAY", "lots"),
    )),
    Row(2, "ALCHEMIST_PROJECT", "check --suite scores", {"ALCHEMIST_PROJECT": "{f}/absent.toml"}),
    Row(2, "NUL", "subset show ha\0lf"),
    Row(2, "NUL", "ingest --dataset new --root {f}/em\0pty"),
]  # fmt: skip


@dataclass(frozen=True)
class Shop:
    """A scored store with a published subset, a folder of prepared files, and what must not change."""

    store: TrainedStore
    files: Path
    empty_url: str

    def state(self) -> tuple[object, ...]:
        """Everything that a mistake could change: data, audit events, artifacts, files beside."""
        engine = make_engine(self.store.url)
        with engine.connect() as connection:
            n_events = connection.execute(text("SELECT count(*) FROM alchemist.audit_events")).scalar_one()
        engine.dispose()
        made = sorted(str(path) for folder in (self.files, self.store.home / "artifacts") for path in folder.rglob("*"))
        return table_checksums(self.store.url), n_events, made

    def words(self, line: str) -> list[str]:
        values = {"f": str(self.files), "long": "x" * 300, "hash": "0" * 64, "empty": self.empty_url}
        return [word.format(**values) for word in line.split(" ")]


def write_files(folder: Path) -> None:
    for name in ("empty", "folder.csv", "folder.parquet"):
        (folder / name).mkdir(parents=True)
    for name, content in (("file.txt", "hello\n"), ("bad.json", "{"), ("list.json", "[1]"), ("prompts.jsonl", "{}\n")):
        (folder / name).write_text(content)
    (folder / "bad.parquet").write_bytes(b"PAR1" + b"x" * 100)
    (folder / "zero.parquet").write_bytes(b"")
    pq.write_table(pa.table({"a": list(range(1_000))}), folder / "other.parquet")
    (folder / "short.parquet").write_bytes((folder / "other.parquet").read_bytes()[:-500])
    pq.write_table(pa.table({"image": [b"no picture"] * 3, "caption": ["a"] * 3}), folder / "pictures.parquet")
    for name, note in (("bad-backup", "{"), ("list-backup", "[1]"), ("half-backup", '{"checksum": "x"}')):
        (folder / name).mkdir()
        (folder / name / "backup.json").write_text(note)


@pytest.fixture(scope="module")
def shop(
    scored_once: TrainedStore, make_database: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> Shop:
    root = tmp_path_factory.mktemp("shop")
    subprocess.run(["cp", "-r", str(scored_once.home), str(root / "home")], check=True)
    store = TrainedStore(make_database(template=make_url(scored_once.url).database), root / "home")
    write_files(root / "files")
    with pytest.MonkeyPatch.context() as patch:
        use_store(patch, store)
        select_subset("half", 0.5, strategy="gsample", std_rank=0.2, seed=7)
        publish(PublishSubsetConfig(name="half"))
        backup(BackupConfig(folder=root / "files" / "good-backup"))
        open_store().dispose()
    load_settings.cache_clear()
    return Shop(store, root / "files", make_database(template=None))


@pytest.fixture(scope="module")
def states(shop: Shop) -> list[tuple[object, ...]]:
    """The state after each row, so that one that changes something fails alone."""
    return [shop.state()]


def sampled(rows: list[Row]) -> list[ParameterSet]:
    """Mark all but every eighth row as slow."""
    return [
        pytest.param(row, id=str(row), marks=[pytest.mark.slow] * (number % 8 > 0)) for number, row in enumerate(rows)
    ]


@pytest.mark.parametrize("row", sampled(ROWS))
def test_a_mistake_ends_in_one_line_and_changes_nothing(
    row: Row,
    shop: Shop,
    states: list[tuple[object, ...]],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    use_store(monkeypatch, shop.store)
    monkeypatch.chdir(shop.files)
    for name, value in row.settings.items():
        monkeypatch.setenv(name, shop.words(value)[0])
    load_settings.cache_clear()
    try:
        code = main(shop.words(row.line))
    except SystemExit as refused:  # As argparse ends.
        code = int(refused.code or 0)
    said = capfd.readouterr().err
    states.append(shop.state())
    assert (code, row.text in said) == (row.code, True), said
    assert sum(line.startswith("error: ") for line in said.splitlines()) == 1
    assert "Traceback" not in said
    assert "defect of Alchemist" not in said
    assert states[-1] == states[-2]


LIMITED = (
    "export samples --out {f}/out.jsonl",
    "export scores --out {f}/out.parquet",
    "report --out {f}/page.html",
    "db backup {f}/full-backup",
    "materialize half",
    "train-downstream half --preset tiny --num-train-epochs 1",
)


@pytest.mark.slow
@pytest.mark.parametrize("line", LIMITED)
def test_a_full_disk_is_one_line(line: str, shop: Shop) -> None:
    """A limit on the file size imitates a full disk: the write fails in the same place."""
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2048, {resource.RLIM_INFINITY}))"
    code = f"{limit}\nimport sys\nfrom alchemist_core.__main__ import main\nsys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, *shop.words(line)],
        env=environment(shop.store), cwd=shop.files, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode in {1, 3, 6}, done.stderr
    assert "Traceback" not in done.stderr
    assert "defect of Alchemist" not in done.stderr
    assert "error: " in done.stderr


@pytest.mark.parametrize(
    "home",
    [
        "/dev/null/home",
        *(pytest.param(home, marks=pytest.mark.slow) for home in ("{f}/file.txt", "/proc/nowhere/home", "{f}/{long}")),
    ],
)
@pytest.mark.parametrize(
    "line",
    [
        "subset list",
        pytest.param("db start", marks=pytest.mark.slow),
        pytest.param("ingest --dataset new --root {f}/empty", marks=pytest.mark.slow),
    ],
)
def test_a_home_that_cannot_be_written_is_one_line(line: str, home: str, shop: Shop) -> None:
    given = {name: value for name, value in environment(shop.store).items() if name != "ALCHEMIST_DATABASE_URL"}
    done = subprocess.run(
        [sys.executable, "-m", "alchemist_core", *shop.words(line)],
        env=given | {"ALCHEMIST_HOME": shop.words(home)[0]}, cwd=shop.files, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode in {2, 3}, done.stderr
    assert "Traceback" not in done.stderr
    assert "defect of Alchemist" not in done.stderr
    assert "error: " in done.stderr


def test_three_hundred_mistakes_are_tried() -> None:
    assert len({(row.line, tuple(row.settings.items())) for row in ROWS}) + len(LIMITED) + 12 >= 300
