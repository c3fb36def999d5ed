"""Near-duplicates by perceptual hash, and semantic duplicates by embedding: find them, and list the largest groups.

The first sample of a group, by sample id, is its original.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from alchemist_core.config import Command, Config, Formerly, Result, counted
from alchemist_core.errors import ConfigError
from alchemist_core.store.embeddings import CentroidsRow, find_centroids, list_semantic_groups
from alchemist_core.store.engine import open_store
from alchemist_core.store.samples import count_uncompared, find_duplicates, list_groups
from alchemist_core.telemetry import ProgressLine, warn

if TYPE_CHECKING:
    from alchemist_core.embeddings.clusters import FirstRun

SCORER_HELP = "Scorer by name; none: your only one that has embeddings"
USUAL = {"probes": 4, "seed": 0}
"""Values of a first run that does not give them; those of the threshold and of the whitening depend on the embeddings."""
GROWN_BY = 0.1
"""A difference of the usual threshold from the stored one that is told: ten times as many samples."""


class FindConfig(Config):
    """No options: new samples are compared with all earlier ones."""


class FindResult(Result):
    """Number of samples compared, and of near-duplicates among them."""

    n_pairs: int
    n_duplicates: int


class ListConfig(Config):
    """How many groups to list."""

    limit: Annotated[int, Formerly("groups")] = Field(
        20, ge=1, le=10_000, description="Number of groups to list, largest first"
    )


class FindSemanticConfig(Config):
    """Whose embeddings to compare, and how near a duplicate is."""

    scorer: str | None = Field(None, description=SCORER_HELP)
    threshold: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Lowest cosine of the embeddings of semantic duplicates; none: as in earlier runs, else 0.95, or if they are whitened "
        "0.4 up to 10,000 embeddings and 0.1 more for each factor of 10 above, at most 0.8",
    )
    whiten: bool | None = Field(
        None,
        description="Whiten embeddings before they are compared: subtract their mean, and divide each principal component by its "
        "standard deviation, both as of the first run. Finds more copies at the same precision; none: as in earlier runs, else yes if "
        "there are 1,000 different embeddings of at least 128 numbers",
    )
    clusters: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Number of clusters that the embeddings are divided into by the first run; none: the square root of their number, at "
        "most 16384",
    )
    probes: int | None = Field(
        None,
        ge=1,
        le=64,
        description="Number of nearest clusters in which a sample is compared: more find more pairs on a border, and take longer; none: "
        "as in earlier runs, else 4",
    )
    seed: int | None = Field(None, ge=0, lt=2**31, description="Seed of the clusters; none: as in earlier runs, else 0")
    memory_gib: float = Field(
        1.0, gt=0, le=1024, description="Memory in GiB for new embeddings: more need fewer passes over the earlier ones"
    )
    restart: bool = Field(
        False,
        description="Forget the clusters and semantic duplicates of this scorer, and compare all samples again; subsets that were selected "
        "by them can no longer be selected again from their options",
    )


class FindSemanticResult(Result):
    """Number of samples compared, and of semantic duplicates among them."""

    scorer: str
    threshold: float
    whitened: str
    n_clusters: int
    n_compared: int
    n_duplicates: int


class ListSemanticConfig(ListConfig):
    """Whose groups to list, and how many."""

    scorer: str | None = Field(None, description=SCORER_HELP)
    threshold: float = Field(
        0.0, ge=0, le=1, description="Count only duplicates whose cosine with the first sample is at least this"
    )


class ListResult(Result):
    """The largest groups."""

    groups: list[dict[str, Any]]

    def summary(self) -> str:
        """Return a line for each group."""
        rows = (f"{_describe_group(group)}: {group['caption'][:80]}" for group in self.groups)
        return (
            "\n".join(rows)
            or "No duplicates. Find new ones: alchemist duplicates find, or alchemist duplicates find-semantic"
        )


def find(_config: FindConfig) -> FindResult:
    """Find near-duplicates: compare the images that were ingested since the last run with all earlier ones, and store the groups."""
    engine, n_pairs, n_duplicates = open_store(), 0, 0
    n_total = count_uncompared(engine)
    with ProgressLine("duplicates") as line:
        while (block := find_duplicates(engine)) is not None:
            n_pairs, n_duplicates = n_pairs + block.n_pairs, n_duplicates + block.n_duplicates
            line.show(n_pairs, max(n_total, n_pairs))
    return FindResult(n_pairs=n_pairs, n_duplicates=n_duplicates)


def list_(config: ListConfig) -> ListResult:
    """List the largest groups of near-duplicate images."""
    return ListResult(groups=list_groups(open_store(), n_groups=config.limit))


def find_semantic(config: FindSemanticConfig) -> FindSemanticResult:
    """Find semantic duplicates: compare the embeddings that were stored since the last run with all earlier ones, by cosine.

    Raises:
        ConfigError: Options differ from those of earlier runs.
    """
    from alchemist_core.embeddings.clusters import make_centroids  # noqa: PLC0415  imports faiss
    from alchemist_core.embeddings.duplicates import find_semantic_duplicates  # noqa: PLC0415  as above
    from alchemist_core.embeddings.reading import Embeddings, find_embedding_scorer  # noqa: PLC0415  imports pyarrow

    scorer, rater_id = find_embedding_scorer(engine := open_store(), config.scorer)
    embeddings = Embeddings(engine, rater_id)
    is_first = config.restart or find_centroids(engine, rater_id) is None
    centroids = make_centroids(engine, embeddings, _first_run(config), is_restart=config.restart)
    if config.restart:
        # All files wait to be compared now.
        embeddings = Embeddings(engine, rater_id)
    _require_same(scorer, config, centroids)
    if config.threshold is None:
        _warn_of_growth(len(embeddings), centroids)
    with ProgressLine("duplicates find-semantic") as line:
        counts = find_semantic_duplicates(
            engine, embeddings, centroids, memory_bytes=int(config.memory_gib * 2**30), on_progress=line.show
        )
    return FindSemanticResult(
        scorer=scorer, threshold=centroids.threshold, whitened=_describe_whitening(config, centroids, is_first=is_first),
        n_clusters=centroids.n_clusters, n_compared=counts.n_compared, n_duplicates=counts.n_duplicates,
    )  # fmt: skip


def _first_run(config: FindSemanticConfig) -> "FirstRun":
    from alchemist_core.embeddings.clusters import FirstRun  # noqa: PLC0415  imports faiss

    probes, seed = (USUAL[name] if getattr(config, name) is None else getattr(config, name) for name in USUAL)
    return FirstRun(config.clusters, probes, config.threshold, seed, config.whiten)


def _describe_whitening(config: FindSemanticConfig, centroids: CentroidsRow, *, is_first: bool) -> str:
    if centroids.is_whitened:
        return "yes"
    if config.whiten is False:
        return "no"
    if is_first:
        return "no: that takes 1,000 different embeddings of at least 128 numbers"
    return "no, as in earlier runs. To whiten, and compare all samples again: --restart"


def _warn_of_growth(n_embeddings: int, centroids: CentroidsRow) -> None:
    """Say if the threshold of the first run was for far fewer samples: among many, it takes images that are not copies for copies."""
    from alchemist_core.embeddings.clusters import usual_threshold  # noqa: PLC0415  imports faiss

    usual = usual_threshold(n_embeddings, is_whitened=centroids.is_whitened)
    if usual >= centroids.threshold + GROWN_BY:
        warn(
            f"Samples are compared with threshold {centroids.threshold:g}, as in the first run; for {n_embeddings:,} samples {usual:g} is "
            "usual, because a lower one takes images that are not copies for copies. To take it and compare all samples again: --restart"
        )


def _require_same(scorer: str, config: FindSemanticConfig, centroids: CentroidsRow) -> None:
    """Compare the options that are given with those of the first run.

    Raises:
        ConfigError: They differ.
    """
    if config.whiten not in (None, centroids.is_whitened):
        option, how = ("--whiten", "as they are") if config.whiten else ("--no-whiten", "whitened")
        raise ConfigError(
            f"{option}: the embeddings of scorer {scorer} were compared {how}. Omit it, or compare all samples again: --restart"
        )
    n_clusters, n_probes = centroids.n_clusters, centroids.n_probes
    stored = {"threshold": centroids.threshold, "probes": n_probes, "seed": centroids.seed, "clusters": n_clusters}
    for name, known in stored.items():
        value = getattr(config, name)
        # Fewer clusters than probes: each sample is compared in all of them.
        is_all = name == "probes" and value is not None and value >= n_clusters == n_probes
        if value not in (None, known) and not is_all:
            raise ConfigError(
                f"--{name} {value:g}: the samples of scorer {scorer} were compared with {name} {known:g}. Omit it, or compare all "
                "samples again: --restart"
            )


def list_semantic(config: ListSemanticConfig) -> ListResult:
    """List the largest groups of semantic duplicates."""
    from alchemist_core.embeddings.reading import find_embedding_scorer  # noqa: PLC0415  imports pyarrow

    _, rater_id = find_embedding_scorer(engine := open_store(), config.scorer)
    groups = list_semantic_groups(engine, rater_id, threshold=config.threshold, n_groups=config.limit)
    return ListResult(groups=[group._asdict() for group in groups])


def _describe_group(group: Mapping[str, Any]) -> str:
    """Return how many samples are near-duplicates of the first of a group, and how near they are.

    >>> _describe_group({"first_sample_id": 7, "n_samples": 4, "n_same_image": 2, "max_distance": 1})
    '3 samples are near-duplicates of sample 7 (1 with the same bytes, others within 1 bit)'
    >>> _describe_group({"first_sample_id": 7, "n_samples": 2, "n_same_image": 2, "max_distance": 0})
    '1 sample is a near-duplicate of sample 7 (with the same bytes)'
    """
    # Both counts of a group include its first sample.
    if "min_similarity" in group:
        n = group["n_samples"] - 1
        verb = "samples are semantic duplicates" if n != 1 else "sample is a semantic duplicate"
        return f"{n:,} {verb} of sample {group['first_sample_id']} (cosine at least {group['min_similarity']:.3f})"
    n, n_same = group["n_samples"] - 1, group["n_same_image"] - 1
    distance = group["max_distance"]
    nearness = f"within {counted(distance, 'bit')}" if distance else "with the same perceptual hash"
    if n_same == n:
        nearness = "with the same bytes"
    elif n_same:
        nearness = f"{n_same:,} with the same bytes, others {nearness}"
    verb = "samples are near-duplicates" if n != 1 else "sample is a near-duplicate"
    return f"{n:,} {verb} of sample {group['first_sample_id']} ({nearness})"


COMMANDS = {
    "find": Command(FindConfig, find, lambda _, result: "alchemist duplicates list" if result.n_duplicates else None),
    "list": Command(ListConfig, list_),
    "find-semantic": Command(
        FindSemanticConfig,
        find_semantic,
        lambda _, result: (
            f"alchemist duplicates list-semantic --scorer {result.scorer}" if result.n_duplicates else None
        ),
    ),
    "list-semantic": Command(ListSemanticConfig, list_semantic),
}
