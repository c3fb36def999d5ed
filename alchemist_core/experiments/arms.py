"""Arms of experiments: `loss/shift_gsample` is that strategy on the ranks of a rater with scoring rule `loss`.

The name of an arm is `[rater/]strategy[@number]`, or `score/strategy[@number]` for the score of a scorer, a method of the field, imported
scores or a heuristic; `rater+score/strategy` and `rater+rater/strategy` rank by the mean of the ranks. `;option=value` behind it sets
options of the selection, `+validation` adds the validation dataset. A new arm is a line in a table of this file. No torch, no store.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from pydantic import ValidationError

from alchemist_core.errors import ConfigError
from alchemist_core.rating.config import RATER_SCORE, ScoringRule
from alchemist_core.report.arm_names import ORACLE, arm_title, stored_arm
from alchemist_core.selection.config import RANK_BY, SelectionPolicy
from alchemist_core.selection.fusion import JOIN, signals_of
from alchemist_core.selection.strategies import STRATEGIES as STRATEGIES_BY_NAME


def _raters_of(rule: ScoringRule) -> dict[str, dict[str, Any]]:
    plain = {rule.value: {"rule": rule.value}}
    return plain | ({f"{rule}+group": {"rule": rule.value, "group_weight": True}} if rule.trains_rater else {})


# The fields of the rater's training that each kind of rater sets.
RATERS: dict[str, dict[str, Any]] = {
    name: options for rule in ScoringRule for name, options in _raters_of(rule).items()
}
# Methods of the field that train as a rater does.
RATERS |= {
    # SEAL (Shen et al. 2024): validation data alone at first, then more of the re-weighted training data with each epoch.
    "seal": {"rule": ScoringRule.ALIGNMENT.value, "penalty_schedule": "seal"},
    # The meta-gradient of DataRater (Calian et al. 2025) and LESS (Xia et al. 2024) to first order: how far two steps on validation data
    # lower a sample's loss.
    "two_steps": {"rule": ScoringRule.LEARNABILITY.value, "max_train_steps": 2, "reset_moments": True},
}
DEFAULT_RATER = "alignment"
RHO_BATCHES = "rho_batches"
"""The method that ranks by the score of a rater, of rule `learnability`: the reducible loss."""
# The arm `oracle` trains on samples that are known to be good; if there are too few, oracle+KIND adds samples of one kind. It is stored as
# `planted`, because the hashes of trained models contain that name.
FILLED = f"{ORACLE}+"
# Arms that do not select by ranks, with the names of the stage train_downstream.
CONTROLS = ("full", ORACLE, "minus_loss", "validation")
JOINED = "+validation"
"""Behind an arm: train on its samples and the validation dataset together, for as many steps."""
HEURISTICS = ("aesthetic", "clarity", "frequency", "edge_density")
STRATEGIES = ("random", "top_k", "gsample", "head_gsample", "shift_gsample", "block")
AUTO = "auto"
_PARAMETERS = {field.name for kind in STRATEGIES_BY_NAME.values() for field in fields(kind)}


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to select training samples."""

    word: str
    # The rater whose ranks are used, a key of RATERS. An arm without ranks uses the first rater's tokenizer.
    rater: str
    # Fields of the selection policy; None: the fitted rank window.
    policy: dict[str, Any] | None
    # The arm's name in train_downstream.
    trains: str = "subset"

    @property
    def scores(self) -> tuple[str, ...]:
        """The names of the scores that rank the samples, without the rater's own and heuristics; a kind of rater stands for its score."""
        names = signals_of((self.policy or {}).get("rank_by", RATER_SCORE))
        return tuple(name for name in names if name != RATER_SCORE and name not in HEURISTICS)

    @property
    def raters(self) -> tuple[str, ...]:
        """The kinds of raters that the arm needs: its own, those whose scores are fused with it, and the one that a method reads."""
        read = (ScoringRule.LEARNABILITY.value,) if RHO_BATCHES in self.scores else ()
        return tuple(dict.fromkeys((self.rater, *(name for name in self.scores if name in RATERS), *read)))

    @property
    def is_auto(self) -> bool:
        """Whether its strategy is `auto`, alone or with further options: the fitted rank window."""
        return self.policy is None or self.policy.get("strategy") == AUTO

    def resolve(self, auto: Mapping[str, Any]) -> dict[str, Any]:
        """Return the selection policy.

        Args:
            auto: What strategy `auto` stands for, with its parameters. Options of the arm replace them; those that the strategy lacks,
                such as a spread of `random`, are left out.

        >>> parse_arm("alignment/auto;variety=0.5;std_rank=0.1", retention=0.2).resolve({"strategy": "random"})
        {'strategy': 'random', 'variety': '0.5'}
        """
        if not self.is_auto:
            return dict(self.policy or {})
        left_out = {"strategy", *self.unused_options(auto)}
        return {**auto, **{name: value for name, value in (self.policy or {}).items() if name not in left_out}}

    def unused_options(self, auto: Mapping[str, Any]) -> list[str]:
        """Return the options of an `auto` arm that the strategy lacks for which `auto` stands."""
        own = {field.name for field in fields(STRATEGIES_BY_NAME[auto["strategy"]])}
        return sorted((self.policy or {}).keys() & _PARAMETERS - own) if self.is_auto else []

    @property
    def is_sized(self) -> bool:
        """Whether the arm depends on the retention: true for all but the full corpus."""
        return self.trains != "full"


def parse_arm(word: str, *, retention: float, first_rater: str = DEFAULT_RATER) -> Arm:
    """Return the arm that a word names.

    Args:
        word: Such as `random`, `alignment/auto`, `loss/block@0.4`, `clip_score/top_k`, `clarity`, `oracle`, `validation` or
            `alignment/auto+validation`.
        retention: Retention, 0-1; the authors chose the drop-top ratio of `paper` by it.
        first_rater: Rater that `random`, the controls and the arms of other scores share with the first arm.

    Raises:
        ConfigError: The rater or the strategy is unknown, or an option is not one of the selection's or out of its bounds; the message
            lists what is allowed.

    >>> parse_arm("loss/block@0.4", retention=0.2).policy
    {'strategy': 'block', 'start_rank': 0.4, 'allow_fewer': True}
    >>> parse_arm("random+validation", retention=0.2).trains
    'subset+validation'
    >>> parse_arm("clip_score/top_k", retention=0.2).policy
    {'strategy': 'top_k', 'rank_by': 'clip_score'}
    """
    arm = _read(stored_arm(word), retention, first_rater)
    if arm.policy is not None:
        _require_valid(arm, arm.policy, retention)
    return arm


def _read(word: str, retention: float, first_rater: str) -> Arm:
    if word.endswith(JOINED) and not word.startswith(FILLED):
        return _joined(word, retention, first_rater)
    if ";" in word:
        return _with_options(word, retention, first_rater)
    kind, _, draw = word.rpartition("/")
    name, _, number = draw.partition("@")
    if kind and kind not in RATERS:
        rater, score = _read_fusion(kind)
        return Arm(word, rater or first_rater, _score_policy(word, score, name, number, retention))
    _require_number(word, name, number)
    rater = kind or (DEFAULT_RATER if name in (AUTO, "paper") else first_rater)
    if name in CONTROLS or name.startswith(FILLED):
        # minus_loss is selected by this policy; the others are trained for a subset that is selected at random.
        policy = paper_policy(retention) if name == "minus_loss" else {"strategy": "random"}
        return Arm(word, rater, policy, trains=name)
    return Arm(word, rater, None if name == AUTO else _policy(word, name, number, retention))


def _joined(word: str, retention: float, first_rater: str) -> Arm:
    """Return an arm that trains on the validation dataset as well: `alignment/auto+validation`."""
    arm = parse_arm(word.removesuffix(JOINED), retention=retention, first_rater=first_rater)
    if arm.trains != "subset":
        raise ConfigError(
            f"Arm {arm_title(word)}: {JOINED} follows an arm that selects, such as random{JOINED} or alignment/auto{JOINED}."
        )
    return replace(arm, word=word, trains=f"subset{JOINED}")


def _with_options(word: str, retention: float, first_rater: str) -> Arm:
    """Return an arm with options of the selection: `learnability/top_k;accept=auto`."""
    base, *given = word.split(";")
    arm = parse_arm(base, retention=retention, first_rater=first_rater)
    options = dict(option.partition("=")[::2] for option in given)
    if not all(options.values()) or arm.trains in CONTROLS:
        raise ConfigError(
            f"Arm {word}: write options of alchemist select as NAME=VALUE behind an arm that selects, such as "
            "learnability/top_k;accept=auto."
        )
    return replace(arm, word=word, policy={"strategy": AUTO, **(arm.policy or {}), **options})


def _require_valid(arm: Arm, policy: dict[str, Any], retention: float) -> None:
    """Refuse a policy that `alchemist select` would refuse, before anything is trained.

    Raises:
        ConfigError: An option is unknown, out of its bounds, not used by the strategy, contradicts another, or is the experiment's own.
    """
    title, remedy = arm_title(arm.word), "See: alchemist select --help."
    if fixed := sorted(policy.keys() & {"seed"}):
        raise ConfigError(f"Arm {title}: the experiment itself sets {', '.join(fixed)}. Omit it from the arm.")
    if "retention" in policy:
        raise ConfigError(_of_another_size(title, f"retention={policy['retention']}"))
    if unknown := sorted(policy.keys() - SelectionPolicy.model_fields.keys()):
        known = ", ".join(
            name for name in SelectionPolicy.model_fields if name not in ("strategy", "seed", "retention")
        )
        raise ConfigError(f"Arm {title}: unknown option {', '.join(unknown)}. Options: {known}. {remedy}")
    try:
        given = SelectionPolicy.model_validate({"retention": retention, **policy})
        given.resolve(RATERS[arm.rater]["rule"])
    except ValidationError as error:
        faults = "; ".join(_describe_fault(fault, policy) for fault in error.errors())
        raise ConfigError(f"Arm {title}: {faults}. {remedy}") from None
    except ConfigError as error:
        raise ConfigError(f"Arm {title}: {error}") from None
    if given.keeps_all_accepted:
        raise ConfigError(
            _of_another_size(
                title, f"accept=auto at a retention of {retention:g} keeps each accepted sample once, which"
            )
        )
    if given.allow_fewer and given.strategy != "block":
        raise ConfigError(_of_another_size(title, "allow_fewer=true"))


def _of_another_size(title: str, cause: str) -> str:
    return (
        f"Arm {title}: {cause} would give this arm another size and length than the random subset that it is compared with. Omit it: "
        "--retentions (in a search --retention) sets the size of all arms, and accept=auto;fill=repeat selects by the threshold at that "
        "size."
    )


def _describe_fault(fault: Any, given: dict[str, Any]) -> str:
    name = ".".join(map(str, fault["loc"]))
    message = fault["msg"].removeprefix("Value error, ")
    return f"{name}={given[name]} is not valid: {message}" if name in given else message


def paper_policy(retention: float) -> dict[str, Any]:
    """Return Shift-Gsample with the authors' drop-top ratio n at this retention, its mean in the middle of the rest.

    Source: Alchemist, released settings: n is 0.25 up to 50%, 0.15 up to 80%, 0.05 above; mean (n + 1) / 2, deviation (1 − n) / 6.

    >>> paper_policy(0.2)["mean_rank"]
    0.625
    """
    cut = 0.25 if retention <= 0.5 else 0.15 if retention <= 0.8 else 0.05
    return {
        "strategy": "shift_gsample",
        "drop_top_ratio": cut,
        "mean_rank": round((cut + 1) / 2, 6),
        "std_rank": round((1 - cut) / 6, 6),
    }


def first_rater(words: Iterable[str], default: str) -> str:
    """Return the rater of the first arm that names one.

    >>> first_rater(["random", "clip_score/top_k", "loss/paper"], "alignment"), first_rater(["clarity"], "alignment")
    ('loss', 'alignment')
    """
    kinds = (word.rpartition("/")[0] for word in words)
    raters = (kind if kind in RATERS else _read_fusion(kind)[0] for kind in kinds)
    return next((rater for rater in raters if rater is not None), default)


def _read_fusion(kind: str) -> tuple[str | None, str]:
    """Return the rater of a fusion and what ranks: `learnability+semdedup` ranks by `rater+semdedup`. None without a rater.

    >>> _read_fusion("learnability+semdedup"), _read_fusion("loss+group+clarity"), _read_fusion("clip_score")
    (('learnability', 'rater+semdedup'), ('loss+group', 'rater+clarity'), (None, 'clip_score'))
    """
    starting = [rater for rater in RATERS if kind.startswith(f"{rater}{JOIN}")]
    if not starting:
        return None, kind
    rater = max(starting, key=len)
    return rater, f"{RATER_SCORE}{kind.removeprefix(rater)}"


def _score_policy(word: str, score: str, name: str, number: str, retention: float) -> dict[str, Any]:
    """Return the policy of an arm that ranks by another score than a rater's; whether there is one, only a store knows."""
    if not re.fullmatch(RANK_BY, score) or score == RATER_SCORE:
        raise ConfigError(
            f"Arm {word}: unknown rater or score {score!r}. Raters: {', '.join(RATERS)}. Scores: alchemist scorer list."
        )
    if name != "paper" and name not in STRATEGIES:
        raise ConfigError(
            f"Arm {word}: unknown rater {score!r}. Raters: {', '.join(RATERS)}. If it is the score of a scorer, name one of the strategies "
            f"{', '.join(('paper', *STRATEGIES))}: only for raters a rank window is fitted."
        )
    _require_number(word, name, number)
    return _policy(word, name, number, retention) | {"rank_by": score}


def _require_number(word: str, name: str, number: str) -> None:
    if (number != "") != (name == "block"):
        raise ConfigError(f"Arm {word}: only strategy block takes a number after @, the start rank (block@0.4).")


def _policy(word: str, name: str, number: str, retention: float) -> dict[str, Any]:
    if name == "paper":
        return paper_policy(retention)
    if name == "block":
        # Because of ties at its lower end, a band may have a few samples fewer than requested.
        return {"strategy": "block", "start_rank": float(number), "allow_fewer": True}
    heuristic, _, strategy = name.partition(":")
    if heuristic in HEURISTICS and (strategy or "top_k") in STRATEGIES:
        return {"strategy": strategy or "top_k", "rank_by": heuristic}
    if name in STRATEGIES:
        return {"strategy": name}
    known = ", ".join(("auto", "paper", *STRATEGIES, *HEURISTICS, *map(arm_title, (*CONTROLS, f"{FILLED}KIND"))))
    raise ConfigError(
        f"Arm {word}: unknown strategy {name!r}. Strategies: {known}; a heuristic can be combined with one, as in clarity:gsample."
    )


BLOCKS = (0.0, 0.2, 0.4, 0.6, 0.8)
WITH_VALIDATION = ("validation", f"{DEFAULT_RATER}/{AUTO}{JOINED}")
"""Why select, and not train on the validation dataset? A comparison of ways to select answers that with these arms."""


@dataclass(frozen=True, slots=True)
class Question:
    """The arms of an experiment, and the form of its figure."""

    title: str
    arms: tuple[str, ...]
    retentions: tuple[float, ...]
    # Whether the figure's horizontal axis is the retention; otherwise the arms are listed.
    is_sweep: bool = False
    # Multiples of the epochs; several give a figure of loss over steps.
    lengths: tuple[float, ...] = (1.0,)


QUESTIONS: dict[str, Question] = {
    "retention_sweep": Question(
        "How much of the corpus is needed? (Fig. 1)",
        ("random", "alignment/auto", "loss/paper", "validation", "full"),
        (0.1, 0.2, 0.3, 0.5, 0.7, 0.9),
        is_sweep=True,
    ),
    "methods": Question(
        "Which selection method is best? (Table 1)",
        (
            "random",
            *HEURISTICS[1:],
            "minus_loss",
            "loss/paper",
            "alignment/auto",
            "learnability/auto",
            *WITH_VALIDATION,
            "full",
        ),
        (0.2, 0.5),
    ),
    "ablation": Question(
        "Which parts of the method matter? (Table 4)",
        ("random", "loss/top_k", "loss/gsample", "loss/paper", "loss+group/paper"),
        (0.2,),
    ),
    "pruning_rules": Question(
        "Which ranks are worth training on? (Fig. 2b)",
        (
            "random",
            *(f"loss/{rule}" for rule in ("top_k", "gsample", "paper")),
            *(f"loss/block@{start:g}" for start in BLOCKS),
        ),
        (0.2,),
    ),
    "training_time": Question(
        "How many steps does a model need to be as good? (Fig. 6)",
        ("random", "alignment/auto", "validation", "full"),
        (0.2, 0.5),
        lengths=(0.2, 0.5, 1.0, 2.0),
    ),
    "datasets": Question(
        "Does it hold on every corpus, at every retention? (Table 3)",
        ("random", "loss/paper", "alignment/auto", *WITH_VALIDATION, "full"),
        (0.2, 0.5),
    ),
    "rank_window": Question(
        "What does the fitted rank window gain?",
        ("random", "alignment/auto", "alignment/top_k", "alignment/head_gsample", "full"),
        (0.2, 0.5),
    ),
}
