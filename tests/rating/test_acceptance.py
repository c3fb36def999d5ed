import pytest
from pydantic import ValidationError

from alchemist_core.rating.acceptance import AcceptanceLimits

# For each limit: default, minimum and maximum.
BOUNDS = {
    "max_batch_change": (1e-5, 0, 1), "max_neighbour_change": (0, 0, 1), "max_flipped_codes": (0, 0, 10**6),
    "min_score_spread": (1e-6, 0, 1e30), "max_loss_correlation": (0.98, 0, 1), "min_effective_samples": (1.5, 0, 10**6),
    "max_effective_ratio": (0.999, 0, 1), "min_entropy_ratio": (0.05, 0, 1), "max_entropy_ratio": (0.9999, 0, 1),
    "min_plain_auc": (0.7, 0, 1), "min_chaotic_auc": (0.7, 0, 1), "min_caption_auc": (0.55, 0, 1),
    "warn_resolution_ratio": (4, 1, 1000), "min_rank_stability": (0.5, -1, 1),
}  # fmt: skip


def test_every_limit_is_tried() -> None:
    assert BOUNDS.keys() == AcceptanceLimits.model_fields.keys()


@pytest.mark.parametrize("name", BOUNDS)
def test_a_limit_has_its_default_and_may_be_as_small_or_large_as_its_bounds(name: str) -> None:
    default, least, most = BOUNDS[name]
    assert getattr(AcceptanceLimits(), name) == default
    for allowed in (least, most):
        assert getattr(AcceptanceLimits(**{name: allowed}), name) == allowed
    for refused in (least - 1, most + max(1, most / 1000)):
        with pytest.raises(ValidationError, match=name):
            AcceptanceLimits(**{name: refused})
