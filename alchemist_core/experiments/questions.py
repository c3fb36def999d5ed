"""The experiments by name: which arms, at which retentions, answer which question. Each is a table or figure of the paper."""

from dataclasses import dataclass

from alchemist_core.experiments.arms import HEURISTICS

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
