"""The explorer over an enriched store, as a process of its own or as a tab of Airflow, and a browser that has entered it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import Engine, make_url

from alchemist_core.local import stack
from alchemist_core.settings import load_settings
from alchemist_core.store.engine import make_engine, open_store
from tests.e2e.browser import Browser
from tests.e2e.published_client import Airflow
from tests.explorer.conftest import fill, free_port, serving
from tests.explorer.enriched import DIM, enrich, serving_texts
from tests.trained_store import TrainedStore, use_store

# Before any script of a page: what its policy refuses is counted.
WATCH = "window.violations = []; document.addEventListener('securitypolicyviolation', event => violations.push(event.violatedDirective))"

WAYS = ("alone", "airflow")
PAGES = {
    "needs": "/needs", "samples": "/samples", "highest": "/samples?rank_from=0&rank_to=0.1", "refused": "/samples?where=scorre+%3E+1",
    "nothing": "/samples?where=width+%3E+9000", "sample": "/samples/3", "attack": "/samples/5", "taken-down": "/samples/9",
    "search": "/samples/search", "found": "/samples/search?text=a+red+bicycle", "like": "/samples/search?like=4", "subsets": "/subsets",
    "subset": "/subsets/best/2", "unproven": "/subsets/best/1", "difference": "/subsets/best/2/difference?since=1",
    "strata": "/subsets/best/1/strata", "blind": "/subsets/best/1/blind", "nights": "/nights", "night": "/nights/web/2026-01-01",
    "held-night": "/nights/web/2026-01-02", "unusual": "/nights/web/2026-01-02/unusual", "raters": "/raters", "rater": "/raters/r2",
    "production": "/raters/r1", "experiments": "/experiments", "experiment": "/experiments/sweep",
    "release": "/decide/release?dataset=web&night=2026-01-02", "reject": "/decide/reject?dataset=web&night=2026-01-02",
    "publish": "/decide/publish?subset=best&version=2", "withdraw": "/decide/withdraw?subset=best&version=1",
    "takedown": "/decide/takedown?sample=6", "promote": "/decide/promote?rater=r2", "retry": "/decide/retry?reason=too_slow",
    "select-again": "/decide/select?subset=best&version=1", "missing": "/samples/1000",
}  # fmt: skip
"""The addresses of every kind of page over the enriched store, by a name."""


@dataclass(frozen=True, slots=True)
class Visit:
    """A browser in the explorer, and the store that it shows."""

    browser: Browser
    engine: Engine
    url: str
    way: str

    def go(self, path: str) -> str:
        """Open a page and return its text."""
        return self.browser.go(f"{self.url}{path}")

    def click(self, label: str, *, within: str = "body") -> str:
        """Press the button or link of this name, and return the text of the page that follows."""
        found = f"[...document.querySelectorAll('{within} button, {within} a')].find(one => one.innerText.trim() === '{label}')"
        assert self.browser.evaluate(f"Boolean({found})"), f"no {label!r}: {self.browser.text()[:500]}"
        return self.browser.leave(f"{found}.click()")

    def fill(self, field: str, text: str) -> None:
        """Type into the field of this id."""
        self.browser.evaluate(f"document.getElementById('{field}').focus()")
        self.browser.call("Input.insertText", text=text)


@contextmanager
def serving_enriched(
    copy: TrainedStore, make_database: Callable[..., str], folder: Path, port: int, **how: Any
) -> Iterator[tuple[Engine, str]]:
    """Copy a store, enrich it and serve it, as `serving` does; yield its engine and the path and query of the printed address."""
    own = TrainedStore(make_database(template=make_url(copy.url).database), folder / "home")
    with pytest.MonkeyPatch.context() as patch:
        use_store(patch, own)
        engine = make_engine(own.url)
        enrich(engine)
    load_settings.cache_clear()
    try:
        with serving_texts(_embed) as search, serving(own, port, ALCHEMIST_SEARCH_URL=search, **how) as entry:
            yield engine, entry
    finally:
        engine.dispose()


@contextmanager
def visiting(way: str, copy: TrainedStore, make_database: Callable[..., str], folder: Path) -> Iterator[Visit]:
    """Enter the explorer in one of the two WAYS: without Airflow, over a copy of a store, or by the login of an Airflow."""
    with visiting_airflow(folder) if way == "airflow" else visiting_alone(copy, make_database, folder) as visit:
        yield visit


@contextmanager
def visiting_alone(copy: TrainedStore, make_database: Callable[..., str], folder: Path) -> Iterator[Visit]:
    """Serve a copy of a store, enriched, and enter it by the printed address."""
    port = free_port()
    with (
        serving_enriched(copy, make_database, folder, port) as (engine, entry),
        Browser(folder / "b") as browser,
    ):
        _watch(browser)
        url = f"http://127.0.0.1:{port}"
        browser.go(f"{url}{entry}")
        yield Visit(browser, engine, url, "alone")


@contextmanager
def visiting_airflow(folder: Path) -> Iterator[Visit]:
    """Start Airflow over a store with the same rows, and log in to it as an administrator."""
    folder.chmod(0o755)  # So that the account that runs Postgres for root can reach it.
    home = folder / "home"
    with pytest.MonkeyPatch.context() as patch, serving_texts(_embed) as search:
        patch.setenv("ALCHEMIST_HOME", str(home))
        patch.setenv("ALCHEMIST_SEARCH_URL", search)
        patch.setattr(stack, "START_TIMEOUT_S", 600.0)  # A loaded machine takes minutes.
        load_settings.cache_clear()
        try:
            stack.up(home)
            engine = open_store()
            fill(engine, folder / "web")
            enrich(engine)
            airflow = Airflow(home)
            with Browser(folder / "b") as browser:
                _watch(browser)
                browser.log_in(airflow.url, airflow.token)
                yield Visit(browser, engine, f"{airflow.url}/alchemist", "airflow")
        finally:
            stack.down(home)
    load_settings.cache_clear()


def _watch(browser: Browser) -> None:
    browser.call("Page.enable")
    browser.call("Page.addScriptToEvaluateOnNewDocument", source=WATCH)


def _embed(text: str) -> NDArray[np.float32]:
    return np.eye(DIM, dtype=np.float32)[len(text) % DIM]
