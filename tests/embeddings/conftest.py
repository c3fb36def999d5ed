"""Fixtures of the tests of embeddings: the synthetic corpus, ingested."""

from tests.trained_store import corpus, ingest_corpus

__all__ = ["corpus", "ingest_corpus"]
