"""The explorer over an enriched store as a process of its own, and a browser that has entered it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import Engine, make_url

from alchemist_core.settings import load_settings
from alchemist_core.store.engine import make_engine
from tests.e2e.browser import Browser
from tests.explorer.conftest import free_port, serving
from tests.explorer.enriched import DIM, enrich, serving_texts
from tests.trained_store import TrainedStore, use_store

# Before any script of a page: what its policy refuses is counted.
WATCH = "window.violations = []; document.addEventListener('securitypolicyviolation', event => violations.push(event.violatedDirective))"


@dataclass(frozen=True, slots=True)
class Visit:
    """A browser in the explorer, and the store that it shows."""

    browser: Browser
    engine: Engine
    url: str

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
def visiting(copy: TrainedStore, make_database: Callable[..., str], folder: Path) -> Iterator[Visit]:
    """Copy a store, enrich it, serve it, and enter it by the printed address."""
    own = TrainedStore(make_database(template=make_url(copy.url).database), folder / "home")
    with pytest.MonkeyPatch.context() as patch:
        use_store(patch, own)
        engine = make_engine(own.url)
        enrich(engine)
    load_settings.cache_clear()
    port = free_port()
    try:
        with (
            serving_texts(_embed) as search,
            serving(own, port, ALCHEMIST_SEARCH_URL=search) as entry,
            Browser(folder / "b") as browser,
        ):
            browser.call("Page.enable")
            browser.call("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
            url = f"http://127.0.0.1:{port}"
            browser.go(f"{url}{entry}")
            yield Visit(browser, engine, url)
    finally:
        engine.dispose()


def _embed(text: str) -> NDArray[np.float32]:
    return np.eye(DIM, dtype=np.float32)[len(text) % DIM]
