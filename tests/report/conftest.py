"""A page about real images if the test corpus is available, otherwise about noise."""

import os
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pytest

from alchemist_core.experiments.arms import QUESTIONS
from alchemist_core.experiments.sheets import make_sheet
from alchemist_core.experiments.trial import Cell
from alchemist_core.report.content import (
    ArmRun,
    ContactSheet,
    ExperimentContent,
    Fact,
    Histogram,
    LineageStep,
    ReportContent,
    SubsetContent,
    Tile,
    VersionChange,
)
from alchemist_core.report.gathering import BANDS, encode_thumbnail, pick_band
from alchemist_core.selection.curves import selection_curve
from alchemist_core.selection.keys import Noise
from alchemist_core.selection.ranks import fit_rank_scale
from alchemist_core.selection.sampler import sample_members
from alchemist_core.selection.strategies import ShiftGsample, TopK, mixed_pairing_warning
from alchemist_core.shards.faults import Fault
from alchemist_core.shards.images import decode_image
from alchemist_core.shards.samples import Reading, find_image, read_samples
from alchemist_core.store.overviews import MeasuredDrift, NightOverview, QuarantineReason, SubsetCost

ATTACK = "<script>alert(1)</script> & \"quoted\" \x00 \ud800 'caption'"


@pytest.fixture(scope="session")
def content():
    images, captions = real_pairs() or noise_pairs()
    captions[0] = ATTACK
    # Bright images first: a fake score that puts the attack into a band.
    score_N = np.array([image.mean() for image in images])
    score_N[0] = 300
    rank_N = fit_rank_scale(score_N).rank(score_N)
    sheets = [
        ContactSheet(
            *band,
            tuple(
                Tile(encode_thumbnail(images[i]), captions[i], float(rank_N[i]), float(score_N[i]))
                for i in pick_band(rank_N, band)
            ),
        )
        for band in BANDS
    ]
    return ReportContent(
        title="Alchemist report: corpus",
        made_at=datetime(2026, 3, 2, 6, 30, tzinfo=UTC),
        facts=[Fact("Dataset", "corpus"), Fact("Rater", "rater-9bb1e0")],
        scores=Histogram.of(score_N),
        ranks=Histogram.of(rank_N, bounds=(0.0, 1.0)),
        subsets=[subset(rank_N, TopK(), 0.2), subset(rank_N, ShiftGsample(), 0.5)],
        sheets=sheets,
        arms=arm_runs(),
        experiments=[experiment()],
        nights=[
            NightOverview("corpus", date(2026, 3, 1), 2, 2_000, 0, 3, "nothing scored: no production rater"),
            NightOverview("corpus", date(2026, 3, 2), 1, 1_004, 1_000, 4, "selectable"),
        ],
        quarantine=[
            QuarantineReason("missing_caption", "ingest", 2, "no .txt"),
            QuarantineReason("truncated_image", "ingest", 5, "image file is truncated (12 bytes not processed)"),
        ],
        drift=[
            MeasuredDrift("corpus", date(2026, 3, 1), 1_997, None, None, "recorded"),
            MeasuredDrift("corpus", date(2026, 3, 2), 1_000, 0.031, 0.044, "steady"),
        ],
        costs=[SubsetCost("subset", "corpus-top_k-r20 v1", "cpu", 754.0)],
    )


def experiment():
    seeds = range(3, 8)
    losses = {"random": 3.2, "planted": 2.75, "alignment/auto": 2.8, "full": 2.0}
    cells = [Cell(arm, 0.2, seed, 120, 19, loss + 0.02 * (seed % 3)) for arm, loss in losses.items() for seed in seeds]
    before = {"n_seeds": 5, "effect_in_spreads": 1.66, "effect": 0.05, "spread": 0.03, "spread_from": "seeds 0, 1, 2"}
    found = make_sheet(
        QUESTIONS["rank_window"], {"before": before, "cells": [cell.as_json() for cell in cells], "rank_windows": []}
    ).as_json()
    head, *rows = found["table"]
    return ExperimentContent("rank_window", tuple(found["notes"]), head, tuple(rows), tuple(found["figures"]))


def subset(rank_N, strategy, retention):
    k = round(retention * len(rank_N))
    member_K = sample_members(rank_N, np.arange(len(rank_N)), k=k, strategy=strategy, noise=Noise(7))
    return SubsetContent(
        name=f"corpus-{strategy.name}-r{retention * 100:g}",
        version=1,
        state="published",
        retention=retention,
        strategy=strategy.name,
        seed=7,
        n_samples=k,
        curve=selection_curve(rank_N, member_K, strategy=strategy),
        lineage=(LineageStep("snapshot", "600 eligible pairs"), LineageStep("rater", "rater-9bb1e0", "rule alignment")),
        warning=mixed_pairing_warning(strategy, "alignment"),
        change=VersionChange(1, 300, 270, {"better key": 18, "taken down": 12}, {"new pair": 20, "k grew": 10})
        if strategy.name == "shift_gsample"
        else None,
    )


def arm_runs():
    losses = {"subset": 2.80, "random": 3.20, "planted": 2.75, "full": 2.00}
    return [
        ArmRun("corpus-top_k-r20 v1", 0.2, arm, seed, 120, 19, loss + 0.05 * seed)
        for arm, loss in losses.items()
        for seed in range(3)
    ]


def real_pairs():
    beside = Path(__file__).parents[4] / "shared" / "corpus"
    shard = Path(os.environ.get("ALCHEMIST_TEST_CORPUS", beside)) / "000000.tar"
    if not shard.exists():
        return None
    images, captions = [], []
    with shard.open("rb") as file:
        for pair in read_samples(file, shard.stat().st_size, Reading(has_perceptual_hash=False)):
            if not isinstance(pair, Fault) and len(images) < 600:
                member, place = find_image(pair.record), file.tell()
                file.seek(member.offset)
                images.append(decode_image(file.read(member.size), 96))
                captions.append(pair.caption)
                file.seek(place)
    return images, captions


def noise_pairs():
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (96, 96, 3), dtype=np.uint8) // np.uint8(1 + i % 5) for i in range(600)]
    return images, [f"noise, picture {i}" for i in range(600)]
