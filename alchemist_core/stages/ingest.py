"""Find new shards, verify them, and register every pair and where its bytes lie; bad ones are quarantined with a reason."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Literal

from pydantic import Field

from alchemist_core.config import Command, Config, Result, Words
from alchemist_core.errors import ConfigError, DataError, UnreachableRootError
from alchemist_core.project import load_project
from alchemist_core.settings import load_settings
from alchemist_core.shards.faults import escape_unstorable
from alchemist_core.shards.reading import ShardContent, read_shards
from alchemist_core.shards.repairs import names_of
from alchemist_core.shards.samples import Reading
from alchemist_core.shards.storage import (
    RootListing,
    ShardFile,
    absolute_root,
    join_uri,
    list_root,
    list_shards,
    remedy_of,
    sha256_of,
)
from alchemist_core.shards.workers import n_own_cores
from alchemist_core.stages.execution import StageRun, execute
from alchemist_core.store import registry
from alchemist_core.store.engine import create_store, read_clock
from alchemist_core.store.registry import DatasetRow, KnownShard, NewShard
from alchemist_core.telemetry import on_one_line, say

DATED_FOLDER = re.compile(r"(?:^|/)(\d{4}-\d{2}-\d{2})(?=/)")
BYTES_A_READER = 1 << 24
"""Less than this is read sooner than a worker process starts."""
CLOCK_SLACK = timedelta(seconds=2)
"""File systems round times down, and a storage's clock may be a little behind the database's."""
TAR_BLOCK_BYTES = 512
ALL_ELSE = "All else was ingested."
"""The last line of an ingest's error."""
MAX_NAMED = 5
"""Shards of one trouble that a message names; it counts the rest."""


class IngestConfig(Config):
    """What to ingest."""

    dataset: str | None = Field(None, description="Dataset to ingest; none: every registered training dataset")
    root: str | None = Field(
        None, description="Folder or s3:// address of the shards; needed once, when a dataset is new"
    )
    move_root: bool = Field(
        False,
        description="Give a registered dataset the root that --root names; refused unless all its shards are there",
    )
    role: Literal["train", "validation", "evaluation"] = Field(
        "train", description="What the dataset is for; only train is selectable"
    )
    crawl_date: date | None = Field(
        None,
        description="Only shards of this day (YYYY-MM-DD): a dated folder in a shard's path decides, else this date is noted",
    )
    perceptual_hash: bool = Field(
        True,
        description="Also decode each picture, reduced, to a 64-bit fingerprint: finds near-duplicates and cut pictures",
    )
    repair: bool | None = Field(
        None,
        description="Repair samples that can be repaired without a guess (first frame of an animation, caption in a legacy encoding); "
        "no: quarantine them; none: as [ingest] repair of the project file says",
    )
    imported_scores: Words = Field(
        ("aesthetic", "aesthetic_score", "clarity_score", "pwatermark", "punsafe", "similarity"),
        description="Numbers of the records' JSON to keep beside the heuristics, by name, comma between them",
    )


class IngestResult(Result):
    """What was found."""

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


def run(config: IngestConfig, *, slot: int = 0) -> IngestResult:
    """Ingest the new shards of one dataset, or of every registered training dataset."""
    # Without a root nothing new can be registered: such an ingest needs a store that exists.
    if config.root is not None:
        create_store()
    return execute("ingest", config, lambda stage_run: ingest(config, stage_run), IngestResult, slot=slot)


def ingest(config: IngestConfig, stage_run: StageRun) -> IngestResult:
    """Register what is new, shard by shard; each shard is one transaction."""
    tally = Tally()
    # By the clock that all machines share, and before anything is listed: what changes from now on is looked at again.
    with stage_run.engine.connect() as connection:
        began_at = read_clock(connection)
    for dataset in _datasets(config, stage_run):
        try:
            _Ingestion(config, stage_run, dataset, began_at, tally).run()
        except DataError as error:
            tally.leave(
                dataset.name, [], f"{error} Nothing of it was ingested; when that is mended, run this ingest again."
            )
    tally.refuse_incomplete()
    return tally.result()


@dataclass(frozen=True, slots=True)
class WantedShard:
    """A tar in scope: where it lies, its address below the root, and the day that it belongs to."""

    file: ShardFile
    uri: str
    crawl_date: date
    supersedes: int | None = None
    """The registered shard of which this file is a later revision."""


class Tally:
    """Counts over the shards of one run."""

    def __init__(self) -> None:
        self.n_shards = self.n_known = self.n_rejected = self.n_locations = self.n_new_pairs = 0
        self.n_growing = self.n_passed_over = self.n_of_other_days = self.n_repaired = 0
        self.quarantined: dict[str, int] = {}
        self.repaired: Counter[str] = Counter()
        self._left: dict[tuple[str, str], list[str]] = {}

    def leave(self, dataset: str, names: Sequence[str], why: str) -> None:
        """Note what was not ingested, and what to do about it; all else goes on."""
        self._left.setdefault((dataset, why), []).extend(on_one_line(escape_unstorable(name)) for name in names)

    def refuse_incomplete(self) -> None:
        """Stop after all else was ingested.

        Raises:
            DataError: Something was left.
        """
        if self._left:
            say(f"Ingested {self.n_shards:,} shards with {self.n_locations:,} locations; {self.n_known:,} were known.")
            lines = [f"{dataset}: {_enumerate(names)}{why}" for (dataset, why), names in self._left.items()]
            raise DataError("\n".join([*lines, ALL_ELSE]))

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
            raise ConfigError(f"--root {config.root} needs --dataset: whose shards are they?")
        return registry.list_datasets(stage_run.engine, role="train")
    root_uri = None if config.root is None else absolute_root(config.root)
    if root_uri is not None:
        # Before it is registered: every later night would stop at an address that was mistyped once.
        list_root(root_uri)
        if config.move_root:
            _require_same_shards(stage_run, config.dataset, root_uri)
    return [
        registry.register_dataset(
            stage_run.engine, config.dataset, root_uri=root_uri, role=config.role, move_root=config.move_root
        )
    ]


def _require_same_shards(stage_run: StageRun, name: str, root_uri: str) -> None:
    """Refuse a root that lacks a registered shard; that their bytes are the same is found when they are read again."""
    dataset = registry.find_dataset(stage_run.engine, name)
    sizes = {_below(root_uri, file.uri): file.size_bytes for file in list_shards(root_uri)}
    known = registry.known_shards(stage_run.engine, dataset.dataset_id)
    readable = {uri: shard.size_bytes for uri, shard in known.items() if shard.state == "verified"}
    if lost := [uri for uri, size_bytes in readable.items() if sizes.get(uri) != size_bytes]:
        raise ConfigError(
            f"--move-root: {len(lost):,} of {len(readable):,} shards of {name} are not under {root_uri}, or have another size "
            f"({_enumerate(lost).removesuffix(': ')}). Copy them there, or retire them first: alchemist shard retire."
        )


def _below(root_uri: str, uri: str) -> str:
    return uri.removeprefix(root_uri.rstrip("/")).lstrip("/")


class _Ingestion:
    """One dataset's shards, taken in one after the other: whatever is wrong with one is left, and the next one follows."""

    def __init__(
        self, config: IngestConfig, stage_run: StageRun, dataset: DatasetRow, began_at: datetime, tally: Tally
    ) -> None:
        self._config, self._stage_run, self._dataset, self._tally = config, stage_run, dataset, tally
        self._engine, self._began_at = stage_run.engine, began_at
        self._known: Mapping[str, KnownShard] = registry.known_shards(self._engine, dataset.dataset_id)

    def run(self) -> None:
        """Ingest what is new.

        Raises:
            UnreachableRootError: The root cannot be listed, or none of the known shards is there.
        """
        listing = list_root(self._dataset.root_uri)
        self._require_root(listing)
        self._tell_passed_over(listing)
        self._note_missing(listing)
        wanted = list(self._wanted(listing))
        fresh = [shard for shard in map(self._judge, wanted) if shard is not None]
        n_done, files = len(wanted) - len(fresh), [shard.file for shard in fresh]
        contents = read_shards(files, n_workers=_count_readers(files), reading=self._reading())
        for shard, content in zip(fresh, contents, strict=True):
            self._store(shard, content)
            n_done += 1
            self._stage_run.report(n_done, len(wanted), self._dataset.name)
        if not fresh:
            self._stage_run.report(n_done, len(wanted), self._dataset.name)

    def _reading(self) -> Reading:
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

    def _tell_passed_over(self, listing: RootListing) -> None:
        """Say what is not read; what is a loss is left, and the command ends with an error."""
        in_scope = [
            other for other in listing.passed_over if self._is_in_scope(_below(self._dataset.root_uri, other.uri))
        ]
        self._tally.n_passed_over += len(in_scope)
        kept: dict[str, list[str]] = {}
        for other in in_scope:
            name = _below(self._dataset.root_uri, other.uri)
            if other.is_loss:
                self._tally.leave(self._dataset.name, [name], other.why)
            else:
                kept.setdefault(other.why, []).append(on_one_line(name))
        for why, names in kept.items():
            say(f"{self._dataset.name}: passed over {_enumerate(names)}{why}.")

    def _is_in_scope(self, uri: str) -> bool:
        folder = DATED_FOLDER.search(f"{uri}/")
        return self._config.crawl_date is None or folder is None or folder[1] == self._config.crawl_date.isoformat()

    def _note_missing(self, listing: RootListing) -> None:
        """Mark the shards whose files are gone; the command names those that are new, and those of its own night."""
        found = [*(file.uri for file in listing.shards), *(other.uri for other in listing.passed_over)]
        there = {_below(self._dataset.root_uri, uri) for uri in found}
        unread = tuple(f"{_below(self._dataset.root_uri, folder)}/" for folder in listing.unread_folders)
        gone = [(uri, shard) for uri, shard in self._known.items() if uri not in there and not uri.startswith(unread)]
        self._forget_given_up([(uri, shard.shard_id) for uri, shard in gone if shard.state in registry.UNREGISTERED])
        for uri, shard in gone:
            if shard.state not in registry.READABLE:
                continue
            since = shard.reason or f"no file was there at {self._began_at:%Y-%m-%d %H:%M} UTC"
            if shard.state != "missing":
                registry.mark_shard(self._engine, shard.shard_id, "missing", since)
            elif self._config.crawl_date not in (None, shard.crawl_date):
                continue
            self._leave(uri, shard, "missing", since)

    def _forget_given_up(self, unread: Sequence[tuple[str, int]]) -> None:
        """Forget uploads and rejected files that are gone: they would be listed, and uploads bring their nights up again, for ever."""
        if unread:
            names = _enumerate([on_one_line(uri) for uri, _ in unread])
            say(
                f"{self._dataset.name}: {names}the file is gone before it could be read. Nothing waits for it any more."
            )
            registry.forget_unread(self._engine, [shard_id for _, shard_id in unread])

    def _leave(self, uri: str, shard: KnownShard, state: str, since: str) -> None:
        self._tally.leave(self._dataset.name, [uri], f"{state} ({since}). {remedy_of(str(shard.shard_id))}")

    def _wanted(self, listing: RootListing) -> Iterator[WantedShard]:
        root_uri, crawl_date, n_wanted = self._dataset.root_uri, self._config.crawl_date, 0
        of_other_days: Counter[date] = Counter()
        if not listing.shards:
            say(f"No .tar lies under {root_uri}: nothing to ingest.")
        for file in listing.shards:
            uri = _below(root_uri, file.uri)
            own_date = self._date_of(uri)
            known = self._known.get(uri)
            if own_date is None:
                continue
            if crawl_date in (None, own_date):
                n_wanted += 1
                yield WantedShard(file, uri, known.crawl_date if known and known.state == "growing" else own_date)
            elif known is None:
                of_other_days[own_date] += 1
            elif self._may_be_readable_now(known, file):
                yield WantedShard(file, uri, known.crawl_date)
        if listing.shards and not n_wanted and crawl_date is not None:
            say(f"{len(listing.shards):,} shards lie under {root_uri}, none of {crawl_date}.")
        self._tell_other_days(of_other_days)

    @staticmethod
    def _may_be_readable_now(known: KnownShard, file: ShardFile) -> bool:
        """Any night looks again at another night's shard that could not be read: an upload, one that is back, one that was repaired."""
        is_touched = file.changed_at > known.noted_at - CLOCK_SLACK
        return known.state in ("growing", "missing") or (known.state in ("changed", "rejected") and is_touched)

    def _tell_other_days(self, counts: Mapping[date, int]) -> None:
        """Name the days that nobody ingested although shards of them are there: they came late, or their folder has a wrong date."""
        night, today = self._config.crawl_date, self._began_at.date()
        days = [day for day in sorted(counts) if night is not None and (day < night or day > today)]
        self._tally.n_of_other_days += sum(counts[day] for day in days)
        if days:
            named = _enumerate([f"{counts[day]:,} of {day}" for day in days]).removesuffix(": ")
            say(
                f"{self._dataset.name}: not ingested, because they are not of {night}: shards {named}. To ingest a day: start "
                f"nightly_rescore with that crawl_date, or alchemist ingest --dataset {self._dataset.name} --crawl-date {days[0]}. "
                "A wrong date: rename the folder."
            )

    def _date_of(self, uri: str) -> date | None:
        """Return the day that a shard belongs to; none where its folder names one that no calendar has."""
        folder = DATED_FOLDER.search(uri)
        if folder is None:
            return self._config.crawl_date or self._began_at.date()
        try:
            return date.fromisoformat(folder[1])
        except ValueError:
            place = join_uri(self._dataset.root_uri, uri[: folder.end()])
            self._tally.leave(
                self._dataset.name,
                [],
                f"No calendar has the day of {place}: nothing in it was ingested. Rename the folder.",
            )
            return None

    def _judge(self, shard: WantedShard) -> WantedShard | None:
        """Return what is to be read: a shard that is new, or another one than is registered where that counts as a revision."""
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
        if registry.is_cut(self._engine, known.shard_id):
            # It was read while it was uploaded: what lies there now is the same shard, further on.
            self._tally.n_known -= 1
            return replace(shard, supersedes=known.shard_id)
        self._note_changed(known, shard.uri)
        return None

    def _note_changed(self, known: KnownShard, uri: str) -> None:
        since = f"other bytes than were registered were there at {self._began_at:%Y-%m-%d %H:%M} UTC"
        if known.state == "changed" and known.reason:
            since = known.reason
            if self._config.crawl_date not in (None, known.crawl_date):
                return
        registry.mark_shard(self._engine, known.shard_id, "changed", since)
        self._leave(uri, known, "replaced under the same address", since)

    @staticmethod
    def _is_repaired(known: KnownShard, file: ShardFile) -> bool:
        """Nothing in the store rests on a rejected shard's bytes: it is read anew as soon as they are others."""
        if known.state != "rejected":
            return False
        return known.size_bytes != file.size_bytes or sha256_of(file.uri) != known.sha256

    def _is_unchanged(self, known: KnownShard, file: ShardFile) -> bool:
        """Read a shard again only if it was touched since it was last read: a name, a size and a time say less than a hash."""
        if known.size_bytes != file.size_bytes:
            return False
        is_untouched = known.verified_at is None or file.changed_at < known.verified_at - CLOCK_SLACK
        if is_untouched and known.state == "verified":
            return True
        is_same = sha256_of(file.uri) == known.sha256
        if is_same and (known.state != "verified" or known.verified_at is None or file.changed_at > known.verified_at):
            if known.state != "verified":
                say(f"{self._dataset.name}: {file.uri} is back with the bytes that were registered.")
            registry.confirm_shard(self._engine, known.shard_id, self._began_at)
        return is_same

    def _store(self, shard: WantedShard, content: ShardContent | DataError) -> None:
        if isinstance(content, DataError):
            self._tally.leave(self._dataset.name, [shard.uri], str(content))
            return
        new = NewShard(
            self._dataset.dataset_id, shard.uri, content.sha256, shard.file.size_bytes, shard.crawl_date,
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

    def _is_growing(self, file: ShardFile, content: ShardContent) -> bool:
        """A tar without an end mark is an upload under way until nobody has changed it for a while."""
        is_cut = content.is_cut or file.size_bytes < TAR_BLOCK_BYTES
        settle = timedelta(seconds=load_settings().upload_settle_s)
        return is_cut and file.changed_at > self._began_at - settle

    def _await(self, shard: WantedShard, new: NewShard) -> None:
        settle_s = load_settings().upload_settle_s
        reason = f"{shard.file.size_bytes:,} bytes without an end mark, last changed {shard.file.changed_at:%Y-%m-%d %H:%M:%S} UTC"
        if shard.supersedes is None:
            registry.await_shard(self._engine, new, reason)
        self._tally.n_growing += 1
        say(
            f"{self._dataset.name}: {shard.uri} is being uploaded ({reason}). A later ingest takes it up when it is whole, or as it is "
            f"when nothing has changed it for {settle_s:,.0f} s."
        )

    def _register(self, shard: WantedShard, new: NewShard, content: ShardContent) -> None:
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


def _count_readers(files: Sequence[ShardFile]) -> int:
    """Return how many worker processes read shards: as set, else one a core, fewer where starting them would not pay."""
    if (n_set := load_settings().decode_workers) is not None:
        return n_set
    return min(n_own_cores(), len(files), sum(file.size_bytes for file in files) // BYTES_A_READER)


def _next(config: IngestConfig, result: IngestResult) -> str | None:
    name = config.dataset or "NAME"
    if result.n_quarantined:
        return "select shard_id, key, reason, detail from alchemist.quarantined_samples (alchemist db psql) shows what was set aside"
    if not result.n_shards:
        return None
    if config.role == "validation":
        return f"alchemist train-rater --dataset NAME --validation {name}"
    if config.role == "train":
        return f"alchemist score --dataset {name}; without a rater: alchemist train-rater --dataset {name} --validation NAME"
    return None


COMMANDS = {"": Command(IngestConfig, run, _next)}
