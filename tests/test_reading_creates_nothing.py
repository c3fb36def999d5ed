"""Only commands that write data or start servers create a store; every other one refuses a folder without a store."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from alchemist_core.__main__ import main
from alchemist_core.cli.verbs import VERBS, load_commands
from alchemist_core.errors import ConfigError
from alchemist_core.settings import load_settings
from alchemist_core.store.postgres import is_running, stop_postgres

# Each of them creates a store: it writes data, starts the stack, or starts the server.
CREATE = {
    "ingest (with --root)", "demo", "stack up", "db start", "db migrate", "db restore",
    "experiment run", "experiment datasets", "experiment dynamics", "tune-selection run",
    "tune-selection search",
}  # fmt: skip
# Each of them needs no store.
WITHOUT = {
    "db stop",
    "db provision",
    "stack down",
    "stack status",
    "stack logs",
    "corpus scenes",
    "corpus import",
    "dags list",
    "dags install",
    "maintain airflow",
    "maintain logs",
    "stack airflow",
    "init",
    "config show",
    "config check",
    "settings",
    "weights list",
    "weights check",
    "presets",
    "docs",
    "doctor",
    "plan train-rater",
    "plan train-downstream",
}
REFUSE: dict[str, tuple[str, ...]] = {
    "ingest": (),
    "train-rater": ("--preset", "tiny", "--dataset", "d", "--validation", "v"),
    "score": (),
    "select": ("--dataset", "d"),
    "materialize": ("s",),
    "train-downstream": ("s", "--preset", "tiny"),
    "evaluate": ("s",),
    "report": (),
    "rater certify": (),
    "rater promote": (),
    "check": ("--suite", "scores"),
    "night check-drift": (),
    "night publish": (),
    "night announce": (),
    "night release": ("--dataset", "d", "--crawl-date", "2026-01-01", "--reason", "asked for"),
    "night reject": ("--dataset", "d", "--crawl-date", "2026-01-01", "--reason", "asked for"),
    "sample flag": ("12", "--as", "bad"),
    "sample flags": (),
    "sample takedown": ("--image-hash", "0" * 64, "--reason", "asked for"),
    "sample retry-quarantine": (),
    "shard list": (),
    "shard show": ("a.tar",),
    "shard retire": ("a.tar", "--reason", "asked for"),
    "shard reread": ("a.tar", "--reason", "asked for"),
    "duplicates find": (),
    "duplicates list": (),
    "duplicates find-semantic": (),
    "duplicates list-semantic": (),
    "search": ("a red bicycle",),
    "explore": (),
    "recaption": ("--dataset", "d", "--endpoint", "http://localhost:1/v1", "--model", "m", "--prompt", "p"),
    "score-aesthetics": ("--dataset", "d"),
    "night list": (),
    "plan night": ("--crawl-date", "2026-01-01"),
    "plan score": (),
    "plan promote": (),
    "plan publish": ("s",),
    "plan evaluate": (),
    "rater list": (),
    "scorer list": (),
    "scorer train": ("critic", "--validation", "v"),
    "scorer register": ("s", "--use", "module:Class"),
    "scorer check": ("s", "--use", "module:Class", "--dataset", "d"),
    "scorer retire": ("s",),
    "scorer serve": ("s",),
    "subset list": (),
    "subset show": ("s",),
    "subset buckets": ("s",),
    "subset diff": ("s",),
    "subset publish": ("s",),
    "subset rollback": ("s",),
    "subset withdraw": ("s", "--reason", "asked for"),
    "subset gc": (),
    "sample explain": ("12", "--subset", "s"),
    "export scores": ("--out", "o.parquet"),
    "export samples": ("--out", "o.parquet"),
    "export locations": ("s", "--to", "o.parquet"),
    "export subset": ("s", "--out", "o.parquet"),
    "import scores": ("--from", "o.parquet", "--name", "n", "--key", "sample_id"),
    "export embeddings": ("--out", "o.parquet"),
    "subset compare": ("s",),
    "experiment list": (),
    "experiment show": ("e",),
    "experiment delete": ("e",),
    "tune-selection list": (),
    "geneval draw": ("--model", "m", "--prompts", "p.jsonl", "--out", "o"),
    "geneval judge": ("--images", "i", "--detector", "d", "--clip", "c", "--class-names", "n", "--out", "o"),
    "image-text-head": ("--dataset", "d", "--out", "o.safetensors"),
    "dataset list": (),
    "dataset show": ("d",),
    "dataset set-default": ("d",),
    "dataset rename": ("d", "e"),
    "dataset remove": ("d", "--reason", "asked for"),
    "db url": (),
    "db psql": ("-c", "SELECT 1"),
    "db checksum": (),
    "db backup": ("b",),
    "serve-metrics": (),
    "maintain leases": (),
    "maintain takedowns": (),
    "maintain embeddings": (),
    "maintain retention": (),
    "maintain statistics": (),
    "note failure": ("--subject", "d.t", "--reason", "asked for"),
    "note success": ("--subject", "d.t"),
    "note approval": ("--subject", "d.t", "--reason", "asked for"),
    "note answer": ("--subject", "d.t", "--answer", "approve", "--approved-by", "me"),
}


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder as the working directory."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("ALCHEMIST_HOME")
    load_settings.cache_clear()
    yield folder
    stop_postgres(folder / ".alchemist")


def test_every_command_creates_a_store_or_refuses_or_needs_none() -> None:
    names = {f"{verb} {sub}".strip() for verb in VERBS for sub in load_commands(verb)}
    assert names == {name for name in CREATE if "(" not in name} | WITHOUT | set(REFUSE)


@pytest.mark.parametrize("command", REFUSE)
def test_a_command_that_reads_refuses_a_folder_without_a_store(
    command: str, empty: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command.split(), *REFUSE[command]]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith(
        f"error: There is no store in {empty / '.alchemist'} (ALCHEMIST_HOME, or .alchemist in the current"
    )
    assert "alchemist ingest --dataset NAME --root FOLDER" in said
    assert "\n" not in said
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize("command", ["db stop", "stack down", "stack status", "maintain logs"])
def test_looking_at_the_servers_of_a_folder_without_any_creates_nothing(command: str, empty: Path) -> None:
    assert main(command.split()) == 0
    assert list(empty.iterdir()) == []


def test_airflows_own_command_line_refuses_a_folder_without_a_stack(
    empty: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stack", "airflow", "dags", "list"]) != 0
    assert (
        f"There is no Airflow in {empty / '.alchemist'}. Start the stack once: alchemist stack up."
        in capsys.readouterr().err
    )
    assert list(empty.iterdir()) == []


def test_a_dataset_of_a_subset_is_not_read_from_a_folder_without_a_store(empty: Path) -> None:
    from alchemist_core.subsets.dataset import SubsetDataset

    with pytest.raises(ConfigError, match=f"There is no store in {empty / '.alchemist'}"):
        SubsetDataset("web-auto-r20")
    assert list(empty.iterdir()) == []


@pytest.mark.db
@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    ["experiment run --experiment rank_window", "experiment datasets", "tune-selection run", "tune-selection search"],
)
def test_an_experiment_on_synthetic_scenes_creates_the_store_even_to_state_its_cost(command: str, empty: Path) -> None:
    small = ["--model", "batch_size=32,width=16,depth=1", "--training", "batch_size=32"]
    assert main([*command.split(), "--dry-run", *small]) == 0
    assert is_running(empty / ".alchemist")


@pytest.mark.db
@pytest.mark.slow
def test_ingesting_a_folder_of_shards_creates_the_store(empty: Path) -> None:
    (empty / "shards").mkdir()
    assert main(["ingest", "--dataset", "d", "--root", "shards"]) == 0
    assert is_running(empty / ".alchemist")
    assert main(["dataset", "list"]) == 0
