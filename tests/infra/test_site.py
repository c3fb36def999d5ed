"""The pages of the documentation: those made from the code can be made and are complete, each is in the navigation, no link is dead."""

import json
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import CheckConstraint

from alchemist_core.cli.verbs import VERBS, load_commands
from alchemist_core.errors import FINAL_EXIT_CODES
from alchemist_core.quality.suites import WORDS
from alchemist_core.settings import SITE, SITE_OF_VERSION
from alchemist_core.shards.faults import Reason
from alchemist_core.store import tables
from alchemist_core.store.engine import make_engine
from alchemist_core.store.tables import Table
from alchemist_core.telemetry import CATALOGUE
from infra.docs import figures, markdown, site
from infra.docs.markdown import FENCE, anchors, dead_links, move
from infra.docs.publish import publish
from tests.written_commands import commands_in, require_accepted

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
    blocks = [block[0] for text in site.written().values() for block in FENCE.finditer(text)]
    commands = [command for block in blocks for command in commands_in(block)]
    assert len(commands) > 90
    for command in commands:
        require_accepted(command)


@pytest.mark.parametrize(
    ("page", "selects"),
    [
        ("README.md", "alchemist select "),
        ("docs/tutorials/own-folder.md", "alchemist select "),
        ("docs/how-to/one-server.md", "`build_subset`"),
        ("docs/how-to/kubernetes.md", "`build_subset`"),
    ],
)
def test_the_way_to_a_first_subset_finds_duplicates_before_it_selects(page: str, selects: str) -> None:
    """A selection keeps all duplicates that were not searched for, also those with the same bytes."""
    text = (CHECKOUT / page).read_text(encoding="utf-8")
    ingest = text.index("alchemist ingest ")
    before = text[ingest : text.index(selects, ingest)]
    assert re.search(r"alchemist duplicates find(\n| && )", before)


def test_every_page_begins_with_its_title(pages: dict[str, str]) -> None:
    # Before it, only a comment or what MkDocs reads.
    heads = {
        path: re.sub(r"\A(<!--.*?-->|---\n.*?\n---)\s*", "", text, flags=re.DOTALL) for path, text in pages.items()
    }
    assert [path for path, text in heads.items() if not text.startswith("# ")] == []


def test_no_page_that_is_written_by_hand_is_long() -> None:
    words = {path: len(text.split()) for path, text in site.written().items() if not path.startswith("reference/")}
    assert {path: n for path, n in words.items() if n > 1_500} == {}
    assert len((CHECKOUT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


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
    assert [name for name in WORDS if f"| `{name}` |" not in pages["reference/checks.md"]] == []
    codes = pages["reference/exit-codes.md"]
    assert [code for code in FINAL_EXIT_CODES if f"| {code} |" not in codes] == []
    assert "| There is no project file here or in a folder above." in pages["reference/errors.md"]
    assert "### Store.scores" in pages["reference/python.md"]


def test_a_link_between_files_of_the_repository_becomes_one_between_pages() -> None:
    known = {"infra/RUNBOOK.md": "how-to/runbook.md", "docs/reference/glossary.md": "reference/glossary.md"}
    text = "See [runbook](RUNBOOK.md#ingest), [`roles.sql`](../sql/roles.sql), [words](../docs/reference/glossary.md), `[a](b.md)`."
    assert move(text, "infra/README.md", "how-to/deploy.md", known) == (
        "See [runbook](runbook.md#ingest), `sql/roles.sql`, [words](../reference/glossary.md), `[a](b.md)`."
    )


def test_a_dead_link_and_a_dead_anchor_are_found() -> None:
    found = dead_links({"a.md": "# A\n[b](b.md) [c](c.md#here) [d](#a)\n```\n[x](x.md)\n```", "c.md": "# C"})
    assert list(found) == ["a.md: b.md is not a page", "a.md: c.md#here has no such heading"]


def test_the_examples_of_the_helpers_hold() -> None:
    import doctest

    assert doctest.testmod(markdown).failed == 0


def test_each_minor_version_of_the_site_has_a_folder_of_its_own(tmp_path: Path) -> None:
    built = tmp_path / "built"
    built.mkdir()
    for version in ("0.2.0", "0.10.0", "0.2.1"):
        (built / "index.html").write_text(version)
        publish(built, tmp_path / "site", version)
    assert {path.parent.name: path.read_text() for path in (tmp_path / "site").glob("*/index.html")} == {
        "0.2": "0.2.1",
        "0.10": "0.10.0",
    }
    assert [one["title"] for one in json.loads((tmp_path / "site" / "versions.json").read_text())] == [
        "0.10.0",
        "0.2.1",
    ]
    assert "url=0.10/index.html" in (tmp_path / "site" / "index.html").read_text()


def test_the_address_of_the_site_is_the_same_everywhere() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    config = yaml.safe_load((CHECKOUT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert (project["urls"]["Documentation"], config["site_url"]) == (SITE, f"{SITE_OF_VERSION}/")


def test_the_figures_are_those_that_the_code_draws() -> None:
    drawn = figures.render()
    kept = {path.name: path.read_text(encoding="utf-8") for path in figures.FOLDER.glob("*.svg")}
    assert drawn.keys() == kept.keys()
    assert [name for name, text in drawn.items() if text != kept[name]] == [], "run: make pictures"


def test_the_figures_of_states_hold_the_states_that_the_database_allows() -> None:
    tables_of = {"night": tables.Night, "shard": tables.Shard, "rater": tables.Rater, "subset": tables.Subset}
    for name, kind in tables_of.items():
        conditions = [str(one.sqltext) for one in kind.__table__.constraints if isinstance(one, CheckConstraint)]
        allowed = next(text for text in conditions if text.startswith("state IN"))
        assert set(figures.STATES[name][1]) == set(re.findall(r"'(\w+)'", allowed)), name
