"""The reference of a night, the names of its groups and the reason of a held night; test_drift_measures.py checks the numbers."""

from types import SimpleNamespace
from typing import Any

import pytest

from alchemist_core.quality.drift import CAPTION_GROUPS, Mover, NightDrift, accepted_reference, hold_reason
from alchemist_core.quality.limits import DriftLimits

RATER = SimpleNamespace(rater_id=1)


@pytest.mark.parametrize(
    ("nights", "n"),
    [([], None), ([(1, 0, [])], None), ([(1, 0, []), (2, 6, [1.0, 2.0, 3.0])], 6), ([(1, 2, [1.0]), (2, 4, [1.0])], 6)],
)
def test_accepted_nights_without_a_score_are_no_reference(
    nights: list[tuple[int, int, list[float]]], n: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alchemist_core.store.nights.read_accepted", lambda *_, **__: nights)
    reference = accepted_reference(None, 1, RATER, without=[])
    assert (reference and reference.n) == n


def test_lengths_of_captions_have_groups_without_a_gap() -> None:
    assert [group.name for group in CAPTION_GROUPS] == [
        "0-15 characters", "16-31 characters", "32-63 characters", "64-127 characters", "128-255 characters", "256+ characters",
    ]  # fmt: skip
    assert [group.caption_length for group in CAPTION_GROUPS[:2]] == [(0, 15), (16, 31)]
    assert CAPTION_GROUPS[-1].caption_length == (256, 2**31 - 1)


def test_a_night_is_held_with_its_figure_its_limit_and_what_moved_it_most() -> None:
    def found(*movers: Mover) -> NightDrift:
        return NightDrift(1, "held", 500, 500, 0.3456, 0.2, "accepted nights", 900, list(movers))

    most: dict[str, Any] = {"n": 9, "contribution": 0.2, "psi_without": 0.1, "samples": []}
    said = "scores drifted: PSI 0.346 (limit 0.25) against accepted nights"
    assert hold_reason(found(), DriftLimits()) == said
    moved = found(Mover("shard", "a.tar", **most), Mover("shard", "b.tar", **most))
    assert hold_reason(moved, DriftLimits()) == f"{said}; shard a.tar contributes most"
