"""Alchemist from Python: read a store as Arrow tables and run the stages, from a notebook or another program.

Reading happens in this process, by transactions that cannot write. A command runs in a process of its own, exactly as from the
command line: a crash, a lost lease or the GPU memory that it needs cost the command and not the notebook.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import TracebackType
from typing import IO, Any, get_args, get_type_hints

import pyarrow as pa
from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo
from sqlalchemy import Engine

from alchemist_core.cli.effective import choices_of
from alchemist_core.cli.flags import flag_fields, flag_of
from alchemist_core.cli.verbs import STAGES, VERBS, load_commands
from alchemist_core.config import BARE_WORD, Command, Result
from alchemist_core.errors import AlchemistError, ConfigError
from alchemist_core.settings import load_settings
from alchemist_core.store.arrow import read_table, table_of
from alchemist_core.store.engine import check_schema, database_url, make_engine, read_only
from alchemist_core.store.export import EXPORTED_COLUMNS, SCORE_COLUMNS, stream_rows
from alchemist_core.store.raters import find_rater
from alchemist_core.telemetry import OnProgress

_PROGRESS = re.compile(r"^.+?: ([\d,]+)/([\d,]+)(?: (.*))?$")


class Store:
    """One store: its rows as Arrow tables, and its commands.

    Convert a table to a data frame by `table.to_pandas()` or `polars.from_arrow(table)`.

    Args:
        url: Postgres URL. None: `ALCHEMIST_DATABASE_URL` (or `ALCHEMIST_DATABASE_URL_FILE`), else the embedded server of `home`, which is
            started if needed.
        home: Folder of artifacts and of the embedded server. None: `ALCHEMIST_HOME`, else `.alchemist` here.

    Raises:
        StoreError: Postgres is unreachable, or its schema does not match this version.
        ConfigError: The URL is not valid, or `home` has no store.
    """

    def __init__(self, url: str | None = None, *, home: str | Path | None = None) -> None:
        given: dict[str, Any] = {}
        if url is not None:
            given["database_url"] = SecretStr(url)
        if home is not None:
            given["home"] = Path(home)
        settings = load_settings().model_copy(update=given)
        self._url = database_url(settings)
        check_schema(self._url, may_create=False)
        # Every transaction is read-only: a query of several statements can begin another one.
        self._engine: Engine = make_engine(read_only(self._url))
        self._environment = {"ALCHEMIST_DATABASE_URL": self._url, "ALCHEMIST_HOME": str(settings.home.resolve())}

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the next read opens new ones."""
        self._engine.dispose()

    def query(self, sql: str, **parameters: Any) -> pa.Table:
        """Run a read-only query. Values are bound parameters: `query("… WHERE name = :name", name="scenes")`.

        A column of JSON, such as `runs.config`, is text: read it with `json.loads`, or choose a key in SQL (`config ->> 'dataset'`).
        """
        return read_table(self._engine, sql, parameters)

    def scores(self, where: str | None = None, *, rater: str = "production") -> pa.Table:
        """Return one row per score of a rater, with its rank, its sample and the sample's location, without samples taken down since.

        Args:
            where: Condition on the columns, and on scorers and imported scores by their names, for example "rank < 0.1 and clip > 0.3".
                None: all.
            rater: Name of a rater, or "production", or "newest".

        Raises:
            ConfigError: The condition is not valid, or there is no such rater.
        """
        found = find_rater(self._engine, rater)
        if found is None:
            raise ConfigError("There is no rater in production, so there are no scores. Give a rater: rater=NAME.")
        rows = stream_rows(self._engine, "export_scores", SCORE_COLUMNS, where, {"rater_id": found.rater_id})
        return table_of(SCORE_COLUMNS, rows)

    def ranks(self, where: str | None = None, *, rater: str = "production") -> pa.Table:
        """Return sample_id, pair_hash, score and rank (0 = highest score) of a rater's scores; see `scores` for the arguments."""
        return self.scores(where, rater=rater).select(["sample_id", "pair_hash", "score", "rank"])

    def samples(self, where: str | None = None) -> pa.Table:
        """Return one row per sample: hashes, caption, size, heuristics, location. See `scores` for `where`."""
        return table_of(EXPORTED_COLUMNS, stream_rows(self._engine, "export_samples", EXPORTED_COLUMNS, where, {}))

    def nights(self, dataset: str | None = None) -> pa.Table:
        """Return one row per night (a crawl date of one dataset): how many samples were found, scored and quarantined, and its state."""
        return self._view("nightly_overview", "dataset", dataset, "crawl_date DESC, dataset")

    def subsets(self, name: str | None = None) -> pa.Table:
        """Return one row per subset version, with the held-out losses measured for it."""
        return self._view("subset_overview", "name", name, "name, version")

    def comparisons(self, name: str | None = None) -> pa.Table:
        """Return one row per arm and metric of each subset version: means over seeds, and gains with intervals."""
        return self._view("subset_comparisons", "name", name, "name, version")

    def run(self, command: str, *, on_progress: OnProgress | None = None, **fields: Any) -> Result | None:
        """Run a command, as on the command line, and return its result.

        Args:
            command: A verb, and its sub-verb if it has one: "score", "subset publish".
            on_progress: Called with (done, total, note) while the command works.
            fields: The command's flags with underscores: `retention=0.2`, `dry_run=True`; a list is written with commas, or
                word by word where the command takes words.

        Returns:
            The result, also one that is bad news, such as what `doctor` misses (its `exit_code`). None: the command has no result.

        Raises:
            ConfigError: The command or a flag does not exist, or a value breaks a bound.
            AlchemistError: The command failed; the class is that of its exit code.
        """
        found = _find_command(command)
        arguments = _arguments(found, fields, command)
        line = [sys.executable, "-m", "alchemist_core", *command.split(), "--json", *arguments]
        # Standard output goes to a file: while this process follows the log lines, a full pipe would block the command.
        with tempfile.TemporaryFile("w+", encoding="utf-8") as printed:
            exit_code, lines = self._follow(line, printed, on_progress)
            printed.seek(0)
            result = _result_of(found, printed.read(), has_failed=exit_code != 0)
        if exit_code != (0 if result is None else result.exit_code):
            raise _error_of(exit_code, lines)
        return result

    def preview(self, *, on_progress: OnProgress | None = None, **fields: Any) -> Result:
        """Report what `select` would select: size, ranks, sources, expected gain. Nothing is written. See `run` for the arguments."""
        report = self.run("select", on_progress=on_progress, dry_run=True, **fields)
        assert report is not None
        return report

    def _follow(self, line: list[str], printed: IO[str], on_progress: OnProgress | None) -> tuple[int, list[str]]:
        # The lines are parsed here, so they must be text, even if the environment sets another log format.
        environment = os.environ | self._environment | {"ALCHEMIST_LOG_FORMAT": "text"}
        with subprocess.Popen(
            line, env=environment, stdin=subprocess.DEVNULL, stdout=printed, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                lines = list(_read_log(process.stderr, on_progress))
            except BaseException:
                # An interrupt in a notebook reaches only this process, so pass it on. The command resumes when it is run again.
                process.terminate()
                raise
        return process.returncode, lines

    def _view(self, view: str, column: str, value: str | None, order: str) -> pa.Table:
        # The names are constants of this class; only the value comes from outside.
        condition = f"WHERE {column} = :value" if value is not None else ""
        return self.query(f"SELECT * FROM alchemist.{view} {condition} ORDER BY {order}", value=value)  # noqa: S608


def _find_command(command: str) -> Command:
    verb, _, sub = command.partition(" ")
    if verb not in VERBS:
        near = get_close_matches(verb, VERBS, n=1)
        raise ConfigError(f"{command!r} is not a command.{f' Did you mean {near[0]!r}?' if near else ''}")
    commands = load_commands(verb)
    if sub not in commands:
        raise ConfigError(f"{command!r} is not a command. {verb} has: {', '.join(map(repr, commands))}.")
    return commands[sub]


def _arguments(command: Command, fields: Mapping[str, Any], title: str) -> list[str]:
    beside = [*choices_of(title), *(["slot"] if title in STAGES else [])]
    known = {name: FieldInfo(annotation=str) for name in beside}
    known |= {path[-1]: field for path, field in flag_fields(command.config)}
    flags, words = [], dict[str, list[str]]()
    for name, value in fields.items():
        if name not in known:
            near = get_close_matches(name, known, n=1)
            raise ConfigError(f"{title} has no field {name!r}.{f' Did you mean {near[0]!r}?' if near else ''}")
        if value is None:
            continue
        flag = flag_of(name, known[name])
        if known[name].json_schema_extra == BARE_WORD:
            words[name] = [str(one) for one in value] if isinstance(value, (list, tuple)) else [str(value)]
        elif isinstance(value, bool):
            flags.append(flag if value else f"--no-{flag.removeprefix('--')}")
        else:
            flags.append(f"{flag}={_text(value)}")
    # In the order in which the command takes them.
    bare = [word for name in known for word in words.get(name, ())]
    return [*flags, *(["--", *bare] if bare else [])]


def _result_of(command: Command, printed: str, *, has_failed: bool) -> Result | None:
    """Return the result that a command printed; None if it has none. One that failed may have printed no result, or something else."""
    hint = get_type_hints(command.run)["return"]
    kind = next((one for one in get_args(hint) or (hint,) if one is not type(None)), None)
    last = printed.strip().rpartition("\n")[2]
    if kind is None or last in ("", "{}"):
        return None
    try:
        result: Result = kind.model_validate_json(last)
    except ValidationError:
        if has_failed:
            return None
        raise
    return result


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _read_log(lines: IO[str] | None, on_progress: OnProgress | None) -> Iterator[str]:
    for line in lines or ():
        found = _PROGRESS.match(line.rstrip("\n"))
        if found is None:
            yield line.rstrip("\n")
        elif on_progress is not None:
            done, total = (int(number.replace(",", "")) for number in found.group(1, 2))
            on_progress(done, total, found[3] or "")


def _error_of(exit_code: int, lines: list[str]) -> AlchemistError:
    kinds = {kind.exit_code: kind for kind in AlchemistError.__subclasses__()}
    at = next((number for number, line in enumerate(lines) if line.startswith("error: ")), None)
    message = "\n".join(lines[at:]).removeprefix("error: ") if at is not None else "\n".join(lines[-20:])
    return kinds.get(exit_code, AlchemistError)(message or f"The command ended with exit code {exit_code}.")
