"""Samples: a grid of those that satisfy conditions, and one of them with everything that is known about it."""

import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Literal, NamedTuple, Self

from pydantic import Field, ValidationError, model_validator
from sqlalchemy import Engine
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from alchemist_core.config import Config
from alchemist_core.errors import ConfigError
from alchemist_core.explorer.faults import describe_faults
from alchemist_core.explorer.markup import Tab, render
from alchemist_core.report.page import show_percent
from alchemist_core.store import browsing
from alchemist_core.store.browsing import MOST_ORDERED, Choices, Conditions, Page, Shown, Walk, read_place, write_place
from alchemist_core.store.embeddings import embedding_scorers
from alchemist_core.store.engine import open_reader
from alchemist_core.store.flags import as_label, read_flags_of, read_history
from alchemist_core.store.overviews import QuarantinedRecord, quarantined_records
from alchemist_core.store.raters import RaterRow, find_rater
from alchemist_core.store.samples import find_reach
from alchemist_core.store.subsets import SubsetRow, choose_version

TAB = Tab("Samples", "/samples")
N_RECORDS = 100
"""Quarantined records of a night in the list."""
N_DUPLICATES = 24
"""Near-duplicates beside a sample; the others are a page of their own."""


class Asked(Config):
    """What a grid of samples shows: the fields of its address."""

    rater: str = Field("production", description="Rater or scorer by name, or production")
    rank_from: float | None = Field(None, ge=0, le=1, description="Ranks from this one on, 0 (highest score) to 1")
    rank_to: float | None = Field(None, ge=0, le=1, description="Ranks below this one")
    dataset: str | None = Field(None, description="Dataset")
    night: date | None = Field(None, description="Crawl date")
    source: str | None = Field(None, description="Host that the images were downloaded from")
    caption: str | None = Field(None, max_length=500, description="Text that the caption contains, in any case")
    min_width: int | None = Field(None, ge=1, le=1_000_000, description="Width of the images, at least")
    quarantine: str | None = Field(None, description="Reason why a rater could not score them")
    flagged: str | None = Field(None, description="Label of a flag that is set")
    cluster: int | None = Field(None, ge=0, lt=1 << 31, description="Cluster of the embeddings")
    scorer: str | None = Field(None, description="Scorer whose cluster is meant; none: the first one that has some")
    group: int | None = Field(None, ge=1, description="First sample of a group of near-duplicates")
    subset: str | None = Field(None, description="Subset by name, or NAME:VERSION")
    where: str | None = Field(None, description="Condition as in --where")
    order: Literal["newest", "rank"] = Field("newest", description="Newest first, or by rank, the highest score first")
    older: str | None = Field(None, description="Where the page begins: after this place")
    newer: str | None = Field(None, description="Where the page ends: before this place")

    @model_validator(mode="after")
    def _require_a_band(self) -> Self:
        if (self.rank_from or 0.0) >= (1.0 if self.rank_to is None else self.rank_to):
            raise ValueError("rank from must be below rank to")
        if self.night is not None and self.dataset is None:
            raise ValueError("a night belongs to a dataset: choose the dataset")
        return self

    @property
    def has_band(self) -> bool:
        """Whether only some ranks are asked for."""
        return (self.rank_from or 0.0) > 0 or (self.rank_to is not None and self.rank_to < 1)


# All numbers of 18 digits are ids that the store could have; `int` refuses one of more than 4,300.
_IDS = re.compile(
    r"\s*sample_id\s+in\s*\(\s*(\d{1,18}(?:\s*,\s*\d{1,18})*)\s*\)\s*|\s*sample_id\s*=\s*(\d{1,18})\s*", re.IGNORECASE
)


def asked_ids(where: str | None) -> list[int]:
    """Return the ids that a condition asks for, if it asks for nothing else, so that they can be read by their key.

    >>> asked_ids("sample_id in (7, 3,7)"), asked_ids("sample_id = 5"), asked_ids("sample_id in (7) and width > 9")
    ([7, 3], [5], [])
    """
    found = _IDS.fullmatch(where or "")
    ids = map(int, (found[1] or found[2]).split(",")) if found else ()
    return list(dict.fromkeys(ids))


class Found(NamedTuple):
    """A page of samples, and the rater by which they are ranked (None: there is none)."""

    page: Page
    rater: RaterRow | None
    order: str = "newest first"
    """In words."""
    n_members: int | None = None
    """Members of the subset version that was asked for."""
    end: str = ""
    """Why there are no more samples in this order, though there are more; empty if there are none."""
    records: Sequence[QuarantinedRecord] = ()
    """Quarantined records of the night and reason that were asked for."""


def find_samples(engine: Engine, asked: Asked, datasets: Mapping[str, int]) -> Found:
    """Return the page of samples that was asked for.

    Raises:
        ConfigError: There is no such rater, dataset or subset; the rater has no ranks; or the condition is not valid.
    """
    rater = find_rater(engine, asked.rater)
    scale_id = browsing.newest_scale(engine, rater) if rater else None
    band = None
    if asked.has_band:
        if rater is None or scale_id is None:
            raise ConfigError(
                f"{rater.name if rater else 'Production'} has no ranks yet: a rater is ranked at its first selection. Leave the ranks "
                "empty, and give a condition such as score > 1."
            )
        band = browsing.band_of_ranks(
            engine, scale_id, asked.rank_from or 0.0, 1.0 if asked.rank_to is None else asked.rank_to
        )
    subset = _subset(engine, asked.subset)
    conditions = Conditions(
        rater_id=rater.rater_id if rater else None, rank_scale_id=scale_id, band=band, min_width=asked.min_width, source=asked.source,
        caption=asked.caption, subset_id=subset.subset_id if subset else None, dataset_id=_dataset_id(asked.dataset, datasets),
        crawl_date=asked.night, where=asked.where,
    )  # fmt: skip
    walk, rest = _plan(engine, asked, conditions)
    if asked.order == "rank":
        if rater is None:
            raise ConfigError("No rater is in production, so there are no ranks. Choose a rater, or leave the order.")
        may_walk_all = _own_walk(engine, asked) is None
        walk = browsing.by_rank(engine, walk, rater.rater_id, conditions.band, may_walk_all=may_walk_all)
        rest = _without(conditions, "band") if isinstance(walk, browsing.ByRank) else rest
    start = asked.newer or asked.older
    place, is_back = read_place(start) if start else None, asked.newer is not None
    page = browsing.browse(engine, walk, rest, start=place, is_back=is_back)
    order, end = _describe_order(walk, page, rater)
    return Found(page, rater, order, None if subset is None else subset.n_samples, end)


def _describe_order(walk: Walk, page: Page, rater: RaterRow | None) -> tuple[str, str]:
    name = rater.name if rater else ""
    if isinstance(walk, browsing.ByRank):
        end = f"Only the highest scores of {name} are kept in order. For lower ranks, choose a range of ranks, newest first."
        return f"by rank of {name}, highest first", "" if page.older or math.isinf(walk.lowest) else end
    if isinstance(walk, browsing.Sorted):
        if walk.is_whole:
            return f"by rank of {name}, highest first", ""
        part = f"by rank of {name}, highest first, among the newest {MOST_ORDERED:,} of them"
        return part, "" if page.older else f"Only the newest {MOST_ORDERED:,} samples were put in order."
    if isinstance(walk, browsing.ShardsByRank):
        return f"by rank of {name}, highest first", ""
    return "newest first", ""


def _plan(engine: Engine, asked: Asked, conditions: Conditions) -> tuple[Walk, Conditions]:
    """Return the walk that reads the fewest samples, and the conditions that it does not satisfy by itself."""
    if (own := _own_walk(engine, asked)) is not None:
        return own, conditions
    # A crawl date is smaller than most subsets, a dataset larger.
    if conditions.dataset_id is not None and (conditions.crawl_date or conditions.subset_id is None):
        walk = browsing.OfShards(conditions.dataset_id, conditions.crawl_date)
        return walk, _without(conditions, "dataset_id", "crawl_date")
    if conditions.subset_id is not None:
        return browsing.members_of(conditions.subset_id), _without(conditions, "subset_id")
    if conditions.band is not None and conditions.rater_id is not None:
        return browsing.scored_by(conditions.rater_id, conditions.band), _without(conditions, "band")
    return browsing.all_samples(), conditions


def _own_walk(engine: Engine, asked: Asked) -> Walk | None:
    """Return the walk of a field whose samples no condition of another walk could find."""
    if asked.group is not None:
        return browsing.duplicates_of(asked.group)
    if asked.cluster is not None:
        return browsing.in_cluster(engine, asked.cluster, asked.scorer)
    if asked.quarantine is not None:
        return browsing.Quarantined(asked.quarantine)
    if asked.flagged is not None:
        return browsing.flagged_as(as_label(asked.flagged))
    ids = asked_ids(asked.where)
    return browsing.of_ids(ids) if ids else None


def _without(conditions: Conditions, *names: str) -> Conditions:
    kept = {name: getattr(conditions, name) for name in Conditions.__slots__ if name not in names}
    return Conditions(**kept)


def _dataset_id(name: str | None, datasets: Mapping[str, int]) -> int | None:
    if name is not None and name not in datasets:
        raise ConfigError(f"There is no dataset {name!r} (datasets: {', '.join(datasets) or 'none'}).")
    return None if name is None else datasets[name]


def _subset(engine: Engine, named: str | None) -> SubsetRow | None:
    if named is None:
        return None
    name, _, version = named.partition(":")
    if version and not (version.isdecimal() and len(version) < 10):
        raise ConfigError(f"{named!r} is not a subset. Give NAME, or NAME:VERSION.")
    return choose_version(engine, name, version=int(version) if version else None, may_be_withdrawn=True)


def show_grid(request: Request) -> Response:
    """Return the grid of the samples that its address asks for."""
    engine = open_reader()
    given = {name: value.strip() for name, value in request.query_params.items() if value.strip()}
    choices = browsing.read_choices(engine)
    try:
        asked = Asked.model_validate(given)
        found = find_samples(engine, asked, choices.datasets)
    except (ValidationError, ConfigError) as error:
        return _grid(request, given, choices, title="Which samples were asked for?", error=describe_faults(error))
    if asked.quarantine is not None and asked.dataset is not None and asked.night is not None:
        # What ingest quarantined is no sample.
        records = quarantined_records(engine, asked.dataset, asked.night, asked.quarantine, limit=N_RECORDS)
        found = found._replace(records=records)
    return _grid(request, given, choices, title=_title(asked, found.rater), found=found)


def _grid(
    request: Request, given: Mapping[str, str], choices: Choices, *, title: str, found: Found | None = None, error: str | None = None
) -> Response:  # fmt: skip
    page = found.page if found else Page()
    base = {name: value for name, value in given.items() if name not in ("older", "newer")}
    places = {"older": page.older, "newer": page.newer}
    return render(
        request, "samples.html", title=title, status=400 if error else 200, given=given, base=base, choices=choices, page=page, error=error,
        rater=found.rater if found else None, places={name: write_place(place) for name, place in places.items() if place},
        found=found, columns=columns_of_conditions(open_reader(), page.samples), most_records=N_RECORDS,
    )  # fmt: skip


class Column(NamedTuple):
    """Something that a condition can name."""

    name: str
    kind: str
    example: str


_EXAMPLES = {
    "sample_id": "sample_id in (17, 42)", "score": "score > 1.5", "rank": "rank < 0.1", "caption": "caption ilike '%photo%'",
    "width": "width >= 512", "height": "height >= 512", "megapixels": "megapixels > 1", "aspect_ratio": "aspect_ratio < 1",
}  # fmt: skip
_KINDS = {int: "whole number", float: "number", str: "text", bool: "yes or no", date: "date"}


def columns_of_conditions(engine: Engine, shown: Sequence[Shown]) -> list[Column]:
    """Return what a condition can name in this store: columns, then other scores and flags; with examples that fit the shown samples."""
    known = browsing.read_names(engine)
    kinds = {**browsing.WHERE_COLUMNS, **browsing.COMPUTED_COLUMNS}
    examples = {**_EXAMPLES, **(_examples_like(shown[0]) if shown else {})}
    own = [Column(name, _KINDS.get(kind, "value"), examples.get(name, "")) for name, kind in kinds.items()]
    scores = [Column(name, "score", f"{name} > 0.5") for name in known.scores]
    flags = [Column(name, "flag", f"not {name}") for name in known.flags.labels]
    return sorted(own, key=lambda one: not one.example) + scores + flags


def _examples_like(sample: Shown) -> dict[str, str]:
    words = re.findall(r"[A-Za-z]{3,20}", sample.caption)
    found = {
        "sample_id": f"sample_id in ({sample.sample_id})",
        "width": f"width >= {sample.width}",
        "height": f"height >= {sample.height}",
    }
    if words:
        found["caption"] = f"caption ilike '%{max(words, key=len).lower()}%'"
    if sample.score is not None:
        found["score"] = f"score > {sample.score:.2f}"
    return found


def _title(asked: Asked, rater: RaterRow | None) -> str:
    if asked.group is not None:
        return f"Which samples look like {asked.group}?"
    if asked.cluster is not None:
        return f"Which samples are in cluster {asked.cluster}{f' of {asked.scorer}' if asked.scorer else ''}?"
    if asked.flagged is not None:
        return f"Which samples are flagged {asked.flagged.replace('_', ' ')}?"
    if asked.quarantine is not None:
        return f"Which samples could not be scored because of {asked.quarantine}?"
    place = f" of {asked.dataset}" if asked.dataset else ""
    place += f", {asked.night}" if asked.night else ""
    place += f" in {asked.subset}" if asked.subset else ""
    if asked.has_band and rater is not None:
        low, high = asked.rank_from or 0.0, 1.0 if asked.rank_to is None else asked.rank_to
        return f"Which samples{place} does {rater.name} rank {show_percent(low)} to {show_percent(high)}?"
    return f"Which samples{place} are there?" if place or asked.where else "What is in the corpus?"


def show_sample(request: Request) -> Response:
    """Return the page of one sample."""
    engine = open_reader()
    sample_id: int = request.path_params["sample_id"]
    sample = browsing.read_sample(engine, sample_id)
    if sample is None:
        raise HTTPException(404, f"There is no sample {sample_id} in the store.")
    rater = find_rater(engine, "production")
    reached = find_reach(engine, [sample.image_hash])
    return render(
        request, "sample.html", title=f"What is known about sample {sample_id}?", sample=sample,
        scores=browsing.read_scores(engine, sample_id),
        places=browsing.read_places(engine, sample_id, rater.rater_id if rater else None),
        duplicates=_duplicates(engine, sample, rater), reached=reached, clusters=browsing.read_clusters(engine, sample_id),
        has_embeddings=bool(embedding_scorers(engine)),
        flags=read_flags_of(engine, [sample_id]).get(sample_id, []), history=read_history(engine, sample_id),
        metadata=json.dumps(sample.metadata, indent=2, ensure_ascii=False) if sample.metadata else "",
        explain=[
            shlex.join(["alchemist", "sample", "explain", str(sample_id), "--subset", one.name, "--version", str(one.version)])
            for one in reached
        ],
    )  # fmt: skip


def _duplicates(engine: Engine, sample: browsing.SampleDetail, rater: RaterRow | None) -> list[Shown]:
    first = sample.first_sample_id or sample.sample_id
    ranked = Conditions(
        rater_id=rater.rater_id if rater else None,
        rank_scale_id=browsing.newest_scale(engine, rater) if rater else None,
    )
    found = browsing.browse(engine, browsing.duplicates_of(first), ranked).samples
    return [one for one in found if one.sample_id != sample.sample_id][:N_DUPLICATES]


ROUTES: list[Any] = [
    Route("/samples", show_grid),
    Route("/samples/{sample_id:number}", show_sample),
]
