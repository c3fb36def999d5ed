"""What an experiment compares, by words: `loss/shift_gsample` is that strategy on the ranks of a rater of rule `loss`.

A word is `[rater/]draw[@number]`. A new arm is a line in a table here. No torch, no store.
"""

from dataclasses import dataclass
from typing import Any

from alchemist_core.errors import ConfigError

# Fields of the rater's training that a kind of rater sets.
RATERS: dict[str, dict[str, Any]] = {
    "alignment": {"rule": "alignment"},
    "alignment+group": {"rule": "alignment", "has_group_weight": True},
    "loss": {"rule": "loss"},
    "loss+group": {"rule": "loss", "has_group_weight": True},
    "learnability": {"rule": "learnability"},
}
DEFAULT_RATER = "alignment"
# Arms that are no selection: what the stage train_downstream calls them.
CONTROLS = ("full", "planted", "minus_loss")
# What is known to be good, and pairs of a kind where it is too little: planted+plain, planted+chaotic.
PLANTED, FILLED = "planted", "planted+"
HEURISTICS = ("aesthetic", "clarity", "frequency", "edge_density")
STRATEGIES = ("random", "top_k", "gsample", "head_gsample", "shift_gsample", "block")
AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to choose training pairs."""

    word: str
    # Whose ranks: a key of RATERS. What needs no ranks takes the first rater's tokenizer.
    rater: str
    # Fields of the selection policy; none: the fitted region.
    policy: dict[str, Any] | None
    # What train_downstream is asked for.
    trains: str = "subset"

    @property
    def is_sized(self) -> bool:
        """Whether the arm depends on the retention: all but the full corpus."""
        return self.trains != "full"


def parse_arm(word: str, *, retention: float, first_rater: str = DEFAULT_RATER) -> Arm:
    """Read one word.

    Args:
        word: Such as `random`, `alignment/auto`, `loss/block@0.4`, `clarity` or `planted`.
        retention: Share kept, by which the authors chose the head cut of `paper`.
        first_rater: Rater that `random` and the controls share with the first arm.

    Raises:
        ConfigError: Unknown rater or draw; the text lists those that there are.

    >>> parse_arm("loss/block@0.4", retention=0.2).policy
    {'strategy': 'block', 'start_rank': 0.4, 'allow_fewer': True}
    """
    kind, _, draw = word.rpartition("/")
    name, _, number = draw.partition("@")
    if kind and kind not in RATERS:
        raise ConfigError(f"Arm {word}: there is no rater {kind!r}. Raters: {', '.join(RATERS)}.")
    if (number != "") != (name == "block"):
        raise ConfigError(f"Arm {word}: block takes its start rank (block@0.4), every other draw takes no number.")
    rater = kind or (DEFAULT_RATER if name in (AUTO, "paper") else first_rater)
    if name in CONTROLS or name.startswith(FILLED):
        # What the ranking by loss is drawn with, and what planted and full are trained beside.
        policy = paper_policy(retention) if name == "minus_loss" else {"strategy": "random"}
        return Arm(word, rater, policy, trains=name)
    return Arm(word, rater, None if name == AUTO else _policy(word, name, number, retention))


def paper_policy(retention: float) -> dict[str, Any]:
    """Return Shift-Gsample with the authors' head cut at this retention, the mean in the middle of the rest.

    Source: ALGORITHM.md 1.5 and A19: cut .25 to 50 %, .15 to 80 %, .05 above; mean (n + 1) / 2, spread (1 − n) / 6.

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


def _policy(word: str, name: str, number: str, retention: float) -> dict[str, Any]:
    if name == "paper":
        return paper_policy(retention)
    if name == "block":
        # Ties at the lower end may leave a band a few pairs short.
        return {"strategy": "block", "start_rank": float(number), "allow_fewer": True}
    heuristic, _, strategy = name.partition(":")
    if heuristic in HEURISTICS and (strategy or "top_k") in STRATEGIES:
        return {"strategy": strategy or "top_k", "score": heuristic}
    if name in STRATEGIES:
        return {"strategy": name}
    known = ", ".join(("auto", "paper", *STRATEGIES, *HEURISTICS, *CONTROLS, f"{FILLED}KIND"))
    raise ConfigError(
        f"Arm {word}: there is no draw {name!r}. Draws: {known}; a heuristic may name one, clarity:gsample."
    )


BLOCKS = (0.0, 0.2, 0.4, 0.6, 0.8)


@dataclass(frozen=True, slots=True)
class Question:
    """An experiment's arms and how its figure is read."""

    title: str
    arms: tuple[str, ...]
    retentions: tuple[float, ...]
    # Whether the figure's horizontal axis is the retention; else the arms stand beside one another.
    is_sweep: bool = False
    # Multiples of the epochs; several draw quality against steps.
    lengths: tuple[float, ...] = (1.0,)


QUESTIONS: dict[str, Question] = {
    "retention_sweep": Question(
        "How much of the corpus is needed? (Fig. 1)",
        ("random", "alignment/auto", "loss/paper", "full"),
        (0.1, 0.2, 0.3, 0.5, 0.7, 0.9),
        is_sweep=True,
    ),
    "methods": Question(
        "Which way to choose is worth it? (Table 1)",
        ("random", *HEURISTICS[1:], "minus_loss", "loss/paper", "alignment/auto", "learnability/auto", "full"),
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
        "How long must a model train to be as good? (Fig. 6)",
        ("random", "alignment/auto", "full"),
        (0.2, 0.5),
        lengths=(0.25, 0.5, 1.0, 2.0),
    ),
    "datasets": Question(
        "Does it hold on every corpus, at every share kept? (Table 3)",
        ("random", "loss/paper", "alignment/auto", "full"),
        (0.2, 0.5),
    ),
    "region": Question(
        "What is the fitted region worth?",
        ("random", "alignment/auto", "alignment/top_k", "alignment/head_gsample", "full"),
        (0.2, 0.5),
    ),
}
