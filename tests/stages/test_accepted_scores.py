"""A selection with a lowest score: by threshold, with a fixed or an automatic retention, the same whenever it is selected again."""

import pytest
from pydantic import ValidationError
from sqlalchemy import Engine, text

from alchemist_core.errors import ConfigError
from alchemist_core.selection.config import SelectionPolicy
from alchemist_core.store.subsets import find_subset
from alchemist_core.subsets.selected import manifest_of, reselect
from tests.selectable_store import change, draw, fill, member_ids, members

pytestmark = pytest.mark.db


@pytest.fixture
def selectable(engine: Engine) -> Engine:
    fill(engine)
    return engine


def scores_of(engine: Engine, ids: set[int]) -> list[float]:
    with engine.connect() as connection:
        return list(
            connection.execute(
                text("SELECT score FROM alchemist.scores WHERE sample_id = ANY(:ids)"), {"ids": sorted(ids)}
            ).scalars()
        )


@pytest.mark.parametrize(("rule", "reason"), [
    ("learnability", "below 0, training on the validation dataset raised the loss"),
    ("pmi", "below 0, the proxy predicts an image better from other captions than from its own"),
])  # fmt: skip
def test_auto_keeps_every_sample_above_the_zero_of_its_rule(selectable: Engine, rule: str, reason: str) -> None:
    change(selectable, f"UPDATE alchemist.raters SET rule = '{rule}'")
    found = draw("auto", strategy="auto")
    kept = member_ids(selectable)
    all_scores = scores_of(selectable, member_ids(selectable) | set(range(1, 1000)))
    assert min(scores_of(selectable, kept)) >= 0
    assert found.n_samples == len(kept) < found.n_eligible
    assert found.n_samples + found.n_removed["rejected"] == found.n_eligible <= len(all_scores)
    assert found.accepted is not None
    assert found.accepted.startswith(f"{found.n_samples:,} of {found.n_eligible:,} eligible samples (")
    assert f"score of at least 0: {reason}" in found.accepted
    subset = find_subset(selectable, "s")
    assert manifest_of(reselect(selectable, subset)).sha256() == subset.manifest_sha256
    again = draw("auto", strategy="auto")
    assert not again.is_new


def test_a_rule_without_a_zero_is_refused_with_what_helps(selectable: Engine) -> None:
    with pytest.raises(
        ConfigError, match=r"\(rule alignment\) was not measured on held-out validation samples.*or give --min-score"
    ):
        draw("auto")


def test_a_fixed_retention_selects_among_accepted_samples(selectable: Engine) -> None:
    found = draw(0.2, strategy="head_gsample", min_score=0.0)
    kept = member_ids(selectable)
    assert found.n_samples == round(0.2 * found.n_eligible)
    assert min(scores_of(selectable, kept)) >= 0
    larger = draw(0.3, strategy="head_gsample", min_score=0.0, name="larger")
    assert members(selectable) < members(selectable, "larger")
    assert larger.n_removed == found.n_removed
    most = found.n_eligible - found.n_removed["rejected"]
    with pytest.raises(ConfigError, match=rf"among scores of at least 0 can select only {most}"):
        draw(0.9, strategy="head_gsample", min_score=0.0)
    assert draw(0.9, strategy="head_gsample", min_score=0.0, allow_fewer=True).n_samples == most
    with pytest.raises(ConfigError, match=r"at least 99 \(as --min-score demands\). Lower --min-score\."):
        draw(0.1, min_score=99.0)


@pytest.mark.parametrize("score", [0.1, 0.3, 0.7, 0.9])
def test_a_score_reaches_the_threshold_that_it_is_written_as(selectable: Engine, score: float) -> None:
    """The store keeps a `real`: 0.7 as 0.699999988."""
    change(
        selectable, f"UPDATE alchemist.scores SET score = CASE WHEN sample_id % 2 = 0 THEN {score} ELSE {score} - 1 END"
    )
    found = draw("auto", strategy="top_k", min_score=score)
    assert min(scores_of(selectable, member_ids(selectable))) == pytest.approx(score)
    assert 0.3 < found.n_samples / found.n_eligible < 0.7, "half of the samples have this score"


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_threshold_is_a_finite_number(value: str) -> None:
    with pytest.raises(ValidationError, match="finite number"):
        SelectionPolicy.model_validate({"min_score": value})


def test_what_to_do_if_the_threshold_of_auto_accepts_nothing(selectable: Engine) -> None:
    change(
        selectable, "UPDATE alchemist.raters SET rule = 'learnability'; UPDATE alchemist.scores SET score = score - 99"
    )
    with pytest.raises(
        ConfigError, match=r"at least 0 \(.*\)\. Select without --accept auto and --retention auto, or set"
    ):
        draw("auto")


def test_strata_keep_the_same_fraction_of_accepted_samples(selectable: Engine) -> None:
    found = draw(0.2, strategy="head_gsample", min_score=0.0, stratify=True)
    assert found.n_samples == round(0.2 * found.n_eligible)
    assert min(scores_of(selectable, member_ids(selectable))) >= 0


def test_a_spec_without_a_threshold_keeps_its_hash(selectable: Engine) -> None:
    draw(0.2)
    assert not find_subset(selectable, "s").spec.keys() & {"accept", "accept_loss", "min_score"}
