"""The syntax of arms: those of each experiment are parsed, and a wrong one is refused with the allowed ones."""

import pytest
from sqlalchemy import Engine

from alchemist_core.errors import ConfigError
from alchemist_core.experiments import cost
from alchemist_core.experiments.arms import CONTROLS, HEURISTICS, QUESTIONS, paper_policy, parse_arm
from alchemist_core.experiments.config import TrialsConfig
from alchemist_core.experiments.trial import require_arms
from alchemist_core.selection.config import SelectionPolicy
from alchemist_core.training.config import DownstreamConfig
from tests.given import insert_rows


def test_every_question_asks_for_arms_that_a_policy_can_draw() -> None:
    for question in QUESTIONS.values():
        for retention in question.retentions:
            for word in question.arms:
                arm = parse_arm(word, retention=retention)
                rule = "loss" if arm.rater.startswith("loss") else "alignment"
                policy = SelectionPolicy.model_validate({"retention": retention, **(arm.policy or {})})
                assert policy.resolve(rule).name


@pytest.mark.parametrize("word", [*CONTROLS, "random", "clarity"])
def test_what_needs_no_ranks_shares_the_first_arms_tokenizer(word: str) -> None:
    assert parse_arm(word, retention=0.2, first_rater="loss").rater == "loss"


@pytest.mark.parametrize("word", ["auto", "paper"])
def test_what_needs_ranks_has_the_default_rater_unless_it_names_one(word: str) -> None:
    assert parse_arm(word, retention=0.2, first_rater="loss").rater == "alignment"
    assert parse_arm(f"loss/{word}", retention=0.2).rater == "loss"


@pytest.mark.parametrize(("word", "options"), [
    ("alignment/auto+validation", {}),
    ("alignment/head_gsample;weight_by=rank+validation", {"weight_by": "rank"}),
    ("random+validation", {}),
])  # fmt: skip
def test_validation_data_may_be_added_to_an_arm_that_selects(word: str, options: dict[str, str]) -> None:
    arm, plain = parse_arm(word, retention=0.2), parse_arm(word.removesuffix("+validation"), retention=0.2)
    assert (arm.word, arm.rater, arm.policy, arm.is_sized) == (word, plain.rater, plain.policy, True)
    assert (arm.trains, plain.trains) == ("subset+validation", "subset")
    assert (arm.policy or {}).items() >= options.items()


@pytest.mark.parametrize("word", ["full+validation", "validation+validation", "minus_loss+validation"])
def test_validation_data_is_not_added_to_an_arm_that_does_not_select(word: str) -> None:
    with pytest.raises(ConfigError, match="follows an arm that selects"):
        parse_arm(word, retention=0.2)


@pytest.mark.parametrize("options", ["accept=auto;fill=repeat", "weight_by=rank;weight_clip=2", "variety=0.5"])
def test_repeats_weights_and_variety_are_options_of_an_arm(options: str) -> None:
    arm = parse_arm(f"learnability/head_gsample;{options}", retention=0.5)
    policy = SelectionPolicy.model_validate({**(arm.policy or {}), "retention": 0.5})
    assert policy.resolve("learnability").name == "head_gsample"
    assert (policy.fill, policy.weight_by, policy.variety) != ("none", "none", 0.0)


@pytest.mark.parametrize("name", ["methods", "datasets"])
def test_a_comparison_of_selections_also_trains_on_the_validation_dataset_alone_and_added(name: str) -> None:
    trains = {parse_arm(word, retention=0.5).trains for word in QUESTIONS[name].arms}
    assert trains >= {"subset", "validation", "subset+validation", "full"}


def test_a_selection_over_retentions_and_lengths_is_compared_with_the_validation_dataset() -> None:
    assert all("validation" in QUESTIONS[name].arms for name in ("retention_sweep", "training_time"))


def test_a_rater_is_fused_with_the_score_of_another_one() -> None:
    arm = parse_arm("learnability+pmi/head_gsample", retention=0.5)
    assert (arm.rater, arm.scores, arm.raters) == ("learnability", ("pmi",), ("learnability", "pmi"))
    assert arm.policy == {"strategy": "head_gsample", "rank_by": "rater+pmi"}
    alone = parse_arm("pmi/auto", retention=0.5)
    assert (alone.policy, alone.scores, alone.raters) == (None, (), ("pmi",))
    # A score and a rater without a rater in the first place: the tokenizer is that of the first arm.
    other = parse_arm("clip_score+pmi/top_k", retention=0.5, first_rater="loss")
    assert (other.rater, other.raters) == ("loss", ("loss", "pmi"))


def test_auto_has_no_policy_of_its_own() -> None:
    assert parse_arm("alignment/auto", retention=0.2).policy is None


@pytest.mark.parametrize("word", [*HEURISTICS, *(f"{name}:gsample" for name in HEURISTICS)])
def test_a_heuristic_ranks_in_the_raters_place(word: str) -> None:
    policy = parse_arm(word, retention=0.2).policy
    assert policy is not None
    assert policy["rank_by"] == word.partition(":")[0]
    assert policy["strategy"] == (word.partition(":")[2] or "top_k")


def test_the_full_corpus_alone_does_not_depend_on_the_retention() -> None:
    assert [word for word in (*CONTROLS, "random") if not parse_arm(word, retention=0.2).is_sized] == ["full"]


@pytest.mark.parametrize(("retention", "cut"), [(0.1, 0.25), (0.5, 0.25), (0.8, 0.15), (0.9, 0.05)])
def test_the_papers_drop_top_ratio_leaves_room_for_the_retention(retention: float, cut: float) -> None:
    policy = paper_policy(retention)
    assert policy["drop_top_ratio"] == cut
    assert 1 - cut >= retention


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("meta/auto", "unknown rater 'meta'.*alignment, alignment\\+group, loss"),
        ("loss/best", "unknown strategy 'best'.*auto, paper, random"),
        ("block", "only strategy block takes a number"),
        ("top_k@0.2", "only strategy block takes a number"),
        ("clarity:best", "unknown strategy"),
        (
            "loss/shift_gsample;foo=1",
            "^Arm loss/shift_gsample;foo=1: unknown option foo. Options: .*mean_rank.*alchemist select --help",
        ),
        (
            "loss/gsample;mean_rank=7",
            "^Arm loss/gsample;mean_rank=7: mean_rank=7 is not valid: .*less than or equal to 1",
        ),
        ("loss/gsample;mean_rank=high", "mean_rank=high is not valid: .*number"),
        (
            "loss/gsample;drop_top_ratio=0.2",
            "^Arm loss/gsample;drop_top_ratio=0.2: Strategy gsample does not use drop_top_ratio",
        ),
        ("learnability/top_k;weight_by=rank", "--weight-by rank is not used by strategy top_k"),
        ("learnability/top_k;variety=2+validation", "^Arm learnability/top_k;variety=2.*: variety=2 is not valid"),
        ("loss/top_k;seed=3", "the experiment itself sets seed"),
        (
            "learnability/top_k;retention=auto",
            "^Arm learnability/top_k;retention=auto: retention=auto would give .*--retentions .*accept=auto;fill=repeat",
        ),
        ("loss/auto;retention=0.5+validation", "retention=0.5 would give this arm another size"),
        ("learnability/top_k;accept=auto;allow_fewer=true", "allow_fewer=true would give this arm another size"),
        ("loss/block@1.5", "start_rank=1.5 is not valid: .*less than 1"),
    ],
)
def test_a_wrong_word_is_refused_with_what_there_is(word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_arm(word, retention=0.2)


def test_the_reducible_loss_is_that_of_a_rater_of_rule_learnability() -> None:
    assert parse_arm("rho_batches/top_k", retention=0.2).raters == ("alignment", "learnability")
    assert parse_arm("loss+rho_batches/top_k", retention=0.2).raters == ("loss", "learnability")
    alone = parse_arm("rho_batches/top_k", retention=0.2, first_rater="learnability")
    assert alone.raters == ("learnability",)
    assert parse_arm("learnability+pmi/top_k", retention=0.2).raters == ("learnability", "pmi")


def test_the_cost_of_ranking_by_loss_contains_the_validation_models_once_for_all_retentions() -> None:
    config, models = TrialsConfig(trainings=2), [DownstreamConfig(num_train_epochs=n, batch_size=32) for n in (1, 3)]
    arms = [(parse_arm(word, retention=of), of) for of in (0.2, 0.5) for word in ("random", "minus_loss", "loss/paper")]
    n_steps = 4 * config.scenes_of(0).n_validation / 32
    work = cost.work_of_loss_rankings(config, arms, models, 0)
    assert work == cost.Work(4, 2 * round(n_steps), 0, 0)
    assert cost.work_of_loss_rankings(config, arms[:1], models, 0) == cost.NO_WORK


@pytest.mark.db
@pytest.mark.parametrize(
    ("rule", "remedy"),
    [
        (
            "learnability",
            "Name arms of learnability, such as learnability/auto, or omit --rater to train one for every seed",
        ),
        ("scorer", "Omit --rater to train one for every seed"),
    ],
)
def test_a_named_rater_of_another_rule_is_refused_with_what_helps(engine: Engine, rule: str, remedy: str) -> None:
    with engine.begin() as connection:
        insert_rows(connection, {"raters": [{"rater_id": 1, "name": "r", "rule": rule}]})
    with pytest.raises(ConfigError, match=f"cannot rank arms of 'alignment'. {remedy}"):
        require_arms(
            TrialsConfig(dataset="web", evaluation="t", rater="r"), [parse_arm("alignment/auto", retention=0.2)]
        )


def test_an_arm_that_keeps_each_accepted_sample_once_is_refused_at_a_retention_of_all() -> None:
    with pytest.raises(
        ConfigError, match="accept=auto at a retention of 1 keeps each accepted sample once, which would give this arm"
    ):
        parse_arm("learnability/top_k;accept=auto", retention=1.0)
    assert parse_arm("learnability/top_k;accept=auto;fill=repeat", retention=1.0).policy
    assert parse_arm("alignment/block@0.4", retention=0.5).policy, "samples from one rank on may be fewer"
