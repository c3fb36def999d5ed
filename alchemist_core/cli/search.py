"""Search for samples by what they show: by a text, through a scorer's text tower, or by their likeness to a sample."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from sqlalchemy import Engine

from alchemist_core.cli.export import WHERE
from alchemist_core.config import BARE_WORD, LINE_LENGTH, Command, Config, Result
from alchemist_core.errors import ConfigError, DataError
from alchemist_core.store.embeddings import describe_samples
from alchemist_core.store.engine import open_store
from alchemist_core.store.raters import find_outputs
from alchemist_core.store.samples import find_sample


class SearchConfig(Config):
    """What to search for, and where."""

    text: str | None = Field(
        None,
        min_length=1,
        description="Text that describes the images; none: search by --like",
        json_schema_extra=BARE_WORD,
    )
    like: str | None = Field(
        None,
        min_length=1,
        description="Search for images like this sample's: DATASET/SHARD/KEY, 8 or more digits of its hash, or its sample id; none: "
        "search by text",
    )
    scorer: str | None = Field(None, description="Scorer by name; none: your only one that has embeddings")
    where: str | None = Field(None, min_length=1, description=WHERE)
    limit: int = Field(20, ge=1, le=10_000, description="Number of samples to return")
    exact: bool = Field(
        False,
        description="Compare all embeddings. Otherwise, above 2 million of them and with clusters, only those of the nearest clusters (16, "
        "or 32 of whitened embeddings), and those that have no cluster yet",
    )


class FoundSample(Result):
    """A sample and its similarity: the inner product of its embedding with the searched one."""

    sample_id: int
    similarity: float
    caption: str
    address: str | None


class SearchResult(Result):
    """The nearest samples, and how many were compared."""

    scorer: str
    n_compared: int
    samples: list[FoundSample]

    def summary(self) -> str:
        """Return a line for each sample: similarity, id, address, caption."""
        lines = [
            f"{one.similarity:8.4f}  {one.sample_id:>10}  {one.address or 'no readable location'}  {one.caption[:LINE_LENGTH]!r}"
            for one in self.samples
        ]
        return "\n".join(lines) or "Nothing found."


def search_samples(config: SearchConfig) -> SearchResult:
    """Search for the samples whose embeddings are nearest to a text or to a sample.

    Raises:
        ConfigError: Neither a text nor a sample is given, or both; the scorer has no text tower; a condition is not valid.
        DataError: The given sample has no embedding.
    """
    from alchemist_core.embeddings.reading import Embeddings, find_embedding_scorer  # noqa: PLC0415  imports pyarrow
    from alchemist_core.embeddings.search import search  # noqa: PLC0415  as above

    if (config.text is None) == (config.like is None):
        raise ConfigError(
            "Give a text or a sample to search for: alchemist search TEXT, or alchemist search --like SAMPLE."
        )
    scorer, rater_id = find_embedding_scorer(engine := open_store(), config.scorer)
    embeddings = Embeddings(engine, rater_id)
    if config.text:
        query_D = _embed_text(engine, scorer, config.text)
    else:
        named = str(config.like)
        query_D = embeddings.read_one(find_sample(engine, named).sample_id, named)
    if query_D.shape != (embeddings.dim,):
        raise DataError(
            f"Scorer {scorer} embeds texts as {query_D.shape[0]} numbers, and images as {embeddings.dim}. It cannot search."
        )
    found = search(engine, embeddings, query_D, limit=config.limit, where=config.where, is_exact=config.exact)
    about = describe_samples(engine, found.sample_id_L.tolist())
    samples = [
        FoundSample(sample_id=sample_id, similarity=round(similarity, 6), **about[sample_id])
        for sample_id, similarity in zip(found.sample_id_L.tolist(), found.similarity_L.tolist(), strict=True)
        if sample_id in about
    ]
    return SearchResult(scorer=scorer, n_compared=found.n_compared, samples=samples)


def _embed_text(engine: Engine, name: str, text: str) -> NDArray[np.float32]:
    from alchemist_core.scorers.registration import load_runner  # noqa: PLC0415  only for a text

    scorer = load_runner(find_outputs(engine, name), "cpu").scorer
    try:
        return embed_by(scorer, name, text)
    finally:
        scorer.close()


def embed_by(scorer: Any, name: str, text: str) -> NDArray[np.float32]:
    """Return the embedding of a text by the text tower of an open scorer.

    Raises:
        ConfigError: It has none.
    """
    text_BD = scorer.embed_text([text])
    if text_BD is None:
        raise ConfigError(
            f"Scorer {name} cannot embed texts. Search by a sample (--like SAMPLE), or name another --scorer."
        )
    query_D: NDArray[np.float32] = np.asarray(text_BD, np.float32)[0]
    return query_D


COMMANDS = {"": Command(SearchConfig, search_samples)}
