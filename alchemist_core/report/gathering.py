"""Read what a report shows, from the store and the shards."""

import io
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sqlalchemy import Engine

from alchemist_core.code_version import code_version
from alchemist_core.config import counted
from alchemist_core.errors import DataError
from alchemist_core.notifications import explorer_page
from alchemist_core.rating.acceptance import override_warning, warnings_of
from alchemist_core.report.comparison import judge_worth, only_losses
from alchemist_core.report.content import (
    ArmRun,
    ContactSheet,
    ExperimentContent,
    Fact,
    Histogram,
    LineageStep,
    MetricRun,
    ReportContent,
    SubsetContent,
    SubsetVerdict,
    Tile,
    VersionChange,
    WithdrawnRow,
)
from alchemist_core.selection.config import strategy_of
from alchemist_core.selection.curves import SelectionCurve, read_curve
from alchemist_core.store import models, overviews
from alchemist_core.store.experiments import ExperimentRow, list_experiments
from alchemist_core.store.manifests import hash_rows
from alchemist_core.store.rank_windows import describe_pairing
from alchemist_core.store.raters import RaterRow, find_rater, promotion_reason
from alchemist_core.store.samples import read_first_locations
from alchemist_core.store.snapshots import Snapshot, reload_snapshot
from alchemist_core.store.subsets import SubsetRow, find_by_id, list_subsets, rater_of_subset
from alchemist_core.subsets.changes import find_changes
from alchemist_core.subsets.selected import reselect
from alchemist_core.telemetry import warn
from alchemist_core.training.sample_reading import read_images

# Without a subset, the bands of a ranking in the paper: the highest ranks, the middle that it found best to train on, and the lowest.
BANDS = ((0.0, 0.2), (0.4, 0.8), (0.9, 1.0))
THUMBNAIL_SIDE = 96
# More nights than this are summarized in one line.
MAX_NIGHTS = 7


def gather_content(
    engine: Engine, dataset: str | None, *, made_at: datetime, on_progress: Callable[[int, int, str], None]
) -> ReportContent:
    """Collect all parts; each may be empty."""
    rater = find_rater(engine, "production")
    snapshot = _newest_snapshot(engine, rater, dataset) if rater else None
    subsets = [row for row in list_subsets(engine, state="published") if _is_of(engine, row, dataset)]
    return ReportContent(
        title=f"Curation of {dataset or 'every training dataset'}",
        made_at=made_at,
        verdicts=[_verdict(engine, row) for row in subsets],
        facts=_facts(dataset, rater, snapshot),
        warnings=_warnings(engine, rater) if rater else (),
        scores=Histogram.of(snapshot.pairs.score_N) if snapshot else None,
        ranks=Histogram.of(snapshot.rank_N, bounds=(0.0, 1.0)) if snapshot else None,
        subsets=[_subset(engine, row) for row in subsets],
        withdrawn=[
            WithdrawnRow(row.title, row.withdrawn_at.date(), row.withdrawn_by or "", row.withdrawn_reason or "")
            for row in list_subsets(engine, state="withdrawn")
            if row.withdrawn_at and _is_of(engine, row, dataset)
        ],
        sheets=_sheets(engine, snapshot, subsets, on_progress),
        arms=[arm for row in subsets for arm in read_arms(engine, row)],
        metrics=[metric for row in subsets for metric in read_metrics(engine, row)],
        experiments=_experiments(engine, dataset),
        nights=overviews.read_nights(engine, dataset),
        quarantine=overviews.read_quarantine(engine, dataset),
        drift=overviews.read_drift(engine, rater.rater_id, dataset) if rater else (),
        costs=overviews.read_costs(engine, [row.title for row in subsets]),
    )


def _newest_snapshot(engine: Engine, rater: RaterRow, dataset: str | None) -> Snapshot | None:
    snapshot_id = overviews.newest_snapshot(engine, rater, dataset)
    try:
        return reload_snapshot(engine, snapshot_id) if snapshot_id else None
    except DataError as error:
        # Captions or scores that its condition reads have changed since.
        warn(f"No distribution of scores and ranks is shown: {error}")
        return None


def _verdict(engine: Engine, row: SubsetRow) -> SubsetVerdict:
    losses = only_losses(overviews.read_comparisons(engine, row.subset_id))
    return SubsetVerdict(row.title, *judge_worth(losses, row.name, row.version))


def _warnings(engine: Engine, rater: RaterRow) -> list[str]:
    override = override_warning(rater.acceptance_report, promotion_reason(engine, rater))
    return [*([override] if override else []), *warnings_of(rater.acceptance_report)]


def _is_of(engine: Engine, subset: SubsetRow, dataset: str | None) -> bool:
    return dataset is None or dataset in rater_of_subset(engine, subset).dataset_names


def _facts(dataset: str | None, rater: RaterRow | None, snapshot: Snapshot | None) -> list[Fact]:
    facts = [Fact("Dataset", dataset or "all"), Fact("Production rater", rater.name if rater else "none yet")]
    if rater:
        facts += [Fact("Rating rule", rater.rule), Fact("Validation dataset", rater.config["validation"])]
    if snapshot:
        # It may be of fewer or more datasets than the report.
        names = sorted({night.dataset for night in snapshot.nights})
        facts += [Fact("Newest selection from", ", ".join(names)), Fact("Eligible samples", f"{snapshot.n_eligible:,}")]
    return [*facts, Fact("Code version", code_version())]


def _subset(engine: Engine, row: SubsetRow) -> SubsetContent:
    strategy, warning = describe_strategy(engine, row)
    return SubsetContent(
        name=row.name,
        version=row.version,
        state=row.state,
        retention=row.retention,
        strategy=strategy,
        seed=row.seed,
        n_samples=row.n_samples,
        curve=_curve(engine, row),
        lineage=read_lineage(engine, row),
        warning=warning,
        change=_change(engine, row),
    )


def describe_strategy(engine: Engine, row: SubsetRow) -> tuple[str, str | None]:
    """Return the strategy of a version with its parameters, and a warning if it does not suit the rater's rule."""
    strategy = strategy_of(row.strategy, row.spec)
    parameters = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in asdict(strategy).items())
    text = f"{row.strategy} ({parameters})" if parameters else row.strategy
    return text, describe_pairing(engine, row)


def read_lineage(engine: Engine, row: SubsetRow) -> tuple[LineageStep, ...]:
    """Return what a version was made from."""
    rater = rater_of_subset(engine, row)
    checkpoint = f"rule {rater.rule}, checkpoint {bytes(rater.checkpoint_sha256).hex()[:16]}"
    return (
        LineageStep("manifest", row.manifest_sha256[:16], counted(row.n_samples, "sample")),
        LineageStep("snapshot", rater.eligible_hash[:16], counted(rater.n_eligible, "eligible sample")),
        LineageStep("rater", rater.name, checkpoint),
        *(LineageStep("shards", *described) for described in _shards(engine, row)),
    )


def _curve(engine: Engine, row: SubsetRow) -> SelectionCurve:
    return read_curve(row.curves) if row.curves else reselect(engine, row).curve()


def _shards(engine: Engine, row: SubsetRow) -> list[tuple[str, str]]:
    """Describe each night's shards, or those of many nights in one line."""
    nights = overviews.read_snapshot_shards(engine, row.snapshot_id)
    if len(nights) > MAX_NIGHTS:
        total = sum(night.n_shards for night in nights)
        return [(f"{total:,} of {len(nights)} nights", f"{nights[0].crawl_date} to {nights[-1].crawl_date}")]
    return [
        (f"{night.n_shards:,} of {night.dataset}, {night.crawl_date}", f"{night.first_uri} to {night.last_uri}")
        for night in nights
    ]


def _experiments(engine: Engine, dataset: str | None) -> list[ExperimentContent]:
    """Return the finished experiments on a dataset, or all; those on the synthetic corpus are shown only with all."""
    found = []
    for row in list_experiments(engine):
        is_asked = dataset is None or row.config.get("dataset") == dataset
        if is_asked and row.finished_at and (sheet := read_sheet(row)) is not None:
            found.append(sheet)
    return found


def read_sheet(row: ExperimentRow) -> ExperimentContent | None:
    """Return what an experiment has shown; None before its result."""
    sheet = (row.result or {}).get("sheet")
    if not sheet:
        return None
    head, *rows = (tuple(line) for line in sheet["table"])
    figures = tuple((title, svg) for title, svg in sheet["figures"])
    return ExperimentContent(row.name, tuple(sheet["notes"]), head, tuple(rows), figures)


def _change(engine: Engine, row: SubsetRow) -> VersionChange | None:
    if row.predecessor_id is None:
        return None
    before = find_by_id(engine, row.predecessor_id)
    try:
        changes = find_changes(engine, before, row)
    except DataError as error:
        # The samples that it was selected from have changed: print a warning, and show the other subsets.
        warn(f"{row.title}: not compared with version {before.version}: {error}")
        return None
    return VersionChange(before.version, changes.n_before, changes.n_both, changes.leavers, changes.joiners)


def read_arms(engine: Engine, row: SubsetRow) -> list[ArmRun]:
    """Return the held-out losses of the models that are compared with a version."""
    return [
        ArmRun(row.title, row.retention, one.arm, one.seed, one.n_samples, one.n_steps, one.value, one.metric)
        for one in only_losses(models.read_compared_models(engine, row.subset_id))
    ]


def read_metrics(engine: Engine, row: SubsetRow) -> list[MetricRun]:
    """Return the metrics of the images that the models generate by which a version is compared."""
    return [MetricRun(row.title, *metric) for metric in overviews.read_image_metrics(engine, row.subset_id)]


def _sheets(
    engine: Engine,
    snapshot: Snapshot | None,
    subsets: Sequence[SubsetRow],
    on_progress: Callable[[int, int, str], None],
) -> Sequence[ContactSheet]:
    """Return the sheets of the newest published subset, whose range is one of the bands; without one, of the given snapshot."""
    newest = max(subsets, key=lambda row: row.subset_id, default=None)
    if newest is not None:
        try:
            snapshot = reload_snapshot(engine, newest.snapshot_id)
        except DataError as error:
            # Captions or scores that it was selected by have changed since.
            warn(f"{newest.title}: no images of its ranks are shown: {error}")
            newest = None
    if snapshot is None:
        return ()
    selected = selected_range(_curve(engine, newest)) if newest else None
    bands = bands_around(selected) if selected else BANDS
    place_M = np.flatnonzero(snapshot.pairs.eligible_mask())
    picked = {band: place_M[pick_band(snapshot.rank_N[place_M], band)] for band in bands}
    position = {snapshot.pairs.pair_hash_N32[i].tobytes(): i for indices in picked.values() for i in indices}
    rows = read_first_locations(engine, hash_rows(list(position)))
    images, captions, hashes, _ = read_images(rows, THUMBNAIL_SIDE, on_progress)
    located, tiles = {bytes(row.pair_hash): row for row in rows}, dict[int, Tile]()
    for image, caption, pair_hash in zip(images, captions, hashes, strict=True):
        i, row = position[pair_hash], located[pair_hash]
        tiles[i] = Tile(
            encode_thumbnail(image), caption, float(snapshot.rank_N[i]), float(snapshot.pairs.score_N[i]), row.sample_id,
            f"{row.uri}/{row.key}", explorer_page("samples", row.sample_id),
        )  # fmt: skip
    return [
        ContactSheet(
            *band, tuple(tiles[i] for i in indices if i in tiles), newest.title if newest and band == selected else ""
        )
        for band, indices in picked.items()
    ]


def selected_range(curve: SelectionCurve) -> tuple[float, float]:
    """Return the range of ranks, in whole bins of the curve, that holds the middle nine tenths of the selected samples.

    >>> bins = np.array([0, 5, 5, 0])
    >>> selected_range(SelectionCurve(bins, bins, bins / 5, bins / 5))
    (0.25, 0.75)
    """
    share_R = np.cumsum(curve.n_kept) / max(curve.n_kept.sum(), 1)
    low, high = np.searchsorted(share_R, 0.05, side="right"), np.searchsorted(share_R, 0.95) + 1
    return float(low / len(share_R)), float(min(high / len(share_R), 1.0))


def bands_around(selected: tuple[float, float]) -> list[tuple[float, float]]:
    """Return the band of the selected samples, and those above and below it unless they are narrower than 0.02.

    >>> bands_around((0.1, 0.4)), bands_around((0.0, 0.2))
    ([(0.0, 0.1), (0.1, 0.4), (0.4, 1.0)], [(0.0, 0.2), (0.2, 1.0)])
    """
    low, high = selected
    return [band for band in ((0.0, low), selected, (high, 1.0)) if band == selected or band[1] - band[0] >= 0.02]


def pick_band(ranks: NDArray[np.float64], band: tuple[float, float], n: int = 24) -> NDArray[np.int64]:
    """Return up to n indices spread evenly over the ranks of a band, lowest rank first.

    >>> pick_band(np.array([0.9, 0.1, 0.0, 0.15]), (0.0, 0.2), n=2).tolist()
    [2, 3]
    """
    inside = np.flatnonzero((ranks >= band[0]) & (ranks <= band[1]))
    ordered = inside[np.argsort(ranks[inside], kind="stable")]
    return ordered[np.unique(np.linspace(0, len(ordered) - 1, min(n, len(ordered))).round().astype(np.int64))]


def encode_thumbnail(image: NDArray[np.uint8]) -> bytes:
    """Return an image as JPEG bytes, small enough for a page that embeds all of its images."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=86, optimize=True)
    return buffer.getvalue()
