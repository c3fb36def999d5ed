"""All pages of the documentation: written by hand in docs/, made from the code, or files of the repository that are shown."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import Connection

from infra.docs import dictionary, notebooks, pages
from infra.docs.markdown import move

CHECKOUT = Path(__file__).parents[2]
DOCS = CHECKOUT / "docs"
SHOWN = {
    "infra/RUNBOOK.md": "how-to/runbook.md",
    "infra/README.md": "how-to/deploy.md",
    "infra/CELERY.md": "how-to/celery.md",
    "infra/VARIABLES.md": "reference/environment.md",
    "infra/SECURITY.md": "explanation/security.md",
    "alchemist_core/PAPER.md": "research/equations.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing/index.md",
    "CODE_OF_CONDUCT.md": "contributing/code-of-conduct.md",
    "SECURITY.md": "contributing/report-a-vulnerability.md",
    "alchemist_core/README.md": "contributing/packages/index.md",
    "dags/README.md": "contributing/dags.md",
    "sql/README.md": "contributing/sql.md",
    "tests/README.md": "contributing/tests.md",
}
"""Files of the repository that are pages, and their paths on the site."""
REPLACED = {"README.md": "index.md"}
"""Files of the repository that have a page on the site in their place."""


# Tables repeat the words of their questions so often that they would come first.
UNSEARCHED = "---\nsearch:\n  exclude: true\n---\n\n"


def shown_files() -> dict[str, str]:
    """Return the files of the repository that are pages, READMEs of packages and tables of experiments among them, and their paths."""
    packages = sorted((CHECKOUT / "alchemist_core").glob("*/README.md"))
    readmes = {str(path.relative_to(CHECKOUT)): f"contributing/packages/{path.parent.name}.md" for path in packages}
    tables = sorted((CHECKOUT / "tests" / "benchmarks" / "tables").glob("*.md"))
    kept = {str(path.relative_to(CHECKOUT)): f"research/tables/{path.name}" for path in tables}
    return {**SHOWN, **readmes, **kept}


def render_shown() -> dict[str, str]:
    """Return the shown files as pages, by path; their links lead to pages where there are some."""
    shown = shown_files()
    heads = {page: UNSEARCHED for page in shown.values() if page.startswith("research/tables/")}
    known = {**shown, **REPLACED, **{f"docs/{path}": path for path in written()}}
    return {
        page: heads.get(page, "") + move((CHECKOUT / source).read_text(encoding="utf-8"), source, page, known)
        for source, page in shown.items()
    }


def written() -> dict[str, str]:
    """Return the pages that are written by hand, by path."""
    return {str(path.relative_to(DOCS)): path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md"))}


def render(connection: Connection) -> dict[str, str]:
    """Return every page that is not written by hand, by path; the connection is to a migrated database."""
    return {**render_shown(), **pages.render(), **notebooks.render(), **dictionary.render(connection)}


@contextmanager
def migrated_database() -> Iterator[Connection]:
    """Return a connection to a new, migrated database of an embedded server, which is removed afterwards."""
    # Only a build of the whole site needs a server.
    from alchemist_core.store.engine import make_engine, migrate  # noqa: PLC0415
    from alchemist_core.store.postgres import start_postgres, stop_postgres  # noqa: PLC0415

    with TemporaryDirectory(prefix="alchemist-docs-") as folder:
        Path(folder).chmod(0o755)  # So that the account that runs the server for root can reach it.
        home = Path(folder) / "home"
        url = start_postgres(home).url()
        try:
            migrate(url)
            engine = make_engine(url)
            with engine.connect() as connection:
                yield connection
            engine.dispose()
        finally:
            stop_postgres(home)
