"""The documentation names only files that exist, and the glossary has one sorted line per term."""

import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
PAGES = ["README.md", *(f"{folder}/README.md" for folder in ("alchemist_core", "dags", "infra", "sql", "tests"))]
PAGES += ["infra/RUNBOOK.md", "infra/SECURITY.md", "infra/VARIABLES.md", "alchemist_core/PAPER.md"]
PAGES += sorted(str(path.relative_to(CHECKOUT)) for path in CHECKOUT.glob("alchemist_core/*/README.md"))
PATH = re.compile(r"`((?:alchemist_core|dags|infra|sql|tests)/[\w./-]+\.\w+)`")
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_exist(page: str) -> None:
    text = (CHECKOUT / page).read_text(encoding="utf-8")
    named = {CHECKOUT / name for name in PATH.findall(text)}
    linked = {(CHECKOUT / page).parent / name for name in LINK.findall(text)}
    assert sorted(str(path) for path in named | linked if not path.exists()) == []


def test_pages_quote_the_table_of_the_demo_as_the_readme_shows_it() -> None:
    readme, tutorial, weaknesses = (
        (CHECKOUT / page).read_text(encoding="utf-8")
        for page in ("README.md", "docs/tutorials/first-subset.md", "docs/research/not-reproduced.md")
    )
    (table,) = re.findall(r"^  kept  arm .*?(?=```)", readme, re.MULTILINE | re.DOTALL)
    assert table in tutorial
    closed = re.findall(r" subset .* (\d+%)$", table, re.MULTILINE)
    assert len(closed) == 2
    assert f"it closes {' and '.join(closed)} of the gap" in weaknesses


def test_the_page_of_kubernetes_names_what_runs_in_a_job_and_what_else_the_job_of_migrations_does() -> None:
    kubernetes, gpus = (
        (CHECKOUT / "docs" / "how-to" / page).read_text(encoding="utf-8")
        for page in ("kubernetes.md", "several-gpus.md")
    )
    # They need torch or faiss, which the image of the scheduler lacks, and no DAG runs them.
    commands = (
        "sample retry-quarantine",
        "duplicates find-semantic",
        "search",
        "score-aesthetics",
        "geneval",
        "image-text-head",
        "plan train-downstream",
    )
    assert [name for name in commands if f"`{name}`" not in kubernetes] == []
    assert "`night release`" in kubernetes
    (row,) = re.findall(r"^\| Kubernetes \| .*$", gpus, re.MULTILINE)
    assert "alchemist-migrate" in row


def test_every_package_has_a_page() -> None:
    packages = {path.parent.name for path in CHECKOUT.glob("alchemist_core/*/__init__.py")}
    assert packages == {path.parent.name for path in CHECKOUT.glob("alchemist_core/*/README.md")}


@pytest.mark.parametrize("page", sorted(CHECKOUT.glob("alchemist_core/*/README.md")), ids=lambda page: page.parent.name)
def test_the_page_of_a_package_names_each_of_its_modules(page: Path) -> None:
    quoted = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", page.read_text(encoding="utf-8")))))
    assert {path.stem for path in page.parent.glob("*.py")} - {"__init__"} - quoted == set()


def test_the_security_page_names_tests_that_exist() -> None:
    text = (CHECKOUT / "infra" / "SECURITY.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\btest_\w+\.py", text))
    assert len(named) > 20
    assert named <= {path.name for path in (CHECKOUT / "tests").rglob("test_*.py")}


def test_the_glossary_defines_each_term_once_in_order() -> None:
    text = (CHECKOUT / "docs" / "reference" / "glossary.md").read_text(encoding="utf-8")
    terms = [line.split("|")[1].strip().lower() for line in text.splitlines() if line.startswith("| ")][1:]
    terms = [term for term in terms if set(term) != {"-"}]
    assert len(terms) > 40
    assert terms == sorted(set(terms))
