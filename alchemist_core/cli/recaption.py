"""New captions by a vision-language model, as new samples: tars with the same images beside, in a dataset of their own.

A new caption makes a new pair, so nothing is overwritten. Each tar of the source dataset gives one tar, whose name is a function of the
source and of what is asked; it is written once all its answers are on the disk, and ingested like any other.
"""

import json
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from pydantic import Field

from alchemist_core.config import Command, Result, counted, fingerprint
from alchemist_core.errors import ConfigError, DataError
from alchemist_core.files import artifact_path
from alchemist_core.scorers.scorer import NOT_IDENTITY
from alchemist_core.scorers.vlm import Answer, Captioner, CaptionOptions, Key
from alchemist_core.shards import s3
from alchemist_core.shards.captions import BadTextError, read_document
from alchemist_core.shards.repairs import split_repairs
from alchemist_core.shards.storage import absolute_root, is_s3, join_uri, view_ranges
from alchemist_core.shards.tar_writer import write_tar
from alchemist_core.shards.tars import IMAGE_EXTS
from alchemist_core.stages import ingest
from alchemist_core.stages.execution import StageRun, execute
from alchemist_core.store.embeddings import read_matching
from alchemist_core.store.engine import open_store
from alchemist_core.store.registry import find_dataset, find_or_free, known_shards, superseded_bytes
from alchemist_core.store.sample_table import LocatedSample, SampleTable
from alchemist_core.store.samples import read_training_samples
from alchemist_core.subsets.member_table import MemberLocation
from alchemist_core.subsets.tar_copies import check_record
from alchemist_core.telemetry import say

PROVENANCE = "recaption"
"""Key in the JSON of a record, and so in the metadata of its sample."""
_SAMPLES_AT_A_TIME = 256
_N_REASONS = 5


class RecaptionConfig(CaptionOptions):
    """Which images get a new caption, by which model."""

    dataset: str = Field(description="Dataset whose images get new captions; its own samples stay as they are")
    into: str | None = Field(None, description="Dataset of the new samples; default: NAME-recaptioned")
    root: str | None = Field(
        None,
        description="Folder or s3:// address of the new tars; default: artifacts/recaptioned/ under the home",
        json_schema_extra=NOT_IDENTITY,
    )
    crawl_date: date | None = Field(None, description="Only shards of this crawl date (YYYY-MM-DD); default: all")
    where: str | None = Field(
        None, min_length=1, description="Only samples that satisfy this condition, as in alchemist select"
    )
    skip_failed: bool = Field(
        False,
        description="Leave samples out for which the server fails after all retries; default: their tars wait for the next run",
        json_schema_extra=NOT_IDENTITY,
    )

    @property
    def into_dataset(self) -> str:
        """The dataset of the new samples."""
        return self.into or f"{self.dataset}-recaptioned"

    @property
    def into_root(self) -> str:
        """The address of the new tars."""
        return self.root or str(artifact_path(f"recaptioned/{self.into_dataset}"))


class RecaptionResult(Result):
    """What was asked and written."""

    dataset: str
    root: str
    n_shards: int = 0
    n_known: int = 0
    n_samples: int = 0
    n_refused: int = 0
    n_failed: int = 0
    n_new_pairs: int = 0
    n_requests: int = 0
    cost: float | None = None
    reasons: list[str] = Field(default_factory=list)


def run(config: RecaptionConfig) -> RecaptionResult:
    """Write captions for the images of a dataset, and ingest them as new samples; an interrupted run resumes and asks nothing twice.

    Raises:
        ConfigError: The dataset of the new samples cannot take them: its name, its role or its root. The model was not asked.
        DataError: The server does not answer, or it failed for some samples; everything else was stored.
    """
    _refuse_target(config)
    try:
        result = execute("recaption", config, lambda stage_run: Recaptioning(config, stage_run).run(), RecaptionResult)
    finally:
        # Also what was written before an error.
        n_new_pairs = _ingest(config)
    return result.model_copy(update={"n_new_pairs": n_new_pairs})


def _refuse_target(config: RecaptionConfig) -> None:
    """Refuse before the model is asked what the ingest would refuse after everything was paid and written."""
    engine, name, root = open_store(), config.into_dataset, absolute_root(config.into_root)
    role = find_dataset(engine, config.dataset).role
    known = find_or_free(engine, name, role=role, root_uri=root)
    if known is None or known.root_uri.rstrip("/") == root.rstrip("/"):
        return
    moving = ["alchemist", "ingest", "--dataset", name, "--root", root, "--move-root"]
    moving += ["--role", role] if role != "train" else []
    raise ConfigError(
        f"Dataset {name!r} has the root {known.root_uri}, but this run would write its tars to {root}. If all its tars were moved there, "
        f"with the home for example, run: {shlex.join(moving)}. Otherwise add --root {shlex.quote(known.root_uri)}, or name another "
        "dataset with --into."
    )


def _ingest(config: RecaptionConfig) -> int:
    """Register the tars that are there; return the number of new pairs."""
    if not _tars_in(config.into_root):
        return 0
    given = {
        "dataset": config.into_dataset,
        "root": config.into_root,
        "role": find_dataset(open_store(), config.dataset).role,
    }
    return ingest.run(ingest.IngestConfig.model_validate(given)).n_new_pairs


def _tars_in(root: str) -> set[str]:
    """Return the addresses of finished tars under a root."""
    if is_s3(root):
        base = f"{root.rstrip('/')}/"
        return {uri.removeprefix(base) for uri, _, _ in s3.find_objects(root)}
    return {path.relative_to(root).as_posix() for path in Path(root).glob("*/*.tar")}


class Recaptioning:
    """One run of the command."""

    def __init__(self, config: RecaptionConfig, stage_run: StageRun) -> None:
        self._config, self._stage_run = config, stage_run
        self._dataset_id = find_dataset(stage_run.engine, config.dataset).dataset_id
        self._shards = {shard.shard_id: shard for shard in known_shards(stage_run.engine, self._dataset_id).values()}
        self._n_former = Counter(superseded_bytes(stage_run.engine, self._dataset_id))
        self._revised = {uri for uri, _ in self._n_former}
        self._captioner = Captioner(config)
        self._reasons: Counter[str] = Counter()

    def run(self) -> RecaptionResult:
        """Ask for the captions of each shard, then write its tar."""
        rows = self._wanted()
        shards = [rows.take(index_M) for index_M in rows.by_shard()]
        known, n_done = _tars_in(self._config.into_root), 0
        n = dict.fromkeys(("n_shards", "n_known", "n_samples", "n_refused", "n_failed"), 0)
        try:
            for shard in shards:
                name = self._name(shard[0])
                if not known.isdisjoint({name, self._former_name(shard[0])}):
                    n["n_known"] += 1
                else:
                    for count, number in self._recaption(shard, name).items():
                        n[count] += number
                n_done += len(shard)
                self._stage_run.report(n_done, len(rows), f"{n['n_refused']:,} refused")
        finally:
            self._captioner.close()
        counts = self._captioner.counts
        found = RecaptionResult(
            dataset=self._config.into_dataset, root=self._config.into_root, **n, n_requests=counts.n_requests,
            cost=counts.cost(self._config),
            reasons=[f"{n_times:,} x {reason}" for reason, n_times in self._reasons.most_common(_N_REASONS)],
        )  # fmt: skip
        if found.n_failed and not self._config.skip_failed:
            say(found.summary())
            raise DataError(
                f"The server failed for {counted(found.n_failed, 'sample')}: {found.reasons[0]}. Their shards were not written; run the "
                "command again, or add --skip-failed to leave these samples out. Every other shard was stored."
            )
        return found

    def _wanted(self) -> SampleTable:
        """Return the samples, each image once if the prompt does not contain its caption."""
        rows = read_training_samples(self._stage_run.engine, self._dataset_id)
        is_wanted_N = np.ones(len(rows), np.bool_)
        if self._config.where is not None:
            sample_id_N = np.array([row.sample_id for row in rows], np.int64)
            is_wanted_N &= read_matching(self._stage_run.engine, self._config.where, sample_id_N)
        if self._config.crawl_date is not None:
            of_date = [self._shards[row.shard_id].crawl_date == self._config.crawl_date for row in rows]
            is_wanted_N &= np.array(of_date, np.bool_)
        rows = rows.take(np.flatnonzero(is_wanted_N))
        if "{caption}" not in self._config.prompt and len(rows):
            order_N = np.concatenate(rows.by_shard())
            image_hash_N = np.ascontiguousarray(rows.hashes("image_hash")[order_N]).view("V32").ravel()
            _, first = np.unique(image_hash_N, return_index=True)
            rows = rows.take(order_N[np.sort(first)])
        return rows

    def _name(self, first: LocatedSample) -> str:
        """Return the address of a shard's tar under the root; a moved root keeps it, and each revision of the shard has its own.

        A revision may have the bytes of the one before: records that were quarantined can become readable.
        """
        file_hash = bytes(self._shards[first.shard_id].sha256)
        return self._name_by(first, f"{first.uri}\n{file_hash.hex()}\n{self._n_former[first.uri, file_hash]}")

    def _former_name(self, first: LocatedSample) -> str | None:
        """Return the name by which earlier versions wrote the tar; None after a revision, which they gave the same name."""
        return None if first.uri in self._revised else self._name_by(first, f"{first.root_uri}\n{first.uri}")

    def _name_by(self, first: LocatedSample, source: str) -> str:
        """Return the name for a source and what is asked; the dated folder gives the tar the crawl date of its source."""
        asked = self._config.model_dump(mode="json", include={"model", "prompt", "where", "image_side", "image_format"})
        what = fingerprint(asked | self._config.request_fields())
        digest = sha256(f"{source}\n{what}".encode()).hexdigest()
        return f"{self._shards[first.shard_id].crawl_date}/{PurePosixPath(first.uri).stem}-{digest[:16]}.tar"

    def _recaption(self, shard: SampleTable, name: str) -> dict[str, int]:
        """Ask about the samples of one shard, and write its tar if every one of them has an answer."""
        faults: Counter[str] = Counter()
        for start in range(0, len(shard), _SAMPLES_AT_A_TIME):
            part = list(shard[start : start + _SAMPLES_AT_A_TIME])
            faults += self._ask(part)
            self._stage_run.require_leases()
        self._reasons += faults
        if faults and not self._config.skip_failed:
            return {"n_failed": faults.total()}
        n_samples, n_refused = self._write(shard, name)
        return {"n_shards": 1, "n_samples": n_samples, "n_refused": n_refused, "n_failed": faults.total()}

    def _ask(self, rows: Sequence[LocatedSample]) -> Counter[str]:
        """Ask about samples that have no answer yet; return why some got none."""
        keys = self._keys(rows)
        kept = self._captioner.kept(keys)
        missing = [at for at, key in enumerate(keys) if key not in kept]
        files = dict(zip(missing, _read_files([rows[at] for at in missing]), strict=True))

        def image(at: int) -> bytes:
            # Of an animation the first frame is read; its repair is for readers that would read all frames.
            return next(bytes(data) for ext, data in files[at].items() if ext in IMAGE_EXTS)

        answers = self._captioner.caption(keys, image, [row.caption for row in rows])
        return Counter(answer for answer in answers if isinstance(answer, str))

    def _keys(self, rows: Sequence[LocatedSample]) -> list[Key]:
        return [self._captioner.key_of(row.image_hash, row.caption) for row in rows]

    def _write(self, shard: SampleTable, name: str) -> tuple[int, int]:
        """Write the tar of a shard; return the number of its samples, and of those that the model refused."""
        answers: list[Answer | None] = []
        for start in range(0, len(shard), _SAMPLES_AT_A_TIME):
            keys = self._keys(list(shard[start : start + _SAMPLES_AT_A_TIME]))
            kept = self._captioner.kept(keys)
            answers += [kept.get(key) for key in keys]
        refusals = [answer.refusal for answer in answers if answer is not None and answer.refusal is not None]
        self._reasons.update(refusals)
        captions = {at: answer.text for at, answer in enumerate(answers) if answer is not None and answer.text}
        if captions:
            self._store(name, self._entries(shard, captions))
        return len(captions), len(refusals)

    def _store(self, name: str, entries: Iterator[tuple[str, bytes | memoryview]]) -> None:
        if not is_s3(self._config.into_root):
            write_tar(Path(self._config.into_root) / name, entries)
            return
        local = artifact_path(f"uploading/{fingerprint([self._config.into_root, name])[:16]}.tar")
        write_tar(local, entries)
        s3.put_file(join_uri(self._config.into_root, name), local, {})
        local.unlink()

    def _entries(self, shard: SampleTable, captions: Mapping[int, str]) -> Iterator[tuple[str, bytes | memoryview]]:
        """Yield the files of the new records: all of the source's bytes but the caption and the JSON, under the source's keys."""
        places = list(captions)
        for start in range(0, len(places), _SAMPLES_AT_A_TIME):
            part = places[start : start + _SAMPLES_AT_A_TIME]
            rows = [shard[at] for at in part]
            for at, row, files in zip(part, rows, _read_files(rows), strict=True):
                for ext, data in files.items():
                    if ext not in ("txt", "json"):
                        yield f"{row.key}.{ext}", data
                yield f"{row.key}.txt", captions[at].encode()
                yield f"{row.key}.json", self._document(row, files.get("json"))

    def _document(self, row: LocatedSample, document: memoryview | None) -> bytes:
        try:
            fields = read_document(
                None if document is None else bytes(document), split_repairs(row.repair), is_new=True
            )
        except BadTextError:
            # Of an earlier version, which did not limit the digits of numbers. Ingest would leave this JSON out, and with it where the
            # caption comes from.
            fields = {}
        own: dict[str, Any] = {
            PROVENANCE: {
                "of_pair": row.pair_hash.hex(), "model": self._config.model, "prompt": self._config.prompt, "caption": row.caption,
                "dataset": self._config.dataset,
            }
        }  # fmt: skip
        fields = {name: value for name, value in fields.items() if name not in ("caption", "text")}
        return (json.dumps(fields | own, ensure_ascii=False, sort_keys=True) + "\n").encode()


def _read_files(rows: Sequence[LocatedSample]) -> Iterator[dict[str, memoryview]]:
    """Yield the files of records of one shard by their extensions, compared with what ingest registered.

    Raises:
        DataError: The shard is missing, or a record has other bytes.
    """
    if not rows:
        return
    uri = join_uri(rows[0].root_uri, rows[0].uri)
    spans = [span for row in rows for span in zip(row.file_offsets, row.file_sizes, strict=True)]
    views = iter(view_ranges(uri, spans))
    for row in rows:
        files = [next(views) for _ in row.file_exts]
        record = MemberLocation(
            uri, row.key, tuple(row.file_exts), tuple(row.file_offsets), tuple(row.file_sizes), row.pair_hash, 0.0, row.content_hash,
            row.repair,
        )  # fmt: skip
        check_record(record, files)
        yield dict(zip(row.file_exts, files, strict=True))


COMMANDS = {"": Command(RecaptionConfig, run, lambda config, _: f"alchemist score --dataset {config.into_dataset}")}
