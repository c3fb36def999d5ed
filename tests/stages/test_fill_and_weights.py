"""Repeats and weights are part of a version: exact, seeded, in SQL, the manifest and the copies, and unknown to older versions."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, text

from alchemist_core.__main__ import main
from alchemist_core.cli.subset import DiffSubsetConfig, PublishSubsetConfig, SubsetShowConfig, diff, publish, show
from alchemist_core.errors import ConfigError
from alchemist_core.files import artifact_path
from alchemist_core.report.gathering import describe_strategy
from alchemist_core.selection.config import SelectionPolicy, asked_options, hash_spec, policy_of, policy_spec
from alchemist_core.selection.rank_window import FittedWindow, RankWindow
from alchemist_core.selection.strategies import STRATEGIES, HeadGsample
from alchemist_core.stages.select import SelectConfig
from alchemist_core.store.manifests import Manifest, read_manifest
from alchemist_core.store.rank_windows import store_window
from alchemist_core.store.raters import record_held_out
from alchemist_core.store.subsets import find_subset
from alchemist_core.subsets.selected import load_manifest, manifest_of, reselect
from tests.oracles.oracle_weights import oracle_weights
from tests.selectable_store import draw, fill, members

pytestmark = pytest.mark.db
ACCEPTED: dict[str, Any] = {"strategy": "head_gsample", "min_score": 0.5}


@pytest.fixture
def selectable(engine: Engine) -> Engine:
    fill(engine)
    return engine


def manifest(engine: Engine, name: str = "s") -> Manifest:
    subset = find_subset(engine, name)
    return read_manifest(artifact_path(subset.manifest_uri), sha256=subset.manifest_sha256)


def test_accepted_samples_are_repeated_evenly_up_to_the_retention_and_no_rejected_one_is_taken(
    selectable: Engine,
) -> None:
    found = draw(0.8, fill="repeat", **ACCEPTED)
    n_accepted = found.n_eligible - found.n_removed["rejected"]
    given = manifest(selectable)
    assert given.weight_K is not None
    assert found.n_samples == n_accepted == len(given) < found.n_eligible
    assert found.epoch_size == given.weight_K.sum() == round(0.8 * found.n_eligible)
    assert given.score_K.min() >= 0.5
    assert set(given.weight_K) == {found.epoch_size // n_accepted, found.epoch_size // n_accepted + 1}
    assert show(SubsetShowConfig(name="s")).epoch_size == found.epoch_size
    # The same members in a larger epoch: nobody is read less often.
    draw(0.9, name="larger", fill="repeat", **ACCEPTED)
    larger = manifest(selectable, "larger").weight_K
    assert larger is not None
    assert (larger >= given.weight_K).all()
    assert manifest(selectable, "larger").sha256() != given.sha256()
    # Another seed repeats others; the same one is the same version.
    assert not draw(0.8, fill="repeat", **ACCEPTED).is_new
    draw(0.8, name="other", fill="repeat", seed=1, **ACCEPTED)
    assert (manifest(selectable, "other").weight_K != given.weight_K).any()


def test_where_enough_samples_are_accepted_nothing_is_repeated(selectable: Engine) -> None:
    filled, plain = draw(0.2, fill="repeat", **ACCEPTED), draw(0.2, name="plain", **ACCEPTED)
    assert (filled.epoch_size, filled.manifest_sha256) == (None, plain.manifest_sha256)
    assert manifest(selectable).weight_K is None
    assert find_subset(selectable, "s").n_reads == filled.n_samples


def test_repeats_also_replace_what_a_drop_top_ratio_and_a_cap_leave_out(selectable: Engine) -> None:
    for options in ({"drop_top_ratio": 0.6}, {"max_share": 0.3, "max_share_of": "source"}):
        found = draw(0.7, fill="repeat", name="s", **options)
        assert found.n_samples < found.epoch_size == round(0.7 * found.n_eligible)
        subset = find_subset(selectable, "s")
        assert manifest_of(reselect(selectable, subset)).sha256() == subset.manifest_sha256


def test_weights_follow_the_density_of_the_strategy_within_the_clip(selectable: Engine) -> None:
    found = draw(0.06, strategy="head_gsample", weight_by="rank", weight_clip=3.0)
    plain = draw(0.06, name="plain", strategy="head_gsample")
    given = manifest(selectable)
    assert given.weight_K is not None
    assert members(selectable) == members(selectable, "plain")
    assert found.epoch_size == found.n_samples == plain.n_samples == given.weight_K.sum()
    density = np.exp(HeadGsample().log_density(given.rank_K)).tolist()
    wanted = np.array(oracle_weights(density, found.n_samples, 3.0), float)
    assert np.abs(given.weight_K - wanted).max() <= 1.001 / 1024
    assert 1 / 3 - 1e-3 <= given.weight_K.min() < 0.8
    assert 1.2 < given.weight_K.max() <= 3
    # A better rank is never read less often.
    assert (np.diff(given.weight_K[np.argsort(given.rank_K)]) <= 1.001 / 1024).all()


def test_weights_and_repeats_together_add_up_to_the_retention(selectable: Engine) -> None:
    found = draw(0.8, fill="repeat", weight_by="rank", **ACCEPTED)
    weight_K = manifest(selectable).weight_K
    assert weight_K is not None
    assert weight_K.sum() == found.epoch_size == round(0.8 * found.n_eligible)
    mean = weight_K.mean()
    assert mean / 4 - 1e-3 <= weight_K.min() < mean < weight_K.max() <= 4 * mean + 1e-3


def test_auto_weights_every_accepted_sample(selectable: Engine) -> None:
    with selectable.begin() as connection:
        connection.execute(text("UPDATE alchemist.raters SET rule = 'learnability'"))
    found = draw("auto", strategy="auto", weight_by="rank")
    weight_K = manifest(selectable).weight_K
    assert weight_K is not None
    assert (found.strategy, found.n_samples) == ("head_gsample", found.n_eligible - found.n_removed["rejected"])
    assert weight_K.sum() == found.n_samples


@pytest.mark.parametrize("is_tuned", [False, True], ids=["rule loss", "tuned window"])
def test_auto_weights_every_accepted_sample_also_where_auto_would_drop_the_top_ranks(
    selectable: Engine, is_tuned: bool
) -> None:
    with selectable.begin() as connection:
        connection.execute(text("UPDATE alchemist.raters SET rule = 'loss'"))
    record_held_out(selectable, ["r"], np.linspace(-1, 3, 101).tolist())
    if is_tuned:
        store_window(selectable, 1, FittedWindow(RankWindow(0.1, 0.625, 0.125), 1.0, 0.4, 0.3, 0.5), {"retention": 1.0})
    found = draw("auto", strategy="auto", weight_by="rank")
    weight_K = manifest(selectable).weight_K
    assert weight_K is not None
    assert (found.strategy, found.n_samples) == ("gsample", found.n_eligible - found.n_removed["rejected"])
    assert found.rank_window is None, "what was tuned would drop the top ranks"
    assert weight_K.sum() == found.n_samples
    # Who gives a drop-top ratio gets it.
    dropped = draw("auto", strategy="auto", weight_by="rank", drop_top_ratio=0.25, name="dropped")
    assert (dropped.strategy, dropped.n_samples < found.n_samples) == ("shift_gsample", True)


def test_auto_weights_by_the_window_that_was_tuned_for_about_the_accepted_share(selectable: Engine) -> None:
    record_held_out(selectable, ["r"], np.linspace(-1, 3, 101).tolist())
    for retention, mean in ((0.2, 0.1), (0.9, 0.5)):
        window = FittedWindow(RankWindow(0.0, mean, 0.2), retention, 0.4, 0.3, 0.5)
        store_window(selectable, 1, window, {"retention": retention})
    few, many = (
        draw("auto", strategy="auto", weight_by="rank", accept_loss=loss, name=f"s{loss}") for loss in (0.45, 0.05)
    )
    assert few.n_samples < 0.3 * few.n_eligible < 0.6 * many.n_eligible < many.n_samples
    assert few.rank_window is not None
    assert many.rank_window is not None
    assert ("at 20%" in few.rank_window, "at 90%" in many.rank_window) == (True, True)
    assert find_subset(selectable, "s0.45").spec["mean_rank"] == 0.1
    assert not any("far from" in text for text in few.warnings)


def test_who_keeps_every_accepted_sample_has_the_weights_of_a_window_that_drops_many(selectable: Engine) -> None:
    record_held_out(selectable, ["r"], np.linspace(-1, 3, 101).tolist())
    window = FittedWindow(RankWindow(0.6, 0.8, 0.2), 0.5, 0.4, 0.3, 0.5)
    store_window(selectable, 1, window, {"retention": 0.5})
    by_word, by_number = (
        draw(retention, strategy="auto", weight_by="rank", accept="auto", name=name)
        for retention, name in (("auto", "word"), (1.0, "number"))
    )
    specs = [find_subset(selectable, name).spec for name in ("word", "number")]
    assert [spec["mean_rank"] for spec in specs] == [0.8, 0.8]
    assert by_word.n_samples == by_number.n_samples
    assert not any("passed over" in text for text in (*by_word.warnings, *by_number.warnings))


def test_who_keeps_every_accepted_sample_is_not_told_that_only_the_plainest_are_kept(
    selectable: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    with selectable.begin() as connection:
        connection.execute(text("UPDATE alchemist.raters SET rule = 'loss'"))
    record_held_out(selectable, ["r"], np.linspace(-1, 3, 101).tolist())
    found = draw("auto", strategy="auto")
    assert (found.strategy, found.n_samples) == ("top_k", found.n_eligible - found.n_removed["rejected"])
    assert not any("keeps only those" in text for text in found.warnings)
    assert main(["check", "--suite", "subset", "--subset", "s", "--newest"]) == 0
    assert "strategy_fits_the_scoring_rule" not in capsys.readouterr().err
    assert any("keeps only those" in text for text in draw(0.2, strategy="top_k", name="fixed").warnings)
    assert main(["check", "--suite", "subset", "--subset", "fixed", "--newest"]) == 0
    assert "strategy_fits_the_scoring_rule" in capsys.readouterr().err
    fixed = find_subset(selectable, "fixed")
    by_clarity = replace(fixed, spec=fixed.spec | {"rank_by": "clarity"})
    shown = [describe_strategy(selectable, row)[1] for row in (find_subset(selectable, "s"), by_clarity, fixed)]
    assert [warning is None for warning in shown] == [True, True, False], "the report agrees"


@pytest.mark.parametrize(("retention", "is_smaller"), [(0.8, False), (0.85, True)])
def test_only_a_drop_top_ratio_below_the_default_is_called_smaller(
    selectable: Engine, retention: float, is_smaller: bool
) -> None:
    given = {"drop_top_ratio": 0.1} if is_smaller else {"fill": "repeat"}
    warnings = draw(retention, strategy="shift_gsample", **given).warnings
    assert any("needs a smaller" in text for text in warnings) is is_smaller


def test_a_version_is_stored_published_selected_again_and_compared_with_its_weights(selectable: Engine) -> None:
    draw(0.8, fill="repeat", **ACCEPTED)
    subset, given = find_subset(selectable, "s"), manifest(selectable)
    assert given.weight_K is not None
    assert subset.epoch_size == subset.n_reads == given.weight_K.sum()
    assert policy_of(subset.spec).fill == "repeat"
    assert manifest_of(reselect(selectable, subset)).sha256() == subset.manifest_sha256
    artifact_path(subset.manifest_uri).unlink()
    again = load_manifest(selectable, subset).weight_K
    assert again is not None
    assert (again == given.weight_K).all()
    publish(PublishSubsetConfig(name="s"))
    with selectable.connect() as connection:
        rows = connection.execute(text("""
            SELECT pair_hash, weight FROM alchemist.current_subset_samples('s') INNER JOIN alchemist.samples USING (sample_id)
        """)).all()  # fmt: skip
        sizes = connection.execute(text("SELECT n_samples, epoch_size FROM alchemist.subset_overview")).one()
    weight_of = {bytes(row.pair_hash): row.weight for row in rows}
    assert weight_of == dict(zip(given.pair_hashes(), given.weight_K.tolist(), strict=True))
    assert sizes == (subset.n_samples, subset.epoch_size)
    draw(0.2, **ACCEPTED)
    changes = diff(DiffSubsetConfig(name="s"))
    assert changes.n_both == find_subset(selectable, "s").n_samples == changes.n_after
    publish(PublishSubsetConfig(name="s"))
    with selectable.connect() as connection:
        weights = text("SELECT DISTINCT weight FROM alchemist.current_subset_samples('s')")
        assert connection.execute(weights).scalars().all() == [None]


def test_a_manifest_whose_weights_were_changed_is_refused(selectable: Engine) -> None:
    draw(0.8, fill="repeat", **ACCEPTED)
    given = manifest(selectable)
    assert given.weight_K is not None
    plain = Manifest(given.pair_hash_K32, given.rank_K, given.score_K)
    moved = Manifest(given.pair_hash_K32, given.rank_K, given.score_K, np.roll(given.weight_K, 1))
    assert len({given.sha256(), plain.sha256(), moved.sha256()}) == 3


def test_a_prediction_without_repeats_is_not_given_for_a_version_with_them(selectable: Engine) -> None:
    warnings = draw(0.8, fill="repeat", strategy="head_gsample", min_score=1.3).warnings
    assert any("An epoch reads some members" in warning and "lower --retention" in warning for warning in warnings)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fill": "repeat", "allow_fewer": True}, "--allow-fewer is not used with --fill repeat"),
        ({"weight_clip": 2.0}, "--weight-clip is used only with --weight-by rank"),
        ({"strategy": "top_k", "weight_by": "rank"}, "not used by strategy top_k, which has no density of ranks"),
        (
            {"strategy": "head_gsample", "min_score": 9.0, "fill": "repeat"},
            r"No eligible sample has a score of at least 9",
        ),
    ],
)
def test_options_that_mean_nothing_are_refused(selectable: Engine, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        draw(0.3, **options)


def test_an_automatic_retention_has_nothing_to_fill() -> None:
    with pytest.raises(ValueError, match="--retention auto keeps each accepted sample once"):
        SelectionPolicy.model_validate({"retention": "auto", "fill": "repeat"})


def test_a_successor_of_a_version_that_keeps_all_accepted_samples_keeps_all(selectable: Engine) -> None:
    report = draw("auto", min_score=1.3, strategy="top_k")
    spec = find_subset(selectable, "s").spec
    assert policy_of(spec).retention == report.n_samples / report.n_eligible < 1
    again = SelectionPolicy.model_validate(asked_options(spec))
    assert (again.keeps_all_accepted, again.min_score, again.strategy) == (True, 1.3, "top_k")
    found = asked_options(spec | {"asked": {"retention": "auto", "min_score": None}})
    assert "min_score" not in found, "a threshold that was found is found anew"
    assert SelectionPolicy.model_validate(found).keeps_all_accepted


def test_the_hash_of_a_spec_and_of_a_config_without_the_new_options_is_the_former_one() -> None:
    """Values of commit f8d9e3b, before the options existed."""
    policy = SelectionPolicy.model_validate(
        {"retention": 0.25, "accept": "auto", "strategy": "head_gsample", "seed": 3}
    )
    assert hash_spec(policy_spec(policy, STRATEGIES["head_gsample"]())) == "3e6cc87db4915ae6"
    assert SelectConfig(dataset=("web",), policy=policy).fingerprint() == "70867d16bcc4d098"
