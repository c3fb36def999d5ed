"""Find new shards, verify them and register every sample with its location; quarantine bad samples with a reason."""

import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from pydantic import Field

from alchemist_core.config import Command, Config, Result, Words, counted, later_field, lay_out
from alchemist_core.cores import n_own_cores
from alchemist_core.errors import ConfigError, DataError, UnreachableRootError
from alchemist_core.notifications import Event, page_of_this_task
from alchemist_core.project import ROLE_HELP, Role, load_project, train_rater_command
from alchemist_core.settings import load_settings
from alchemist_core.shards.faults import escape_unstorable
from alchemist_core.shards.repairs import names_of
from alchemist_core.shards.storage import (
    RootListing,
    ShardFile,
    absolute_root,
    join_uri,
    list_root,
    list_shards,
    path_below,
    remedy_of,
    sha256_of,
)
from alchemist_core.stages.execution import StageRun, execute
from alchemist_core.store import registry
from alchemist_core.store.engine import create_store, open_store, read_clock
from alchemist_core.store.notifications import announce
from alchemist_core.store.registry import DatasetRow, KnownShard, NewShard
from alchemist_core.telemetry import on_one_line, say

if TYPE_CHECKING:
    from alchemist_core.shards.reading import ShardContent
    from alchemist_core.shards.samples import Reading

DATED_FOLDER = re.compile(r"(?:^|/)(\d{4}-\d{2}-\d{2})(?=/)")
BYTES_A_READER = 1 << 24
"""Reading fewer bytes takes less time than starting a worker process."""
CLOCK_SLACK = timedelta(seconds=2)
"""Tolerance, because file systems round times down and the clock of a storage may be behind the database's."""
TAR_BLOCK_BYTES = 512
REST_INGESTED = "Everything else was ingested."
"""Last line of the error of an incomplete ingest."""
REMEDY_OF_UNKNOWN = (
    "Remove the file, correct its permissions, or give the machine more memory; the next ingest reads it again."
)
"""What to do about a file that could not be read and is not registered yet."""
MAX_NAMED = 5
"""Number of shards that a message names per reason; it counts the others."""


class IngestConfig(Config):
    """Dataset, its root and how its samples are read."""

    dataset: str | None = Field(None, description="Dataset to ingest; default: all registered training datasets")
    root: str | None = Field(
        None, description="Folder or s3:// address of the shards; required when the dataset is new"
    )
    move_root: bool = Field(
        False,
        description="Change the root of a registered dataset to --root; all its shards must be there",
    )
    role: Role = Field("train", description=ROLE_HELP)
    crawl_date: date | None = Field(
        None,
        description="Ingest only shards of this crawl date (YYYY-MM-DD): the dated folder in a shard's path, or this date if there is none",
    )
    undated: bool = later_field(
        default=True,
        description="Also ingest new shards outside of dated folders, which get --crawl-date, else today. nightly_rescore leaves them out "
        "(--no-undated) for nights before that of the run",
    )
    perceptual_hash: bool = Field(
        True,
        description="Decode each image at a reduced size and store its 64-bit perceptual hash: finds near-duplicates and truncated images",
    )
    repair: bool | None = Field(
        None,
        description="Repair samples if the repair is unambiguous (first frame of an animation, caption in a legacy encoding) instead of "
        "quarantining them; default: [ingest] repair of the project file",
    )
    imported_scores: Words = Field(
        ("aesthetic", "aesthetic_score", "clarity_score", "pwatermark", "punsafe", "similarity"),
        description="Names of numbers in the records' JSON to store as heuristics, separated by commas",
    )


class IngestResult(Result):
    """Counts of shards and samples."""

    n_shards: int
    n_known: int
    n_rejected: int
    n_locations: int
    n_new_pairs: int
    n_quarantined: int
    n_growing: int = 0
    n_passed_over: int = 0
    n_of_other_days: int = 0
    quarantined: dict[str, int]
    n_repaired: int = 0
    repaired: dict[str, int] = Field({})

    def summary(self) -> str:
        """Return the counts with their meanings; what happens seldom is left out if it did not happen."""
        often = {
            "shards": self.n_shards,
            "registered before": self.n_known,
            "samples": self.n_locations,
            "new pairs": self.n_new_pairs,
            "quarantined": self.quarantined or 0,
        }
        n_known_pairs = self.n_locations - self.n_quarantined - self.n_new_pairs
        seldom = {
            # A pair is stored once, however many locations it has.
            "known pairs": n_known_pairs and f"{n_known_pairs:,} (their image and caption are already stored)",
            "rejected shards": self.n_rejected,
            "still being uploaded": self.n_growing,
            "skipped files": self.n_passed_over,
            "shards of other dates": self.n_of_other_days,
            "repaired": self.repaired,
        }
        return lay_out(often | {label: value for label, value in seldom.items() if value})


def run(config: IngestConfig, *, slot: int = 0) -> IngestResult:
    """Ingest the new shards of one dataset, or of every registered training dataset."""
    # Only an ingest with a root may create the store: without one it can register nothing new.
    if config.root is not None:
        create_store()
        # In the form of the dataset's root, because queries compare the two: a run of another root says nothing about its nights.
        config = config.model_copy(update={"root": absolute_root(config.root)})
    return execute("ingest", config, lambda stage_run: ingest(config, stage_run), IngestResult, slot=slot)


def ingest(config: IngestConfig, stage_run: StageRun) -> IngestResult:
    """Register new shards, each in one transaction."""
    tally = Tally()
    # Read the database's clock before listing: files that change afterwards are read again by the next ingest.
    with stage_run.engine.connect() as connection:
        began_at = read_clock(connection)
    for dataset in _datasets(config, stage_run):
        try:
            _Ingestion(config, stage_run, dataset, began_at, tally).run()
        except DataError as error:
            tally.leave(
                dataset.name, [], f"{error} Nothing of this dataset was ingested. Fix this, then ingest it again."
            )
    tally.refuse_incomplete()
    return tally.result()


@dataclass(frozen=True, slots=True)
class WantedShard:
    """A tar in scope: its file, its path below the root, and its crawl date."""

    file: ShardFile
    uri: str
    crawl_date: date
    supersedes: int | None = None
    """Id of the registered shard that this file is a later revision of."""


@dataclass(frozen=True, slots=True)
class LostShard:
    """A registered shard whose file is gone or has other bytes."""

    shard_id: int
    uri: str
    state: str
    since: str


class Tally:
    """Counts over the shards of one run."""

    def __init__(self) -> None:
        self.n_shards = self.n_known = self.n_rejected = self.n_locations = self.n_new_pairs = 0
        self.n_growing = self.n_passed_over = self.n_of_other_days = self.n_repaired = 0
        self.quarantined: dict[str, int] = {}
        self.repaired: Counter[str] = Counter()
        self._left: dict[tuple[str, str], list[str]] = {}

    def leave(self, dataset: str, names: Sequence[str], why: str) -> None:
        """Record what was not ingested and the remedy; the ingest continues."""
        self._left.setdefault((dataset, why), []).extend(on_one_line(escape_unstorable(name)) for name in names)

    def refuse_incomplete(self) -> None:
        """Raise one error for everything that was not ingested.

        Raises:
            DataError: Something was not ingested.
        """
        if self._left:
            say(
                f"Ingested {counted(self.n_shards, 'shard')} with {counted(self.n_locations, 'location')}; "
                f"registered before: {self.n_known:,}."
            )
            lines = [f"{dataset}: {_enumerate(names)}{why}" for (dataset, why), names in self._left.items()]
            raise DataError("\n".join([*lines, REST_INGESTED]))

    def result(self) -> IngestResult:
        """Return the counts as the stage's result."""
        counts = {name: value for name, value in vars(self).items() if name.startswith("n_")}
        return IngestResult(
            **counts,
            n_quarantined=sum(self.quarantined.values()),
            quarantined=self.quarantined,
            repaired=dict(self.repaired),
        )


def _enumerate(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMED:,} more" if len(names) > MAX_NAMED else ""
    return f"{', '.join(names[:MAX_NAMED])}{more}: " if names else ""


def _datasets(config: IngestConfig, stage_run: StageRun) -> list[DatasetRow]:
    if config.dataset is None:
        if config.root is not None:
            raise ConfigError(f"--root {config.root} requires --dataset: name the dataset that these shards belong to.")
        return registry.list_datasets(stage_run.engine, role="train")
    if config.root is not None:
        # List it before registering: a mistyped address would otherwise fail every later night.
        list_root(config.root)
        if config.move_root:
            _require_same_shards(stage_run, config.dataset, config.root)
    return [
        registry.register_dataset(
            stage_run.engine, config.dataset, root_uri=config.root, role=config.role, move_root=config.move_root
        )
    ]


def _require_same_shards(stage_run: StageRun, name: str, root_uri: str) -> None:
    """Refuse a root that lacks a registered shard; their bytes are compared when they are read again."""
    dataset = registry.find_dataset(stage_run.engine, name)
    sizes = {path_below(root_uri, file.uri): file.size_bytes for file in list_shards(root_uri)}
    known = registry.known_shards(stage_run.engine, dataset.dataset_id)
    readable = {uri: shard.size_bytes for uri, shard in known.items() if shard.state == "verified"}
    if lost := [uri for uri, size_bytes in readable.items() if sizes.get(uri) != size_bytes]:
        raise ConfigError(
            f"--move-root: {len(lost):,} of {len(readable):,} shards of {name} are not under {root_uri}, or have another size "
            f"({_enumerate(lost).removesuffix(': ')}). Copy them there, or retire them first: alchemist shard retire."
        )


class _Ingestion:
    """Ingests one dataset shard by shard; it records a failed shard and continues with the next one."""

    def __init__(
        self, config: IngestConfig, stage_run: StageRun, dataset: DatasetRow, began_at: datetime, tally: Tally
    ) -> None:
        self._config, self._stage_run, self._dataset, self._tally = config, stage_run, dataset, tally
        self._engine, self._began_at = stage_run.engine, began_at
        self._known: Mapping[str, KnownShard] = registry.known_shards(self._engine, dataset.dataset_id)
        self._lost: list[LostShard] = []

    @property
    def _today(self) -> date:
        """The crawl date of shards without a dated folder, in the time zone of the schedules."""
        return self._began_at.astimezone(ZoneInfo(load_project().schedule.timezone)).date()

    def run(self) -> None:
        """Ingest the new shards.

        Raises:
            UnreachableRootError: The root cannot be listed, or it has none of the registered shards.
        """
        listing = list_root(self._dataset.root_uri)
        self._require_root(listing)
        self._print_skipped(listing)
        self._note_missing(listing)
        wanted = list(self._wanted(listing))
        fresh = [shard for shard in map(self._judge, wanted) if shard is not None]
        self._mark_lost()
        n_done, files = len(wanted) - len(fresh), [shard.file for shard in fresh]
        if not fresh:
            self._stage_run.report(n_done, len(wanted), self._dataset.name)
            return
        from alchemist_core.shards.reading import read_shards  # noqa: PLC0415  loads the image libraries: only when there is work

        contents = read_shards(files, n_workers=_count_readers(files), reading=self._reading())
        for shard, content in zip(fresh, contents, strict=True):
            self._store(shard, content)
            n_done += 1
            self._stage_run.report(n_done, len(wanted), self._dataset.name)
        self._mark_lost()

    def _reading(self) -> "Reading":
        from alchemist_core.shards.samples import Reading  # noqa: PLC0415  loads the image libraries

        config, repair = self._config, self._config.repair
        own = load_project().of_dataset(self._dataset.name).ingest
        return Reading(config.perceptual_hash, own.repair if repair is None else repair)

    def _require_root(self, listing: RootListing) -> None:
        root_uri, readable = (
            self._dataset.root_uri,
            [shard for shard in self._known.values() if shard.state == "verified"],
        )
        if readable and not listing.shards and not listing.passed_over:
            raise UnreachableRootError(
                f"The root {root_uri} is unreachable: it is empty, but {len(readable):,} shards are registered in it. Mount it."
            )

    def _print_skipped(self, listing: RootListing) -> None:
        """Print which files are skipped; those that lose data are recorded, so that the command ends with an error."""
        in_scope = [
            other for other in listing.passed_over if self._is_in_scope(path_below(self._dataset.root_uri, other.uri))
        ]
        self._tally.n_passed_over += len(in_scope)
        kept: dict[str, list[str]] = {}
        for other in in_scope:
            name = path_below(self._dataset.root_uri, other.uri)
            if other.is_loss:
                self._tally.leave(self._dataset.name, [name], other.why)
            else:
                kept.setdefault(other.why, []).append(on_one_line(name))
        for why, names in kept.items():
            say(f"{self._dataset.name}: skipped {_enumerate(names)}{why}.")

    def _is_in_scope(self, uri: str) -> bool:
        folder = DATED_FOLDER.search(f"{uri}/")
        if folder is None:
            return self._config.undated
        return self._config.crawl_date is None or folder[1] == self._config.crawl_date.isoformat()

    def _note_missing(self, listing: RootListing) -> None:
        """Find shards whose files are missing; record the newly missing ones and those of the night that is ingested."""
        found = [*(file.uri for file in listing.shards), *(other.uri for other in listing.passed_over)]
        there = {path_below(self._dataset.root_uri, uri) for uri in found}
        unread = tuple(f"{path_below(self._dataset.root_uri, folder)}/" for folder in listing.unread_folders)
        gone = [(uri, shard) for uri, shard in self._known.items() if uri not in there and not uri.startswith(unread)]
        self._delete_abandoned([(uri, shard.shard_id) for uri, shard in gone if shard.state in registry.UNREGISTERED])
        for uri, shard in gone:
            if shard.state not in registry.READABLE:
                continue
            own_reason = shard.reason if shard.state == "missing" else None
            since = own_reason or f"the file did not exist at {self._began_at:%Y-%m-%d %H:%M} UTC"
            if shard.state != "missing":
                self._lost.append(LostShard(shard.shard_id, uri, "missing", since))
            elif self._config.crawl_date not in (None, shard.crawl_date):
                continue
            self._leave(uri, shard, "missing", since)

    def _delete_abandoned(self, unread: Sequence[tuple[str, int]]) -> None:
        """Delete the rows of unread files that no longer exist: they would be listed forever, and uploads would keep their nights open."""
        if unread:
            names = _enumerate([on_one_line(uri) for uri, _ in unread])
            say(f"{self._dataset.name}: {names}the file was removed before it was read. Its row was deleted.")
            registry.forget_unread(self._engine, [shard_id for _, shard_id in unread])

    def _mark_lost(self) -> None:
        """Mark the shards that were found missing or changed, and store one notification of those that were not so before.

        An ingest of a later night that is tried again leaves them out and succeeds: only the notification reaches a person.
        """
        # By their ids, so that ingests of several nights at the same time wait for each other and name each shard once.
        lost, self._lost = sorted(self._lost, key=lambda one: one.shard_id), []
        if not lost:
            return
        with self._engine.begin() as connection:
            new = [one for one in lost if registry.mark_unreadable(connection, one.shard_id, one.state, one.since)]
            if new:
                announce(connection, self._announcement(new))

    def _announcement(self, lost: Sequence[LostShard]) -> Event:
        name, names = self._dataset.name, _enumerate([on_one_line(one.uri) for one in lost]).removesuffix(": ")
        return Event(
            kind="lost_shards",
            key=f"lost_shards:{lost[0].shard_id}:{self._began_at.isoformat()}",
            what_happened=f"The ingest of {name} found {counted(len(lost), 'shard')} missing or changed: {names}.",
            where_to_look=page_of_this_task("shard"),
            what_to_do=f"The command for each: alchemist shard list --dataset {shlex.quote(name)}",
            facts={
                on_one_line(one.uri): f"{one.state} ({one.since}). {remedy_of(str(one.shard_id))}"
                for one in lost[:MAX_NAMED]
            },
        )

    def _leave(self, uri: str, shard: KnownShard, state: str, since: str) -> None:
        self._tally.leave(self._dataset.name, [uri], f"{state} ({since}). {remedy_of(str(shard.shard_id))}")

    def _wanted(self, listing: RootListing) -> Iterator[WantedShard]:
        root_uri, crawl_date, n_wanted = self._dataset.root_uri, self._config.crawl_date, 0
        of_other_days: Counter[date] = Counter()
        completed = self._find_completed(listing)
        if not listing.shards:
            say(f"No .tar under {root_uri}: nothing to ingest.")
        for file in listing.shards:
            uri = path_below(root_uri, file.uri)
            own_date = self._date_of(uri)
            known = self._known.get(uri)
            if own_date is None:
                continue
            if self._is_of_this_ingest(own_date, known):
                n_wanted += 1
                yield WantedShard(file, uri, known.crawl_date if known else own_date)
            elif known is None:
                of_other_days[own_date] += 1
            elif self._may_be_readable_now(known, file) or known.shard_id in completed:
                yield WantedShard(file, uri, known.crawl_date)
        if listing.shards and not n_wanted and crawl_date is not None:
            say(f"{counted(len(listing.shards), 'shard')} under {root_uri}, none of {crawl_date}.")
        self._print_other_days(of_other_days)

    def _is_of_this_ingest(self, own_date: date, known: KnownShard | None) -> bool:
        """Whether a shard has the date that is ingested; without one, only a new shard of a later day has not."""
        if self._config.crawl_date is None:
            return known is not None or own_date <= self._today
        return own_date == self._config.crawl_date

    @staticmethod
    def _may_be_readable_now(known: KnownShard, file: ShardFile) -> bool:
        """Whether to read an unread shard of another night again: an upload, or a shard that was restored or replaced."""
        is_touched = file.changed_at > known.noted_at - CLOCK_SLACK
        return known.state in ("growing", "missing") or (known.state in ("changed", "rejected") and is_touched)

    def _find_completed(self, listing: RootListing) -> set[int]:
        """Return the shards that were registered without their end and may have been completed since, with one query for all nights."""
        found = ((self._known.get(path_below(self._dataset.root_uri, file.uri)), file) for file in listing.shards)
        touched = [
            known.shard_id for known, file in found if known and known.state == "verified" and _is_touched(known, file)
        ]
        return registry.find_cut(self._engine, touched) if touched else set()

    def _print_other_days(self, counts: Mapping[date, int]) -> None:
        """Print the crawl dates whose shards were not ingested: they arrived late, or their folder has a wrong date."""
        night = self._config.crawl_date
        days = [day for day in sorted(counts) if night is None or day < night or day > self._today]
        self._tally.n_of_other_days += sum(counts[day] for day in days)
        if days:
            named = _enumerate([f"{counts[day]:,} of {day}" for day in days]).removesuffix(": ")
            why = f"later than today ({self._today})" if night is None else f"not of {night}"
            # As `plan night` allows.
            can_trigger = days[0] <= self._today + timedelta(days=1)
            trigger = "trigger nightly_rescore with that crawl_date (at most tomorrow's), or " if can_trigger else ""
            say(
                f"{self._dataset.name}: not ingested, because they are {why}: shards {named}. To ingest a date: {trigger}"
                f"alchemist ingest --dataset {self._dataset.name} --crawl-date {days[0]}. If the date is wrong: rename the folder."
            )

    def _date_of(self, uri: str) -> date | None:
        """Return the crawl date of a shard; None if its folder names an invalid date, or if this ingest must not give it one."""
        folder = DATED_FOLDER.search(uri)
        if folder is None and not self._config.undated:
            known = self._known.get(uri)
            return None if known is None else known.crawl_date
        if folder is None:
            return self._config.crawl_date or self._today
        try:
            return date.fromisoformat(folder[1])
        except ValueError:
            place = join_uri(self._dataset.root_uri, uri[: folder.end()])
            self._tally.leave(
                self._dataset.name,
                [],
                f"{place} is not a valid date: its shards were not ingested. Rename the folder.",
            )
            return None

    def _judge(self, shard: WantedShard) -> WantedShard | None:
        """Return a shard to read: a new one, or a revision of a registered one; else None."""
        known = self._known.get(shard.uri)
        try:
            if known is None or known.state == "growing" or self._is_repaired(known, shard.file):
                return shard
            self._tally.n_known += 1
            if known.state in ("rejected", "retired") or self._is_unchanged(known, shard.file):
                return None
        except DataError as error:
            self._tally.leave(self._dataset.name, [shard.uri], str(error))
            return None
        if registry.find_cut(self._engine, [known.shard_id]):
            # The shard was read during its upload; the file is longer now.
            self._tally.n_known -= 1
            return replace(shard, supersedes=known.shard_id)
        self._note_changed(known, shard.uri)
        return None

    def _note_changed(self, known: KnownShard, uri: str) -> None:
        since = f"its bytes differed from the registered ones at {self._began_at:%Y-%m-%d %H:%M} UTC"
        if known.state == "changed" and known.reason:
            since = known.reason
            if self._config.crawl_date not in (None, known.crawl_date):
                return
        self._lost.append(LostShard(known.shard_id, uri, "changed", since))
        self._leave(uri, known, "replaced under the same address", since)

    @staticmethod
    def _is_repaired(known: KnownShard, file: ShardFile) -> bool:
        """Whether to read a rejected shard again: yes if its bytes changed, because the store holds no samples of it."""
        if known.state != "rejected":
            return False
        return known.size_bytes != file.size_bytes or sha256_of(file.uri) != known.sha256

    def _is_unchanged(self, known: KnownShard, file: ShardFile) -> bool:
        """Return whether a registered shard is unchanged; read it to compare its hash only if it was modified since the last read."""
        if known.size_bytes != file.size_bytes:
            return False
        if known.state == "verified" and not _is_touched(known, file):
            return True
        is_same = sha256_of(file.uri) == known.sha256
        # Recorded only if the next ingest need not compare it again.
        is_settled = file.changed_at < self._began_at - CLOCK_SLACK
        if is_same and (known.state != "verified" or is_settled):
            if known.state != "verified":
                say(f"{self._dataset.name}: {file.uri} was restored with the registered bytes.")
            registry.confirm_shard(self._engine, known.shard_id, self._began_at, known.size_bytes)
        return is_same

    def _store(self, shard: WantedShard, content: "ShardContent | DataError") -> None:
        if isinstance(content, DataError):
            why = str(content)
            if shard.uri not in self._known:
                # The commands for shards find registered ones only.
                why = why.replace(remedy_of(shard.file.uri), REMEDY_OF_UNKNOWN)
            self._tally.leave(self._dataset.name, [shard.uri], why)
            return
        new = NewShard(
            self._dataset.dataset_id, shard.uri, content.sha256, content.size_bytes, shard.crawl_date,
            self._stage_run.run_id, self._began_at,
        )  # fmt: skip
        if self._is_growing(shard.file, content):
            self._await(shard, new)
        elif content.rejection is not None and shard.supersedes is not None:
            self._note_changed(self._known[shard.uri], shard.uri)
        elif content.rejection is not None:
            registry.reject_shard(self._engine, new, content.rejection)
            self._tally.n_rejected += 1
        else:
            self._register(shard, new, content)

    def _is_growing(self, file: ShardFile, content: "ShardContent") -> bool:
        """Whether an incomplete tar is an upload in progress: it was modified less than the settle time ago, or after it was listed."""
        is_cut = content.is_cut or content.size_bytes < TAR_BLOCK_BYTES
        settle = timedelta(seconds=load_settings().upload_settle_s)
        is_recent = file.changed_at > self._began_at - settle or file.size_bytes != content.size_bytes
        return is_cut and is_recent

    def _await(self, shard: WantedShard, new: NewShard) -> None:
        settle_s = load_settings().upload_settle_s
        reason = f"{new.size_bytes:,} bytes, incomplete, last modified {shard.file.changed_at:%Y-%m-%d %H:%M:%S} UTC"
        if shard.supersedes is None:
            registry.await_shard(self._engine, new, reason)
        self._tally.n_growing += 1
        say(
            f"{self._dataset.name}: {shard.uri} is being uploaded ({reason}). A later ingest reads it when it is complete, or as it is "
            f"when it was not modified for {settle_s:,.0f} s."
        )

    def _register(self, shard: WantedShard, new: NewShard, content: "ShardContent") -> None:
        tally, pairs, faults = self._tally, content.samples, content.faults
        n_new = registry.register_shard(
            self._engine, new, pairs, faults, imported=self._config.imported_scores, supersedes=shard.supersedes
        )
        if n_new is None:
            tally.n_known += 1
            return
        tally.n_shards += 1
        tally.n_locations += len(pairs) + len(faults)
        tally.n_new_pairs += n_new
        tally.n_repaired += sum(pair.repair is not None for pair in pairs)
        tally.repaired.update(names_of(pair.repair for pair in pairs))
        for fault in faults:
            tally.quarantined[fault.reason] = tally.quarantined.get(fault.reason, 0) + 1


def _is_touched(known: KnownShard, file: ShardFile) -> bool:
    """Return whether a file may have been modified since it was last read."""
    is_later = known.verified_at is not None and file.changed_at >= known.verified_at - CLOCK_SLACK
    return is_later or known.size_bytes != file.size_bytes


def _count_readers(files: Sequence[ShardFile]) -> int:
    """Return how many worker processes read shards: as configured, else one per core, or fewer if there are few bytes to read."""
    if (n_set := load_settings().decode_workers) is not None:
        return n_set
    return min(n_own_cores(), len(files), sum(file.size_bytes for file in files) // BYTES_A_READER)


def _waiting() -> str | None:
    """Return the first dataset of the project file that was never ingested."""
    registered = {dataset.name for dataset in registry.list_datasets(open_store())}
    declared = [name for name, dataset in load_project().datasets.items() if dataset.root]
    return next((name for name in declared if name not in registered), None)


def _next(config: IngestConfig, result: IngestResult) -> str | None:
    name = config.dataset or "NAME"
    if result.n_quarantined:
        return "select shard_id, key, reason, detail from alchemist.quarantined_samples (alchemist db psql) lists the quarantined samples"
    if not result.n_shards:
        return None
    if (waiting := _waiting()) is not None:
        return f"alchemist ingest --dataset {waiting}"
    if config.role == "validation":
        return train_rater_command(validation=name)
    if config.role == "train":
        return f"alchemist score --dataset {name}; without a rater: {train_rater_command(dataset=name)}"
    return train_rater_command() if load_project().rater else None


COMMANDS = {"": Command(IngestConfig, run, _next)}
