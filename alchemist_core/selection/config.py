"""Options of a selection, a part of the config of the stage `select`. No numpy, no torch."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from alchemist_core.config import (
    Config,
    Formerly,
    Words,
    current_names,
    fingerprint,
    former_names,
    later_field,
    or_word,
    ratio_of,
)
from alchemist_core.errors import ConfigError
from alchemist_core.rating.config import RATER_SCORE, ScoringRule
from alchemist_core.selection.keys import Noise, PRank
from alchemist_core.selection.strategies import STRATEGIES, Strategy, StrategyName
from alchemist_core.selection.weights import Fill, WeightBy

Dedup = Literal["exact", "near", "semantic", "off"]
# Snapshots store and hash the former words.
_STORED_DEDUP = {"exact": "exact", "near": "near", "semantic": "near", "off": "keep"}
_SCORE = r"([a-z][a-z0-9_]{0,99}|imported\.[A-Za-z0-9_.-]{1,64})"
SCORE = f"^{_SCORE}$"
"""Form of the name of a score: `rater`, a heuristic, a scorer's output, imported scores, or a number that the crawl gives."""
RANK_BY = rf"^{_SCORE}(\+{_SCORE}){{0,7}}$"
"""Form of what ranks samples: a score, or up to eight of them, joined by plus signs."""
NO_VALUE = "none"
"""The word for an option without a value: without it, the option would take the value of the project file."""


@dataclass(frozen=True, slots=True)
class EligibleOptions:
    """The options of a policy that determine which samples are eligible and which score ranks them; part of a snapshot."""

    score: str = RATER_SCORE
    # exact, near or keep: the stored words of --dedup.
    duplicates: str = "exact"
    decontaminate: tuple[str, ...] = ()
    where: str | None = None
    # Whether the source of each sample is read, for --max-share-of source.
    with_sources: bool = False
    # Whether semantic duplicates are excluded too: those of a cosine from the threshold on (None: as they were found).
    is_semantic: bool = False
    semantic_threshold: float | None = None
    # The scorer whose embeddings decide; None: the user's only one whose samples were compared.
    semantic_scorer: str | None = None
    # Whether the cluster of each sample is read, for --stratify-by and --max-share-of cluster.
    with_clusters: bool = False
    # Whether the sample with the best score is kept of each group of duplicates, instead of the first one.
    keeps_best: bool = False
    # Whether the dataset of each sample matters, for --stratify and --max-share-of dataset.
    with_datasets: bool = False

    @property
    def needs_comparison(self) -> bool:
        """Whether samples have to be compared by their embeddings before: alchemist duplicates find-semantic."""
        return self.is_semantic or self.with_clusters


class SelectionPolicy(Config):
    """Which samples to select, and how many. An omitted parameter takes the default of the strategy."""

    strategy: StrategyName = Field(
        "auto",
        description="How samples are chosen by rank. auto: the rank window that tune-selection found for this rater, or "
        "random if it found no gain; before a tuning, where the window leaves too few samples, and with --mean-rank, --std-rank or "
        "--drop-top-ratio, shift_gsample for scoring rule loss, otherwise head_gsample; "
        "top_k with another --rank-by, with a scorer as --rater, and with --retention auto without "
        "--weight-by. shift_gsample: sampled with a normal density "
        "around --mean-rank; the highest ranks (--drop-top-ratio) are never selected (Eq. 11). gsample: sampled with a normal "
        "density around --mean-rank. head_gsample: sampled with a density that is highest at rank 0 (the best score) and "
        "falls off with --std-rank. top_k: the highest scores. block: all samples from --start-rank on, until the subset is "
        "full. random: all samples with the same probability",
    )
    retention: float = Field(
        0.2,
        gt=0,
        le=1,
        description="Fraction of the eligible samples to keep, such as 0.2 or 20%. auto: all that --accept auto accepts",
        json_schema_extra=or_word("auto"),
    )
    drop_top_ratio: float | None = Field(
        None, ge=0, lt=1, description="Fraction of the highest ranks that is never kept; none: 0.25 for shift_gsample"
    )
    mean_rank: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Rank that is kept most often, 0 = highest score; none: 0.625 for shift_gsample, 0.5 for gsample",
    )
    std_rank: float | None = Field(
        None,
        ge=0.001,
        le=10,
        description="Standard deviation of the density, in ranks; none: 0.125 for shift_gsample, 0.1667 for gsample, 0.15 for head_gsample",
    )
    start_rank: float | None = Field(
        None, ge=0, lt=1, description="First rank of strategy block, 0 = highest score; none: 0.4"
    )
    seed: int = Field(0, ge=0, lt=2**53, description="Seed of the sampling")
    p_rank: Annotated[PRank, Formerly("reading", {"per-draw": "draws"})] = Field(
        "per-draw",
        description="How the density of the strategy is used. per-draw: samples are drawn one after the other with this "
        "probability, without replacement. inclusion: the probability that a sample is in the subset is proportional to it",
    )
    rank_by: Annotated[str, Formerly("score")] = Field(
        RATER_SCORE,
        pattern=RANK_BY,
        description="Score that ranks the samples. rater: the rater's score. aesthetic, clarity, frequency, edge_density: a heuristic. "
        "The name of a scorer or of imported scores: its score. The name of another rater, with _ for -: its score. imported.NAME: a "
        "number that was imported with the crawl. Several, joined by + as in rater+critic: the mean of the ranks by each of them",
    )
    dedup: Annotated[Dedup, Formerly("duplicates", {"off": "keep"})] = Field(
        "exact",
        description="Which duplicates are removed; the sample that was ingested first is kept. exact: same image bytes, as "
        "alchemist duplicates find found them. near: also perceptual hashes within 2 bits. semantic: also similar embeddings, as "
        "alchemist duplicates find-semantic found them. off: keep all",
    )
    semantic_threshold: float | None = later_field(
        None,
        gt=0,
        le=1,
        description="Lowest cosine of duplicates with --dedup semantic; none: that of alchemist duplicates find-semantic",
    )
    semantic_scorer: str | None = later_field(
        None,
        description="Scorer whose embeddings and clusters are used; none: your only one whose samples have clusters",
    )
    dedup_keep: Literal["first", "best"] = later_field(
        "first",
        description="Which sample of a group of duplicates is kept. first: the one that was ingested first. best: the one with "
        "the best score",
    )
    decontaminate: Words = Field(
        (),
        description="Evaluation or validation datasets, separated by commas: training samples that have the same image as one "
        "of their samples, or a near-duplicate, are excluded",
    )
    where: str | None = Field(
        None,
        min_length=1,
        description="Condition on samples, such as: megapixels >= 1 and aspect_ratio between 0.5 and 2 and licence is not null. Columns "
        "are also width, height, and scorers, imported scores and raters (with _ for -) under their names. Allowed: comparisons, and, or, "
        "not, between, in, like, ilike, is null, + - * /, abs, least, greatest, length, lower, upper, coalesce; none: all",
    )
    stratify: bool = Field(
        False, description="Keep the same fraction of every dataset (rounded by the Sainte-Laguë method)"
    )
    stratify_by: Literal["dataset", "cluster"] = later_field(
        "dataset",
        description="Of what --stratify keeps the same fraction. dataset: of every dataset. cluster: of every cluster of similar images",
    )
    max_share: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Largest fraction of the subset (with --stratify: of each dataset's part) that one dataset or source may have; "
        "none: no limit",
    )
    max_share_of: Literal["dataset", "source", "cluster"] = Field(
        "dataset",
        description="What --max-share limits. dataset: each dataset. source: each host of the images' URLs. cluster: each cluster of "
        "similar images, as alchemist duplicates find-semantic made them",
    )
    allow_fewer: bool = Field(
        False,
        description="If --drop-top-ratio, --max-share or --stratify leave fewer samples than requested, select the available "
        "ones instead of failing",
    )

    accept: Literal["all", "auto"] = later_field(
        "all",
        description="Which samples may be selected. all: every eligible one. auto: those with a score above a threshold. For a rater of "
        "rule learnability it is 0: there, training on the validation dataset made the sample's loss no smaller. For rule pmi it is 0, "
        "too: there, other captions predict the image as well as its own. For other rules, critics and density ratios it is the score "
        "that a fraction (--accept-loss) of the validation samples that trained nothing does not reach. For several scores (--rank-by "
        "A+B) it is computed from theirs, as if they erred independently; if they do not, more good samples are rejected. "
        "--retention auto keeps every accepted sample",
    )
    accept_loss: float = later_field(
        0.05,
        gt=0,
        lt=1,
        description="Fraction of the good samples that the threshold of --accept auto may reject, for scores without a natural 0",
    )
    min_score: float | None = later_field(
        None,
        allow_inf_nan=False,
        description="Lowest score of a sample that may be selected; none: no bound, or the threshold of --accept auto",
    )

    fill: Fill = later_field(
        "none",
        description="What follows if fewer samples can be selected than --retention asks for, because of --accept, --min-score, "
        "--drop-top-ratio or a cap. none: an error, or with --allow-fewer a smaller subset. repeat: an epoch reads the selected samples "
        "several times, as evenly as possible, until it has the size that was asked for; no rejected sample is taken",
    )
    weight_by: WeightBy = later_field(
        "none",
        description="How often an epoch reads each member. none: equally often. rank: in proportion to the density of the strategy at its "
        "rank, so that a trainer sees good samples more often in the same number of steps",
    )
    weight_clip: float = later_field(
        4.0,
        gt=1,
        le=100,
        description="Largest ratio of a member's weight and the mean weight, in either direction, with --weight-by rank",
    )
    variety: float = later_field(
        0.0,
        ge=0,
        le=1,
        description="How much clusters of similar images take turns in the selection. 0: not at all. 1: as many members of every cluster, "
        "as far as it has samples. In between, the order by rank and the order by turns are averaged. Needs the clusters of alchemist "
        "duplicates find-semantic",
    )

    @model_validator(mode="before")
    @classmethod
    def _read_retention(cls, values: Any) -> Any:
        """Read a percentage, and `--retention auto`: keep every accepted sample."""
        if isinstance(values, Mapping) and (ratio := ratio_of(values.get("retention"))) is not None:
            return {**values, "retention": ratio}
        if isinstance(values, Mapping) and values.get("retention") == "auto":
            if values.get("fill", "none") != "none":
                message = "--retention auto keeps each accepted sample once and fills nothing: give a fixed retention, or --fill none"
                raise ValueError(message)
            return {"allow_fewer": True, **values, "accept": "auto", "retention": 1.0}
        return values

    @model_validator(mode="before")
    @classmethod
    def _read_no_value(cls, values: Any) -> Any:
        """Read the word none, by which a command leaves out a value of the project file."""
        if not isinstance(values, Mapping):
            return values
        defaults = {name: field.default for name, field in cls.model_fields.items() if field.default in (None, ())}
        return {
            name: defaults[name] if name in defaults and value == NO_VALUE else value for name, value in values.items()
        }

    def written_out(self, names: Collection[str]) -> dict[str, Any]:
        """Return options with their values, also those at their default, as the command line takes them.

        >>> SelectionPolicy(seed=3).written_out(("seed", "dedup", "where"))
        {'seed': 3, 'dedup': 'exact', 'where': 'none'}
        """
        values = {name: getattr(self, name) for name in type(self).model_fields if name in names}
        return {name: NO_VALUE if value in (None, ()) else value for name, value in values.items()}

    @property
    def keeps_all_accepted(self) -> bool:
        """Whether the size of the subset is the number of accepted samples, as with `--retention auto`."""
        return self.accept == "auto" and self.retention == 1 and self.fill == "none"

    def without_threshold(self) -> "SelectionPolicy":
        """Return the policy for other ranks than those whose scores its threshold refers to."""
        return self.model_copy(update={"min_score": None, "accept": "all", "accept_loss": 0.05})

    def eligible_options(self) -> EligibleOptions:
        """Return the options that determine the eligible samples."""
        capped_by = self.max_share_of if self.max_share is not None else None
        strata_by = self.stratify_by if self.stratify else None
        return EligibleOptions(
            self.rank_by, _STORED_DEDUP[self.dedup], self.decontaminate, self.where, capped_by == "source",
            is_semantic=self.dedup == "semantic", semantic_threshold=self.semantic_threshold, semantic_scorer=self.semantic_scorer,
            with_clusters="cluster" in (capped_by, strata_by) or self.variety > 0, keeps_best=self.dedup_keep == "best",
            with_datasets="dataset" in (capped_by, strata_by),
        )  # fmt: skip

    def noise(self) -> Noise:
        """Return the noise of the sampling."""
        return Noise(self.seed, p_rank=self.p_rank)

    @property
    def has_parameters(self) -> bool:
        """Whether any parameter of a strategy is given."""
        return any(value is not None for value in self._parameters().values())

    def resolve(self, rule: str) -> Strategy:
        """Return the strategy with its parameters; the scoring rule of the rater resolves `auto`.

        Raises:
            ConfigError: The strategy does not have a given parameter, or options contradict each other.
        """
        kind = STRATEGIES[self._auto(rule) if self.strategy == "auto" else self.strategy]
        self._require_sense(kind)
        given = {name: value for name, value in self._parameters().items() if value is not None}
        if unused := sorted(given.keys() - {field.name for field in fields(kind)}):
            known = ", ".join(field.name for field in fields(kind)) or "no parameters"
            raise ConfigError(
                f"Strategy {kind.name} does not use {', '.join(unused)} (it has {known}). Omit the option, or choose another "
                "--strategy."
            )
        return kind(**given)

    def _auto(self, rule: str) -> str:
        # No scoring rule applies to other scores, so auto selects the highest scores. A scorer has its kind in place of a rule.
        return ScoringRule(rule).strategy if self.rank_by == RATER_SCORE and rule in tuple(ScoringRule) else "top_k"

    def _require_sense(self, kind: type[Strategy]) -> None:
        if self.p_rank == "inclusion" and not kind.is_stochastic:
            raise ConfigError(
                f"--p-rank inclusion is not used by strategy {kind.name}, which does not sample. Omit it."
            )
        if self.weight_by == "rank" and not kind.is_stochastic:
            raise ConfigError(
                f"--weight-by rank is not used by strategy {kind.name}, which has no density of ranks. Choose a strategy that samples, "
                "such as head_gsample."
            )
        if self.variety and self.stratify and self.stratify_by == "cluster":
            raise ConfigError(
                "--variety contradicts --stratify-by cluster, which keeps the same fraction of every cluster. Omit one of them."
            )
        if self.stratify and self.max_share is not None and self.max_share_of == self.stratify_by:
            raise ConfigError(
                f"--max-share of {self.stratify_by}s contradicts --stratify, which gives every {self.stratify_by} its share. Omit one of "
                "them."
            )
        for flag in self._unused_options():
            raise ConfigError(f"{flag}. Omit it.")

    def _unused_options(self) -> Iterator[str]:
        options = self.eligible_options()
        if self.semantic_threshold is not None and not options.is_semantic:
            yield "--semantic-threshold is used only with --dedup semantic"
        if self.semantic_scorer is not None and not options.needs_comparison:
            yield "--semantic-scorer is used only with --dedup semantic, --variety, --stratify-by cluster or --max-share-of cluster"
        if self.stratify_by != "dataset" and not self.stratify:
            yield f"--stratify-by {self.stratify_by} is used only with --stratify"
        if self.accept_loss != 0.05 and self.accept != "auto":
            yield "--accept-loss is used only with --accept auto"
        if self.weight_clip != 4 and self.weight_by == "none":
            yield "--weight-clip is used only with --weight-by rank"
        if self.fill != "none" and self.allow_fewer:
            yield f"--allow-fewer is not used with --fill {self.fill}, which reaches the retention"
        if self.dedup_keep != "first" and self.dedup == "off":
            yield f"--dedup-keep {self.dedup_keep} is not used with --dedup off"

    def _parameters(self) -> dict[str, float | None]:
        names = {field.name for kind in STRATEGIES.values() for field in fields(kind)}
        return {name: getattr(self, name) for name in names}


def policy_spec(policy: SelectionPolicy, strategy: Strategy) -> dict[str, Any]:
    """Return the part of a subset's spec that comes from the policy: the resolved strategy, and all options that are not defaults.

    Defaults are omitted, so that a spec from before an option existed keeps its hash.
    """
    given = policy.model_dump(mode="json", exclude_defaults=True)
    always = {"retention": policy.retention, "seed": policy.seed}
    return {**given, **always, **strategy_spec(strategy)}


def hash_spec(spec: Mapping[str, Any]) -> str:
    """Hash a subset's spec; renamed options are hashed under their former names, so that a spec keeps its hash."""
    return fingerprint(former_names(SelectionPolicy, spec))


def policy_of(spec: Mapping[str, Any]) -> SelectionPolicy:
    """Return the policy of a stored spec."""
    return SelectionPolicy.model_validate(_options_in(spec))


def asked_options(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that a stored spec was asked for by, to select again: `--retention auto` accepts anew what is eligible then."""
    options = {**_options_in(spec), **spec.get("asked", {})}
    return {name: value for name, value in options.items() if value is not None}


def _options_in(spec: Mapping[str, Any]) -> dict[str, Any]:
    given = current_names(SelectionPolicy, spec)
    return {name: given[name] for name in given if name in SelectionPolicy.model_fields}


def strategy_of(name: str, spec: Mapping[str, Any]) -> Strategy:
    """Return a strategy with its parameters, from the spec of a subset.

    >>> strategy_of("block", {"start_rank": 0.3, "retention": 0.5})
    Block(start_rank=0.3)
    """
    kind = STRATEGIES[name]
    return kind(**{field: spec[field] for field in kind.__dataclass_fields__ if field in spec})


def strategy_spec(strategy: Strategy) -> dict[str, Any]:
    """Return the part of a subset's spec that comes from its strategy.

    >>> strategy_spec(STRATEGIES["block"](start_rank=0.3))
    {'strategy': 'block', 'start_rank': 0.3}
    """
    return {"strategy": strategy.name, **asdict(strategy)}
