"""The project file `alchemist.toml`: what this installation curates and within which limits, in sections.

Each section is a model in the package that uses it; this module composes them, reads the file and returns the origin of each value.
The sections of stages hold options of commands: they are read here and checked in `cli.sections`, which knows the commands. Addresses
(servers, folders, secrets) are not part of it but of `settings`. Without a file all values are defaults.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, PrivateAttr, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from alchemist_core.config import Config, Section, bounds_of, mark_of
from alchemist_core.errors import ConfigError
from alchemist_core.prices import Prices
from alchemist_core.quality.limits import CheckLimits, DriftLimits
from alchemist_core.rating.acceptance import AcceptanceLimits
from alchemist_core.settings import find_project_file, load_settings

Role = Literal["train", "validation", "evaluation"]
ROLE_HELP = (
    "Role of the dataset. train: scored and selected from. validation: trains raters. evaluation: measures models"
)
NEVER = "none"
_CRON_FIELDS = {
    "minute": (0, 59),
    "hour": (0, 23),
    "day of the month": (1, 31),
    "month": (1, 12),
    "day of the week": (0, 7),
}
_CRON_PRESETS = ("@hourly", "@daily", "@weekly", "@monthly", "@yearly")


Options = dict[str, Any]
"""Options of a stage by their names; `cli.sections` checks them."""


class IngestSection(Section):
    """How shards are read."""

    repair: bool = Field(True, description="Repair samples if the repair is unambiguous; false: quarantine them")
    crawl_interval_days: int | None = Field(
        None,
        ge=0,
        le=366,
        description="Days between two crawls, for the alert NightlyStale; 0: no further crawls; unset: the interval of the last crawls",
    )


class ScheduleSection(Section):
    """When the DAGs start. `alchemist dags install` and `alchemist stack up` write it into the DAGs."""

    nightly: str = Field(
        "0 2 * * *",
        description="Start of nightly_rescore, for the crawl date of the day before: cron that starts once a day, @daily, or none",
    )
    train: str = Field(
        NEVER, description="Start of train_rater with the values of [rater]: cron such as 0 8 * * SUN, @weekly, or none"
    )
    maintenance: str = Field("30 5 * * *", description="Start of maintenance: cron, or none")
    evaluate: Literal["published", "none"] = Field(
        "published",
        description="Start of evaluate_subset. published: when build_subset publishes a version. none: by hand only",
    )
    timezone: str = Field("UTC", description="Time zone of the schedules and of crawl dates, such as Europe/Berlin")

    @field_validator("nightly", "train", "maintenance")
    @classmethod
    def _is_cron(cls, value: str) -> str:
        if value != NEVER and value not in _CRON_PRESETS:
            _check_cron(value)
        return value

    @field_validator("nightly")
    @classmethod
    def _is_daily(cls, value: str) -> str:
        if value not in (NEVER, "@daily") and not re.fullmatch(r"\d+ \d+ \* \* \*", " ".join(value.split())):
            raise ValueError(
                "a night is the day before its start, so nightly must start once on each day: MINUTE HOUR * * *, @daily, or none; "
                "a night without new shards does nothing"
            )
        return value

    @field_validator("timezone")
    @classmethod
    def _is_known(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"there is no time zone {value!r}") from None
        return value


def _check_cron(value: str) -> None:
    fields = value.split()
    if len(fields) != len(_CRON_FIELDS):
        raise ValueError(f"a cron expression has 5 fields ({', '.join(_CRON_FIELDS)}), this one has {len(fields)}")
    for (name, (low, high)), field in zip(_CRON_FIELDS.items(), fields, strict=True):
        numbers = [int(number) for number in re.findall(r"(?<![/\d])\d+", field)]
        if not re.fullmatch(r"[\dA-Z*/,?#L-]+", field, re.IGNORECASE) or not all(
            low <= number <= high for number in numbers
        ):
            raise ValueError(f"{field!r} is not a {name} ({low} to {high})")


class LaunchSection(Section):
    """Processes of a training (train-rater, train-downstream). They change neither its result nor its hash."""

    processes_per_node: int = Field(
        1, ge=1, le=64, description="Processes of a training on each node: one per GPU; its batch is split evenly"
    )
    nodes: int = Field(
        1,
        ge=1,
        le=1024,
        description="Nodes of a training. Each runs the same command; on Kubernetes the pods of an Indexed Job do",
    )
    rendezvous: str | None = Field(
        None,
        pattern=r"^[^\s:]+:[0-9]{1,5}$",
        description="HOST:PORT at which the nodes meet: an address of the first node; on Kubernetes the Job sets it",
    )
    restarts: int = Field(
        3,
        ge=0,
        le=1000,
        description="How often each of several nodes starts its processes again after a process or a node has ended; the training then "
        "resumes from its checkpoint",
    )


class NotificationsSection(Section):
    """Receivers of notifications; addresses contain secrets and are set by ALCHEMIST_NOTIFY_URL."""

    command: str | None = Field(
        None,
        min_length=1,
        description="Program that receives each notification as JSON on its standard input; unset: none",
    )


class DatasetSection(Config):
    """Values of one dataset; the project's section of the same name gives the values that it does not set."""

    role: Role = Field("train", description=ROLE_HELP)
    root: str | None = Field(
        None,
        min_length=1,
        description="Folder of the shards, absolute or relative to the project file, or s3:// address",
    )
    ingest: IngestSection = Field(IngestSection(), description="As [ingest], for this dataset only")
    checks: CheckLimits = Field(CheckLimits(), description="As [checks], for this dataset only")
    drift: DriftLimits = Field(DriftLimits(), description="As [drift], for this dataset only")


class ScorerSection(Config):
    """A scorer under the name of its section."""

    use: str = Field(
        min_length=1,
        description="Built-in scorer, scorer that an installed package adds, or module:Class; see alchemist scorer list --available",
    )
    nightly: bool = Field(True, description="Score every night beside the production rater")
    keep_embeddings: bool = Field(True, description="Keep the embeddings of its samples, if it has any")
    options: Options = Field({}, description="Options of the scorer, by name; see alchemist scorer list --available")


class Project(Config):
    """The project file; it is frozen and refuses unknown keys."""

    ingest: IngestSection = Field(IngestSection(), description="How shards are read")
    checks: CheckLimits = Field(CheckLimits(), description="When a data check warns or fails")
    drift: DriftLimits = Field(DriftLimits(), description="When the scores of a night have drifted")
    acceptance: AcceptanceLimits = Field(
        AcceptanceLimits(), description="Checks that a rater must pass before it may be promoted"
    )
    datasets: dict[str, DatasetSection] = Field({}, description="Values of single datasets, by name")
    rater: Options = Field({}, description="Options of alchemist train-rater")
    scoring: Options = Field({}, description="Options of alchemist score")
    scorers: dict[str, ScorerSection] = Field({}, description="Scorers, by name: what else gives samples scores")
    selection: Options = Field({}, description="Options of alchemist select")
    materialization: Options = Field({}, description="Options of alchemist materialize")
    downstream: Options = Field({}, description="Options of alchemist train-downstream")
    evaluation: Options = Field({}, description="Options of alchemist evaluate")
    report: Options = Field({}, description="Options of alchemist report")
    schedule: ScheduleSection = Field(ScheduleSection(), description="When the DAGs start")
    launch: LaunchSection = Field(LaunchSection(), description="Processes and nodes of a training")
    prices: Prices = Field(Prices(), description="Prices of devices, and the budget")
    notifications: NotificationsSection = Field(NotificationsSection(), description="Receivers of notifications")

    _path: Path | None = PrivateAttr(None)
    _given: Mapping[str, Any] = PrivateAttr(default_factory=dict)

    def model_post_init(self, context: Any) -> None:
        """Store the file as it was written, because a completed section does not show which values the dataset set itself."""
        if context:
            self._path, self._given = context["path"], context["given"]

    @property
    def path(self) -> Path | None:
        """The file; None if there is no file, so that all values are defaults."""
        return self._path

    def of_dataset(self, name: str | None) -> DatasetSection:
        """Return the effective values of a dataset: its own, else the project's, else the defaults. Without a dataset: the project's."""
        own = self.datasets.get(name) if name is not None else None
        return own or DatasetSection(ingest=self.ingest, checks=self.checks, drift=self.drift)

    def gives(self, *place: str | None) -> bool:
        """Return whether the file itself gives a value, such as `datasets`, `web`, `role`.

        >>> Project().gives("drift", "hold_psi")
        False
        """
        return _has(self._given, place)

    def locate(self, address: str) -> str:
        """Return a path of the file as an absolute one: a relative path is relative to the file's folder. An s3:// address is kept."""
        return address if self.path is None or "://" in address else str(self.path.parent / address)

    def scorer_options(self, name: str) -> Options:
        """Return the options of the section of a scorer; relative paths start at the file's folder.

        Raises:
            ConfigError: There is no such scorer as the section uses.
        """
        from alchemist_core.scorers.catalogue import find_scorer  # noqa: PLC0415  imports numpy

        section, folder = self.scorers[name], self.path.parent if self.path else Path()
        fields = find_scorer(section.use).Options.model_fields
        marks = {key: mark_of(fields[key]) for key in section.options if key in fields}
        return {
            key: mark.anchor(value, folder) if (mark := marks.get(key)) and isinstance(value, str) else value
            for key, value in section.options.items()
        }

    def files_of(self, protocol: str) -> dict[str, str]:
        """Return the files of the networks of an evaluation protocol: `[evaluation.PROTOCOL]`, with absolute paths.

        Args:
            protocol: Name of the protocol, or the path of its file.
        """
        name = Path(protocol).stem if protocol.endswith(".toml") else protocol
        given = self.evaluation.get(name)
        return {kind: self.locate(path) for kind, path in given.items()} if isinstance(given, dict) else {}

    def suites_folder(self, dataset: str | None = None) -> Path | None:
        """Return the folder of the user's suites; None without a project file, or if the default folder does not exist.

        Raises:
            ConfigError: The folder that the file names does not exist.
        """
        if self.path is None:
            return None
        suites = self.of_dataset(dataset).checks.suites
        folder = self.path.parent / suites
        if folder.is_dir():
            return folder
        origin = self.origin("checks", "suites", dataset)
        if origin.startswith("["):
            raise ConfigError(f"{self.path}: {origin} = {suites!r}: {folder} is not a folder.")
        return None

    def origin(self, section: str, key: str, dataset: str | None = None) -> str:
        """Return the origin of an effective value: a section of the file, or the default.

        >>> Project().origin("checks", "max_quarantined_ratio")
        'default of [checks] max_quarantined_ratio'
        """
        places = [("datasets", dataset, section), (section,)] if dataset is not None else [(section,)]
        for place in places:
            if _has(self._given, (*place, key)):
                return f"[{_dotted(place)}] {key}"
        return f"default of [{section}] {key}"


VARIABLES = {
    ("prices", "gpu_hour"): "price_per_gpu_hour",
    ("prices", "core_hour"): "price_per_core_hour",
    ("prices", "budget_per_day"): "budget_per_day",
    ("launch", "rendezvous"): "rendezvous",
    ("notifications", "command"): "notify_command",
}
"""Settings that override a key of the file, because they belong to the deployment: by section and key."""


@cache
def load_project() -> Project:
    """Read the project file once per process; without one, return the defaults.

    Raises:
        ConfigError: The file cannot be read, is not TOML, or holds a key or value that is not allowed.
    """
    path = find_project_file()
    return Project() if path is None else read_project(path)


def effective_prices() -> Prices:
    """Return the prices: of the ALCHEMIST_ variables, which belong to the deployment, else of the project file.

    Raises:
        ConfigError: The project file is not valid.
    """
    settings = load_settings()
    own = {key: getattr(settings, name) for (section, key), name in VARIABLES.items() if section == "prices"}
    return load_project().prices.model_copy(update={name: value for name, value in own.items() if value is not None})


def train_rater_command(dataset: str = "NAME", validation: str = "NAME") -> str:
    """Return the command that trains a rater, without the options that the project file gives.

    >>> train_rater_command(validation="goal")
    'alchemist train-rater --preset PRESET --dataset NAME --validation goal'
    """
    given, words = load_project().rater, ["alchemist train-rater"]
    for name, value in (("preset", "PRESET"), ("dataset", dataset), ("validation", validation)):
        if name not in given or value not in ("PRESET", "NAME", given[name]):
            words.append(f"--{name} {value}")
    return " ".join(words)


def train_downstream_command(subset: str, version: int | None = None) -> str:
    """Return the command that trains models on a subset, without the preset if the project file gives it.

    >>> train_downstream_command("web-auto-r20")
    'alchemist train-downstream web-auto-r20 --preset PRESET'
    """
    preset = "" if "preset" in load_project().downstream else " --preset PRESET"
    return f"alchemist train-downstream {of_version(subset, version)}{preset}"


def of_version(subset: str, version: int | None) -> str:
    """Return a subset as a command takes it, with its version unless that is None.

    >>> of_version("web-auto-r20", 2), of_version("web-auto-r20", None)
    ('web-auto-r20 --version 2', 'web-auto-r20')
    """
    return subset + ("" if version is None else f" --version {version}")


def next_of_selected(subset: str, version: int, *, scorer: str | None = None) -> str:
    """Return the commands after a selection: measure the version first, and publish it if it is better than a random subset.

    A version that a scorer ranked cannot be measured with most models, which share the tokenizer of a trained rater.

    >>> next_of_selected("web-auto-r20", 2)  # doctest: +NORMALIZE_WHITESPACE
    'alchemist train-downstream web-auto-r20 --version 2 --preset PRESET --seeds 0,1,2, then alchemist evaluate web-auto-r20 --version 2;
    if it is better than random: alchemist subset publish web-auto-r20 --version 2'
    >>> next_of_selected("web-auto-r20", 2, scorer="clip")  # doctest: +NORMALIZE_WHITESPACE
    'alchemist subset publish web-auto-r20 --version 2; to compare it with a random subset, select under a trained rater:
    alchemist select --rater RATER --rank-by clip'
    """
    seeds = "" if "seeds" in load_project().downstream else " --seeds 0,1,2"
    which = of_version(subset, version)
    if scorer is not None:
        return (
            f"alchemist subset publish {which}; to compare it with a random subset, select under a trained rater: "
            f"alchemist select --rater RATER --rank-by {scorer}"
        )
    return (
        f"{train_downstream_command(subset, version)}{seeds}, then alchemist evaluate {which}; "
        f"if it is better than random: alchemist subset publish {which}"
    )


def select_command(dataset: str | None = None) -> str:
    """Return the command that selects a subset, without the options that the project file gives; without a file, a preview.

    >>> select_command("web")
    'alchemist select --dataset web --retention 0.2 --dry-run'
    """
    given = load_project().selection.get("dataset", ())
    names = [name.strip() for name in given.split(",")] if isinstance(given, str) else given
    if names and (dataset is None or dataset in names):
        return "alchemist select"
    return f"alchemist select --dataset {dataset or 'NAME'} --retention 0.2 --dry-run"


def only_train_dataset() -> str | None:
    """Return the training dataset that the project file declares; None if it declares none or several."""
    names = [name for name, dataset in load_project().datasets.items() if dataset.role == "train"]
    return names[0] if len(names) == 1 else None


def read_project(path: Path) -> Project:
    """Read one project file.

    Raises:
        ConfigError: As `load_project`.
    """
    try:
        return parse_project(path.read_text(encoding="utf-8"), path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}.") from None


def parse_project(text: str, path: Path) -> Project:
    """Read the text of a project file; `path` is where it is or will be.

    Raises:
        ConfigError: As `load_project`.
    """
    try:
        given = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.") from None
    try:
        return Project.model_validate(_with_inherited(given), context={"path": path, "given": given})
    except ValidationError as error:
        raise ConfigError("\n".join(f"{path}: {line}" for line in _explain(error, given))) from None


def _with_inherited(given: Mapping[str, Any]) -> dict[str, Any]:
    """Complete the sections of each dataset with the project's, so that rules between two keys check the effective values."""
    datasets = given.get("datasets")
    if not isinstance(datasets, dict):
        return dict(given)
    return {**given, "datasets": {name: _completed(given, own) for name, own in datasets.items()}}


def _completed(given: Mapping[str, Any], own: object) -> object:
    if not isinstance(own, dict):
        return own
    shared = {name: given[name] for name in DatasetSection.model_fields if isinstance(given.get(name), dict)}
    both = {name: {**section, **own[name]} for name, section in shared.items() if isinstance(own.get(name), dict)}
    return {**shared, **own, **both}


def _explain(error: ValidationError, given: Mapping[str, Any]) -> Iterator[str]:
    faults = error.errors()
    # Report an inherited value once, where it was written; a rule between two keys belongs to the section.
    given_faults = [fault for fault in faults if _has(given, fault["loc"])]
    yield from map(_explain_fault, given_faults or faults)


def _explain_fault(fault: ErrorDetails) -> str:
    place = tuple(map(str, fault["loc"]))
    if fault["type"] == "extra_forbidden":
        return _explain_unknown(place)
    reason = fault["msg"].removeprefix("Value error, ")
    field = _fields_at(place[:-1]).get(place[-1]) if place else None
    if field is None or isinstance(fault["input"], Mapping):
        return f"[{_dotted(place)}] is not allowed: {reason}."
    allowed = "; ".join(part for part in (field.description, bounds_of(field), f"default: {field.default}") if part)
    return f"{_title(place)} = {fault['input']!r} is not allowed: {reason} ({allowed})."


def _explain_unknown(place: tuple[str, ...]) -> str:
    key, known = place[-1], sorted(_fields_at(place[:-1]))
    near = get_close_matches(key.replace("-", "_"), known, n=1)
    elsewhere = [f"[{section}] {key}" for section in Project.model_fields if key in _fields_at((section,))]
    hint = f"Did you mean {(near or elsewhere)[0]}?" if near or elsewhere else f"Known keys: {', '.join(known)}."
    return f"{_title(place)} is not a known key. {hint}"


def _fields_at(place: tuple[str, ...]) -> Mapping[str, FieldInfo]:
    """Return the allowed keys of a section; a section of names, such as [datasets], allows any."""
    kind: Any = Project
    for part in place:
        if get_origin(kind) is dict:
            kind = get_args(kind)[1]
        else:
            field = getattr(kind, "model_fields", {}).get(part)
            kind = field.annotation if field else None
    fields: Mapping[str, FieldInfo] = getattr(kind, "model_fields", {})
    return fields


def _has(given: object, place: tuple[int | str | None, ...]) -> bool:
    for part in place:
        if not isinstance(given, Mapping) or part not in given:
            return False
        given = given[part]
    return True


def _title(place: tuple[str, ...]) -> str:
    return f"[{_dotted(place[:-1])}] {place[-1]!r}" if len(place) > 1 else f"{place[-1]!r}"


def _dotted(place: tuple[str, ...]) -> str:
    """Return the name of a section in TOML: a part that is not a bare key is quoted."""
    return ".".join(part if part.isascii() and part.replace("-", "_").isidentifier() else repr(part) for part in place)
