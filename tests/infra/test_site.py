"""The pages of the documentation: those made from the code can be made and are complete, each is in the navigation, no link is dead."""

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from alchemist_core.cli.command_line import build_parser, read_config
from alchemist_core.cli.verbs import VERBS, load_commands
from alchemist_core.errors import FINAL_EXIT_CODES
from alchemist_core.shards.faults import Reason
from alchemist_core.store.engine import make_engine
from alchemist_core.store.tables import Table
from alchemist_core.telemetry import CATALOGUE
from infra.docs import markdown, site
from infra.docs.markdown import FENCE, anchors, dead_links, move

CHECKOUT = Path(__file__).parents[2]
pytestmark = pytest.mark.db


@pytest.fixture(scope="module")
def pages(make_database: Callable[..., str]) -> Iterator[dict[str, str]]:
    """Every page of the site, by path."""
    engine = make_engine(make_database())
    with engine.connect() as connection:
        yield {**site.written(), **site.render(connection)}
    engine.dispose()


def in_navigation(entries: list[Any]) -> Iterator[str]:
    for entry in entries:
        values = entry.values() if isinstance(entry, dict) else [entry]
        for value in values:
            yield from in_navigation(value) if isinstance(value, list) else [value]


def test_the_navigation_lists_every_page_once(pages: dict[str, str]) -> None:
    listed = list(in_navigation(yaml.safe_load((CHECKOUT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))
    assert sorted(listed) == sorted(pages)


def test_no_link_is_dead(pages: dict[str, str]) -> None:
    images = [str(path.relative_to(site.DOCS)) for path in site.DOCS.rglob("*") if path.suffix != ".md"]
    assert list(dead_links(pages, images)) == []


def test_every_command_in_a_block_is_accepted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = [(path, block[0]) for path, text in site.written().items() for block in FENCE.finditer(text)]
    lines = [(path, line) for path, block in blocks for line in re.findall(r"^alchemist .+$", block, re.MULTILINE)]
    assert len(lines) > 60
    for path, line in lines:
        words = shlex.split(line, comments=True)[1:]
        parsed = words[:2] if words[:2] == ["db", "psql"] else words
        if words[0] in ("train-rater", "train-downstream"):
            # On these pages the project file names preset and datasets.
            parsed = [
                *words,
                "--preset",
                "tiny",
                *(["--dataset", "d", "--validation", "v"] if words[0] == "train-rater" else []),
            ]
        elif words[0] == "select" and "--dataset" not in words:
            parsed = [*words, "--dataset", "d"]
        options = vars(build_parser(words).parse_args(parsed))
        assert read_config(options["command"].config, options) is not None, f"{path}: {line}"


def test_every_page_begins_with_its_title(pages: dict[str, str]) -> None:
    # Before it, only a comment or what MkDocs reads.
    heads = {
        path: re.sub(r"\A(<!--.*?-->|---\n.*?\n---)\s*", "", text, flags=re.DOTALL) for path, text in pages.items()
    }
    assert [path for path, text in heads.items() if not text.startswith("# ")] == []


def test_every_command_has_a_heading(pages: dict[str, str]) -> None:
    found = set().union(*(anchors(text) for path, text in pages.items() if path.startswith("reference/commands/")))
    named = {f"alchemist-{verb}" for verb in VERBS}
    named |= {f"alchemist-{verb}-{name}" for verb in VERBS for name in load_commands(verb) if name}
    assert len(named) > 80
    assert named <= found


def test_the_database_pages_hold_every_table_and_view_with_its_columns(pages: dict[str, str]) -> None:
    for table in Table.metadata.tables.values():
        section = pages["reference/database/tables.md"].partition(f"\n## {table.name}\n")[2].partition("\n## ")[0]
        assert section, table.name
        assert [column.name for column in table.columns if f"| `{column.name}` |" not in section] == []
    views = {path.stem for path in (CHECKOUT / "sql" / "views").glob("*.sql")}
    assert views <= anchors(pages["reference/database/views.md"])


def test_the_other_reference_pages_are_complete(pages: dict[str, str]) -> None:
    assert [metric.name for metric in CATALOGUE if f"| `{metric.name}` |" not in pages["reference/metrics.md"]] == []
    assert [reason for reason in Reason if f"| `{reason.value}` |" not in pages["reference/records.md"]] == []
    codes = pages["reference/exit-codes.md"]
    assert [code for code in FINAL_EXIT_CODES if f"| {code} |" not in codes] == []
    assert "| There is no project file here or in a folder above." in pages["reference/errors.md"]
    assert "### Store.scores" in pages["reference/python.md"]


def test_a_link_between_files_of_the_repository_becomes_one_between_pages() -> None:
    known = {"infra/RUNBOOK.md": "how-to/runbook.md", "README.md#glossary": "reference/glossary.md"}
    text = "See [runbook](RUNBOOK.md#ingest), [`roles.sql`](../sql/roles.sql), [words](../README.md#glossary), `[a](b.md)`."
    assert move(text, "infra/README.md", "how-to/deploy.md", known) == (
        "See [runbook](runbook.md#ingest), `sql/roles.sql`, [words](../reference/glossary.md), `[a](b.md)`."
    )


def test_a_dead_link_and_a_dead_anchor_are_found() -> None:
    found = dead_links({"a.md": "# A\n[b](b.md) [c](c.md#here) [d](#a)\n```\n[x](x.md)\n```", "c.md": "# C"})
    assert list(found) == ["a.md: b.md is not a page", "a.md: c.md#here has no such heading"]


def test_the_examples_of_the_helpers_hold() -> None:
    import doctest

    assert doctest.testmod(markdown).failed == 0
