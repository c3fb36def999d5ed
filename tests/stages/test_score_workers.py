"""The number of decoding processes of a scoring run: one per core, fewer for small jobs."""

import pytest

from alchemist_core.settings import load_settings
from alchemist_core.stages import score


@pytest.mark.parametrize(
    ("n_pairs", "n_workers"), [(0, 0), (999, 0), (1000, 1), (2999, 2), (8000, 8), (8_999, 8), (10**7, 8)]
)
def test_a_process_decodes_for_a_thousand_samples_and_no_more_than_cores_do(
    monkeypatch: pytest.MonkeyPatch, n_pairs: int, n_workers: int
) -> None:
    monkeypatch.delenv("ALCHEMIST_DECODE_WORKERS", raising=False)
    load_settings.cache_clear()
    monkeypatch.setattr(score, "n_own_cores", lambda: 8)
    assert score.count_decode_workers(n_pairs) == n_workers


@pytest.mark.parametrize("n_set", [0, 3])
def test_as_many_decode_as_are_set_none_too(monkeypatch: pytest.MonkeyPatch, n_set: int) -> None:
    monkeypatch.setenv("ALCHEMIST_DECODE_WORKERS", str(n_set))
    load_settings.cache_clear()
    assert score.count_decode_workers(10**7) == n_set
