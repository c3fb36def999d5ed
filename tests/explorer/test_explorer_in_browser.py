"""Every page of the explorer in a browser: it fits a desk and a phone, is legible in light and dark, and violates no policy.

Screenshots for a person to look at are kept in .alchemist/screenshots.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.browser import CONTRAST, DESKTOP, PHONE, Browser, needs_chromium

pytestmark = [pytest.mark.db, pytest.mark.stack, needs_chromium]
PICTURES = Path(".alchemist/screenshots")
PAGES = {
    "needs": "/needs", "samples": "/samples", "highest": "/samples?rank_from=0&rank_to=0.1", "refused": "/samples?where=scorre+%3E+1",
    "sample": "/samples/3", "attack": "/samples/5", "taken-down": "/samples/9", "subsets": "/subsets", "subset": "/subsets/best/1",
    "nights": "/nights", "night": "/nights/web/2026-01-01", "raters": "/raters", "rater": "/raters/r1", "experiments": "/experiments",
    "missing": "/samples/1000",
}  # fmt: skip
WATCH = "window.violations = []; document.addEventListener('securitypolicyviolation', event => violations.push(event.violatedDirective))"
MEASURE = (
    """(async () => {
  const images = [...document.images];
  images.forEach(image => image.loading = "eager");
  await Promise.all(images.map(image => image.decode().catch(() => null)));
"""
    + CONTRAST
    + """
  const texts = [...document.body.querySelectorAll("*")].filter(
    e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) && e.getClientRects().length && !e.closest("svg"));
  const targets = [...document.querySelectorAll("button, input, select, summary, nav a")].filter(e => e.getClientRects().length);
  return JSON.stringify({
    width: document.documentElement.scrollWidth,
    broken: images.filter(image => image.naturalWidth === 0).map(image => image.src),
    faint: texts.filter(e => contrast(e) < 4.5).map(e => e.outerHTML.slice(0, 120)),
    tiny: targets.filter(e => e.getBoundingClientRect().height < 24).map(e => e.outerHTML.slice(0, 120)),
    headings: [...document.querySelectorAll("h1, h2, h3, h4")].map(e => Number(e.tagName[1])),
    violations,
  });
})()"""
)


@pytest.fixture
def browser(tmp_path: Path, port: int, address: str) -> Iterator[Browser]:
    with Browser(tmp_path / "profile", port + 1) as opened:
        opened.call("Page.enable")
        opened.call("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
        opened.open(f"http://127.0.0.1:{port}{address}", until="What needs me?")
        yield opened


def measure(browser: Browser) -> dict[str, Any]:
    found = browser.call("Runtime.evaluate", expression=MEASURE, returnByValue=True, awaitPromise=True)["result"]
    measured: dict[str, Any] = json.loads(found["value"])
    return measured


@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
def test_every_page_of_the_explorer_is_legible_everywhere(browser: Browser, port: int, is_dark: bool) -> None:
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}]
    browser.call("Emulation.setEmulatedMedia", features=scheme)
    faults = []
    for width, height in (DESKTOP, PHONE):
        browser.resize(width, height)
        for name, path in PAGES.items():
            browser.call("Page.navigate", url=f"http://127.0.0.1:{port}{path}")
            browser.wait_for("Alchemist 0")
            found = measure(browser)
            browser.picture(PICTURES / f"explorer-{name}-{width}{'-dark' if is_dark else ''}.png")
            steps = [later - earlier for earlier, later in zip(found["headings"], found["headings"][1:], strict=False)]
            wrong = {key: found[key] for key in ("broken", "faint", "tiny", "violations") if found[key]}
            if found["width"] > width:
                wrong["width"] = found["width"]
            if max(steps, default=0) > 1:
                wrong["headings"] = found["headings"]
            if wrong:
                faults.append((name, width, wrong))
    assert faults == []


def test_the_explorer_is_usable_by_keyboard(browser: Browser, port: int) -> None:
    browser.open(f"http://127.0.0.1:{port}/samples", until="What is in the corpus?")

    def press(key: str, code: int, text: str = "") -> None:
        for kind in ("keyDown", "keyUp"):
            browser.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                windowsVirtualKeyCode=code,
                **({"text": text} if text else {}),
            )

    press("Tab", 9)
    assert browser.evaluate("document.activeElement.className") == "skip"
    press("Enter", 13, "\r")
    assert browser.evaluate("location.hash") == "#content"
    browser.evaluate("document.querySelector('summary').focus()")
    press("Enter", 13, "\r")
    browser.evaluate("document.querySelector('#where').focus()")
    browser.call("Input.insertText", text="caption = 'caption of 2'")
    press("Enter", 13, "\r")
    assert "1 sample, newest first" in browser.wait_for("Which samples are there?")
