import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from alchemist_core.errors import ConfigError
from alchemist_core.selection.config import SelectionPolicy, policy_spec, strategy_spec
from alchemist_core.selection.keys import Noise
from alchemist_core.selection.strategies import (
    STRATEGIES,
    Block,
    Gsample,
    HeadGsample,
    Random,
    ShiftGsample,
    TopK,
    mixed_pairing_warning,
)
from tests.oracles.oracle_selection import oracle_eq11_density


@given(
    drop_top_ratio=st.floats(0, 0.9),
    mean_rank=st.floats(0, 1),
    std_rank=st.floats(0.05, 2),
    ranks=st.lists(st.floats(0, 1), min_size=1, max_size=20),
)
def test_shift_gsample_is_eq_11_up_to_a_constant(drop_top_ratio, mean_rank, std_rank, ranks):
    strategy = ShiftGsample(drop_top_ratio, mean_rank, std_rank)
    constant = math.log(std_rank * math.sqrt(2 * math.pi))
    for rank, log_density in zip(ranks, strategy.log_density(np.array(ranks)), strict=True):
        density = oracle_eq11_density(rank, drop_top_ratio, mean_rank, std_rank)
        assert log_density == pytest.approx(math.log(density) + constant if density else -math.inf, abs=1e-9)


def test_gsample_is_shift_gsample_without_a_drop_top_ratio():
    rank_N = np.linspace(0, 1, 101)
    assert (Gsample().log_density(rank_N) == ShiftGsample(0.0, 0.5, 1 / 6).log_density(rank_N)).all()


def test_head_gsample_is_gsample_with_its_mean_at_the_top():
    rank_N = np.linspace(0, 1, 101)
    assert (HeadGsample(0.15).log_density(rank_N) == Gsample(0.0, 0.15).log_density(rank_N)).all()


def test_the_rank_at_the_cut_itself_is_kept():
    assert np.isfinite(ShiftGsample(drop_top_ratio=0.25).log_density(np.array([0.25]))).all()


def test_auto_uses_the_rank_window_of_the_rating_rule():
    assert SelectionPolicy().resolve("alignment") == HeadGsample(0.15)
    assert SelectionPolicy().resolve("loss") == ShiftGsample(0.25, 0.625, 0.125)


@pytest.mark.parametrize("kind", ["scorer", "imported"])
def test_auto_selects_the_highest_scores_where_no_rating_rule_gave_them(kind):
    assert SelectionPolicy().resolve(kind) == TopK()


def test_auto_selects_the_highest_of_other_scores_and_its_help_says_so():
    assert SelectionPolicy(rank_by="rater+critic").resolve("alignment") == TopK()
    auto = str(SelectionPolicy.model_fields["strategy"].description).partition(" auto: ")[2].partition(". ")[0]
    assert "top_k with another --rank-by" in auto


def test_a_parameter_overrides_the_default_of_its_strategy_alone():
    policy = SelectionPolicy(strategy="shift_gsample", drop_top_ratio=0.1)
    assert policy.resolve("alignment") == ShiftGsample(0.1, 0.625, 0.125)
    assert SelectionPolicy(strategy="gsample", mean_rank=0.3).resolve("loss") == Gsample(0.3, 1 / 6)
    assert SelectionPolicy(strategy="block", start_rank=0.6).resolve("loss") == Block(0.6)


@pytest.mark.parametrize("strategy", ["auto", "top_k", "random", "gsample"])
def test_a_parameter_that_would_be_ignored_is_refused(strategy):
    with pytest.raises(ConfigError, match="drop_top_ratio"):
        SelectionPolicy(strategy=strategy, drop_top_ratio=0.3).resolve("alignment")


@pytest.mark.parametrize(
    "values",
    [
        {"retention": 0.0},
        {"retention": 1.01},
        {"drop_top_ratio": 1.0},
        {"std_rank": 0.0},
        {"mean_rank": -0.1},
        {"seed": -1},
        {"strategy": "best"},
        {"retension": 0.2},
    ],
)
def test_a_value_out_of_bounds_is_refused(values):
    with pytest.raises(ValidationError):
        SelectionPolicy(**values)


@pytest.mark.parametrize(("strategy", "rule"), [(ShiftGsample(), "alignment"), (TopK(), "loss")])
def test_a_mixed_pairing_is_warned_of_in_words_and_without_figures_that_cannot_be_measured_again(strategy, rule):
    warning = mixed_pairing_warning(strategy, rule)
    assert (strategy.name in warning, rule in warning, "Strategy auto takes" in warning) == (True, True, True)
    assert not any(sign.isdigit() for sign in warning)


@pytest.mark.parametrize(
    ("strategy", "rule"), [(TopK(), "alignment"), (ShiftGsample(), "loss"), (Random(), "loss"), (Random(), "alignment")]
)
def test_a_matched_pairing_is_not_warned_of(strategy, rule):
    assert mixed_pairing_warning(strategy, rule) is None


def test_a_spec_contains_every_parameter():
    assert strategy_spec(ShiftGsample()) == {
        "strategy": "shift_gsample",
        "drop_top_ratio": 0.25,
        "mean_rank": 0.625,
        "std_rank": 0.125,
    }


def test_the_spec_of_a_policy_does_not_change_when_options_are_added_that_it_does_not_use():
    plain = {"strategy": "shift_gsample", "drop_top_ratio": 0.25, "mean_rank": 0.625, "std_rank": 0.125}
    assert policy_spec(SelectionPolicy(), ShiftGsample()) == plain | {"retention": 0.2, "seed": 0}


def test_the_spec_of_a_policy_contains_every_option_that_decides_members_and_gives_the_policy_again():
    given = {
        "retention": 0.3, "seed": 7, "p_rank": "inclusion", "rank_by": "imported.likes", "dedup": "near",
        "decontaminate": "bench,more", "where": "width > 9", "stratify": True, "max_share": 0.5, "max_share_of": "source",
        "allow_fewer": True, "strategy": "gsample", "mean_rank": 0.4,
    }  # fmt: skip
    policy = SelectionPolicy.model_validate(given)
    spec = policy_spec(policy, policy.resolve("loss"))
    assert given.keys() <= spec.keys()
    assert SelectionPolicy.model_validate(spec).resolve("alignment") == policy.resolve("loss")
    assert policy_spec(SelectionPolicy.model_validate(spec), policy.resolve("loss")) == spec


def test_the_rank_at_a_blocks_start_is_the_first_that_it_keeps():
    assert Block(0.25).log_density(np.array([0.2499, 0.25, 0.5])).tolist() == [-math.inf, -0.25, -0.5]


def test_a_strategy_without_parameters_is_the_papers_or_our_own_default():
    assert ShiftGsample() == ShiftGsample(0.25, 0.625, 0.125)
    assert Gsample() == Gsample(0.5, 1 / 6)
    assert (HeadGsample(), Block()) == (HeadGsample(0.15), Block(0.4))


def test_a_strategy_without_sampling_ignores_the_seed():
    assert {name: kind.is_stochastic for name, kind in STRATEGIES.items()} == {
        "shift_gsample": True, "gsample": True, "head_gsample": True, "random": True, "top_k": False, "block": False,
    }  # fmt: skip


def test_every_rule_has_a_strategy_and_a_heuristic_takes_what_scores_high():
    assert SelectionPolicy().resolve("learnability") == HeadGsample(0.15)
    assert SelectionPolicy(rank_by="clarity").resolve("loss") == TopK()
    assert SelectionPolicy(rank_by="clarity", strategy="random").resolve("loss") == Random()


@pytest.mark.parametrize(
    ("field", "allowed", "refused"),
    [
        ("retention", [1e-9, 1], [0, 1.001]), ("drop_top_ratio", [0, 0.999], [-0.001, 1]), ("mean_rank", [0, 1], [-0.001, 1.001]),
        ("std_rank", [0.001, 10], [0.0009, 10.01]), ("start_rank", [0, 0.999], [-0.001, 1]), ("seed", [0, 2**53 - 1], [-1, 2**53]),
        ("max_share", [1e-9, 1], [0, 1.001]), ("where", ["x"], [""]),
        ("rank_by", ["rater", "aesthetic", "clarity", "frequency", "edge_density", "imported.a", "imported." + "x" * 64,
                     "clip_score", "x" * 100],
         ["imported.", "imported." + "x" * 65, "My_rater", "my-rater", "1st", "x" * 101, "a; b", "imported.a b"]),
        ("dedup", ["exact", "near", "off"], ["none"]), ("p_rank", ["per-draw", "inclusion"], ["draw"]),
        ("max_share_of", ["dataset", "source"], ["licence"]),
    ],
)  # fmt: skip
def test_each_option_of_a_policy_has_its_bounds(field, allowed, refused):
    for value in allowed:
        assert getattr(SelectionPolicy.model_validate({field: value}), field) == value
    for value in refused:
        with pytest.raises(ValidationError, match=field):
            SelectionPolicy.model_validate({field: value})


def test_a_policy_of_nothing_keeps_a_fifth_by_the_rater_and_each_image_once():
    policy = SelectionPolicy()
    assert (policy.strategy, policy.retention, policy.seed, policy.rank_by) == ("auto", 0.2, 0, "rater")
    assert (policy.dedup, policy.p_rank, policy.decontaminate, policy.where) == ("exact", "per-draw", (), None)
    assert (policy.stratify, policy.max_share, policy.max_share_of, policy.allow_fewer) == (
        False,
        None,
        "dataset",
        False,
    )
    assert policy.noise() == Noise(0)
    assert not policy.has_parameters
    assert SelectionPolicy(std_rank=0.3).has_parameters


@pytest.mark.parametrize("strategy", ["top_k", "block"])
def test_only_sampling_has_a_chance_to_be_kept(strategy):
    with pytest.raises(ConfigError, match="does not sample"):
        SelectionPolicy(strategy=strategy, p_rank="inclusion").resolve("loss")
    assert SelectionPolicy(p_rank="inclusion", seed=4).noise() == Noise(4, p_rank="inclusion")


def test_strata_of_datasets_allow_a_cap_of_sources_alone():
    with pytest.raises(ConfigError, match="contradicts --stratify"):
        SelectionPolicy(stratify=True, max_share=0.5).resolve("loss")
    SelectionPolicy(stratify=True).resolve("loss")
    SelectionPolicy(max_share=0.5).resolve("loss")
    SelectionPolicy(stratify=True, max_share=0.5, max_share_of="source").resolve("loss")


def test_sources_are_read_for_a_cap_of_sources_alone():
    caps = ({}, {"max_share": 0.5}, {"max_share_of": "source"}, {"max_share": 0.5, "max_share_of": "source"})
    assert [SelectionPolicy(**cap).eligible_options().with_sources for cap in caps] == [False, False, False, True]


def test_datasets_matter_for_strata_and_caps_of_datasets_alone():
    grouped = (
        {},
        {"stratify": True},
        {"max_share": 0.5},
        {"stratify": True, "stratify_by": "cluster"},
        {"max_share_of": "dataset"},
    )
    found = [SelectionPolicy(**options).eligible_options().with_datasets for options in grouped]
    assert found == [False, True, True, False, False]
    assert not SelectionPolicy(max_share=0.5, max_share_of="source").eligible_options().with_datasets


def test_a_parameter_that_is_refused_is_answered_with_those_that_the_strategy_has():
    with pytest.raises(ConfigError, match=r"top_k does not use mean_rank, std_rank \(it has no parameters\)"):
        SelectionPolicy(strategy="top_k", std_rank=0.2, mean_rank=0.2).resolve("loss")
    with pytest.raises(ConfigError, match=r"\(it has mean_rank, std_rank\)"):
        SelectionPolicy(strategy="gsample", start_rank=0.2).resolve("loss")


def test_only_the_two_pairings_that_contradict_themselves_are_warned_of():
    rules = ("alignment", "loss", "learnability", "pmi")
    warned = {(kind, rule) for kind in STRATEGIES for rule in rules if mixed_pairing_warning(STRATEGIES[kind](), rule)}
    assert warned == {("shift_gsample", "alignment"), ("top_k", "loss")}
