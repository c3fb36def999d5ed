"""Attributes of samples that crawls give and that have a column of their own. Independent of tars and of the database.

One more attribute is one line here and a migration with `ALTER TABLE alchemist.samples ADD COLUMN name varchar`: reading the record's
JSON, the COPY at ingest, the model, its comment, `alchemist export` and `--where` are made from this declaration.
"""

from typing import NamedTuple


class CrawlAttribute(NamedTuple):
    """A text that crawls give in the JSON of a record."""

    name: str
    """Its column in the table `samples`."""
    keys: tuple[str, ...]
    """Its keys in the JSON; the first one with a text is used."""
    comment: str
    """Comment of its column in the database."""


CRAWL_ATTRIBUTES = (
    CrawlAttribute("source_url", ("url",), "URL of the image, as the crawl gives it"),
    CrawlAttribute("licence", ("license", "licence"), "Licence of the image, as the crawl gives it"),
)
