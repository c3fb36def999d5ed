"""Import scores that were computed elsewhere; conditions and `select --rank-by` then name them like a scorer."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from alchemist_core.config import Command, Config, Result, Words, counted
from alchemist_core.errors import ConfigError
from alchemist_core.shards.storage import absolute_root
from alchemist_core.stages.execution import StageRun, execute

KeyName = Literal["sample_id", "pair_hash", "image_hash", "source_url", "shard+key"]


class ImportScoresConfig(Config):
    """Which scores to import, and how their rows name samples."""

    from_: str = Field(
        ...,
        description="File of scores: .parquet, .csv or .jsonl; or a folder or s3:// prefix of such files, which are read by name",
    )
    name: str = Field(
        ...,
        pattern=r"^[a-z][a-z0-9_]{0,99}$",
        description="Name of the scores, for --where and --rank-by: small letters, digits and _. A name that exists gets more scores",
    )
    key: KeyName = Field(
        ...,
        description="How a row names a sample. sample_id, pair_hash: as alchemist export writes them. image_hash: sha256 of the image "
        "file; source_url: URL of the image, also in a column url (both: for every sample of that image). shard+key: the tar, by its "
        "address or the end of it, and the key of the record; without a column shard, the file has the name of the tar",
    )
    key_column: Words = Field(
        (),
        description="Names of the key columns in the file, separated by commas; none: as the key (shard+key: shard,key)",
    )
    column: str = Field(
        "score", description="Column of the scores: numbers, higher is better. They are stored as 32-bit floats"
    )
    dataset: str | None = Field(None, description="Dataset whose shards --key shard+key means; none: any dataset")
    on_conflict: Literal["refuse", "keep"] = Field(
        "refuse",
        description="If a sample has two different scores, in the file or in the file and the store. refuse: import nothing. keep: the "
        "stored score stays, else the first one in the file",
    )


class ImportScoresResult(Result):
    """Rows of the file: matched + unmatched + doubled + in conflict + non-finite; samples: new + same + other."""

    name: str
    is_new_name: bool
    n_rows: int
    n_matched: int
    n_unmatched: int
    # Repetitions of an earlier row with the same score.
    n_doubled: int
    # Rows that contradict an earlier row of their sample.
    n_in_conflict: int
    # Rows without a number, or with one that does not fit into 32 bits.
    n_non_finite: int
    # Samples that had no score under the name, had the same one, and had another one, which stays.
    n_new: int
    n_same: int
    n_other: int
    note: str | None = None


def scores(config: ImportScoresConfig) -> ImportScoresResult:
    """Import scores that were computed elsewhere, under a name."""
    placed = config.model_copy(update={"from_": absolute_root(config.from_)})
    return execute("import_scores", placed, lambda stage_run: import_files(placed, stage_run), ImportScoresResult)


def import_files(config: ImportScoresConfig, stage_run: StageRun) -> ImportScoresResult:
    """Import all files in one transaction.

    Raises:
        ConfigError: A file, a column or a dataset is missing, or the name is not allowed.
        DataError: A sample has two different scores, or a file is damaged.
    """
    # pyarrow takes half a second to import.
    from alchemist_core.store.imported_scores import KEYS, ScoreImport, import_scores  # noqa: PLC0415
    from alchemist_core.store.registry import find_dataset  # noqa: PLC0415
    from alchemist_core.store.score_files import KeyColumn, ScoreChunk, find_files, read_scores  # noqa: PLC0415

    key = KEYS[config.key]
    columns = dict(key.columns)
    given = config.key_column
    if len(given) > len(columns):
        raise ConfigError(f"--key-column {','.join(given)}: --key {config.key} has {counted(len(columns), 'column')}.")
    # One name for shard+key is that of the key; the shard is then the file's name.
    for part, column in zip(list(columns)[len(columns) - len(given) :], given, strict=True):
        columns[part] = KeyColumn(columns[part].kind, (column,))
    if config.dataset is not None:
        find_dataset(stage_run.engine, config.dataset)

    def read() -> Iterator[ScoreChunk]:
        for uri in find_files(config.from_):
            yield from read_scores(uri, columns, config.column)

    wanted = ScoreImport(
        config.name, key, should_keep=config.on_conflict == "keep", dataset=config.dataset, run_id=stage_run.run_id
    )
    counts = import_scores(
        stage_run.engine, wanted, read(), lambda n_rows: stage_run.report(n_rows, n_rows, "rows read")
    )
    note = None if counts.n_new else f"Every matched sample has a score {config.name} already: nothing changed."
    fields = {name: getattr(counts, name) for name in counts.__slots__}
    return ImportScoresResult(name=config.name, note=note, **fields)


def _next(config: ImportScoresConfig, _result: ImportScoresResult) -> str:
    return f"alchemist select --rank-by {config.name}"


COMMANDS = {"scores": Command(ImportScoresConfig, scores, _next)}
