"""Every page of the explorer in a browser: it fits a desk and a phone, is legible in light and dark, violates no policy, and axe-core
finds nothing serious.

Screenshots for a person to look at are kept in .alchemist/screenshots.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.browser import CONTRAST, DESKTOP, PHONE, needs_chromium
from tests.explorer.browsed import PAGES, WAYS, Visit, visiting
from tests.trained_store import TrainedStore

pytestmark = [pytest.mark.db, pytest.mark.stack, pytest.mark.timeout(1200), needs_chromium]
PICTURES = Path(".alchemist/screenshots")
AXE = Path(".alchemist/axe-core/package/axe.min.js")
"""The script of the npm package axe-core, which `make test-e2e` fetches."""
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
  const loaded = performance.getEntries().filter(one => one.encodedBodySize !== undefined && one.initiatorType !== "img");
  return JSON.stringify({
    width: document.documentElement.scrollWidth,
    broken: images.filter(image => image.naturalWidth === 0).map(image => image.src),
    faint: texts.filter(e => contrast(e) < 4.5).map(e => e.outerHTML.slice(0, 120)),
    tiny: targets.filter(e => e.getBoundingClientRect().height < 24).map(e => e.outerHTML.slice(0, 120)),
    headings: [...document.querySelectorAll("h1, h2, h3, h4")].map(e => Number(e.tagName[1])),
    bytes: loaded.reduce((sum, one) => sum + one.encodedBodySize, 0),
    violations,
  });
})()"""
)
# Width and height of A4 in CSS pixels.
PAPER = (794, 1123)
MEASURE_PRINT = """(async () => {
  const images = [...document.images];
  images.forEach(image => image.loading = "eager");
  await Promise.all(images.map(image => image.decode().catch(() => null)));
  const isShown = e => e.checkVisibility({contentVisibilityAuto: true});
  return JSON.stringify({
    pressed: [...document.querySelectorAll("button, input, select, summary, nav a")].filter(isShown).map(e => e.outerHTML.slice(0, 120)),
    ground: getComputedStyle(document.body).backgroundColor,
    isWide: document.documentElement.scrollWidth > innerWidth,
    hidden: [...document.querySelectorAll(".values table")].filter(e => !isShown(e)).map(e => e.outerHTML.slice(0, 120)),
  });
})()"""
RUN_AXE = """axe.run(document, {resultTypes: ["violations"]}).then(found => JSON.stringify(
  found.violations.map(one => [one.impact, one.id, one.nodes.map(node => node.html.slice(0, 160)).slice(0, 3)])))"""


@pytest.fixture(scope="module", params=WAYS)
def visit(
    request: pytest.FixtureRequest, filled_once: TrainedStore, make_database: Callable[..., str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Visit]:  # fmt: skip
    with visiting(request.param, filled_once, make_database, tmp_path_factory.mktemp("visit")) as found:
        yield found


def run_in(visit: Visit, script: str) -> Any:
    """Return what an asynchronous script of a page returns as JSON."""
    answer = visit.browser.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
    assert "exceptionDetails" not in answer, answer["exceptionDetails"]
    return json.loads(answer["result"]["value"])


def faults_of(found: dict[str, Any], width: int) -> dict[str, Any]:
    wrong = {key: found[key] for key in ("broken", "faint", "tiny", "violations") if found[key]}
    if found["width"] > width:
        wrong["width"] = found["width"]
    steps = [later - earlier for earlier, later in zip(found["headings"], found["headings"][1:], strict=False)]
    if max(steps, default=0) > 1 or found["headings"].count(1) != 1:
        wrong["headings"] = found["headings"]
    if found["bytes"] > 150_000:
        wrong["bytes"] = found["bytes"]
    return wrong


@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_every_page_of_the_explorer_is_legible_everywhere(visit: Visit, size: tuple[int, int], is_dark: bool) -> None:
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}]
    visit.browser.call("Emulation.setEmulatedMedia", features=scheme)
    visit.browser.resize(*size)
    faults = {}
    for name, path in PAGES.items():
        visit.go(path)
        found = run_in(visit, MEASURE)
        visit.browser.picture(
            PICTURES / f"explorer-{visit.way}-{name}-{size[0]}{'-dark' if is_dark else ''}.png", whole=True
        )
        if wrong := faults_of(found, size[0]):
            faults[name] = wrong
    assert faults == {}


def test_the_explorer_is_printed_without_what_paper_cannot_do(visit: Visit) -> None:
    """White also for a person with a dark screen, with the numbers of the charts, and without anything to press."""
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    visit.browser.call("Emulation.setEmulatedMedia", media="print", features=dark)
    visit.browser.resize(*PAPER)
    faults = {}
    for name in ("samples", "sample", "subset", "difference", "held-night", "rater", "needs", "blind"):
        visit.go(PAGES[name])
        found = run_in(visit, MEASURE_PRINT)
        visit.browser.picture(PICTURES / f"explorer-{visit.way}-{name}-print.png", whole=True)
        if found != {"pressed": [], "ground": "rgb(253, 253, 252)", "isWide": False, "hidden": []}:
            faults[name] = found
    visit.browser.call("Emulation.setEmulatedMedia", media="", features=[])
    assert faults == {}


needs_axe = pytest.mark.skipif(not AXE.exists(), reason=f"no {AXE}: make test-e2e fetches it with npm")


@needs_axe
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_axe_finds_nothing_serious_in_the_explorer(visit: Visit, size: tuple[int, int]) -> None:
    visit.browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "light"}])
    visit.browser.resize(*size)
    script, found = AXE.read_text(encoding="utf-8"), {}
    for name, path in PAGES.items():
        visit.go(path)
        # The debugger's scripts are not subject to the policy of the page.
        visit.browser.evaluate(script + "; 0")
        if violations := run_in(visit, RUN_AXE):
            found[name] = violations
    serious = {name: [one for one in all_of if one[0] in ("serious", "critical")] for name, all_of in found.items()}
    assert {name: ones for name, ones in serious.items() if ones} == {}
    assert found == {}, "nothing lesser either"


@needs_axe
def test_axe_finds_a_fault_in_the_explorer_that_is_there(visit: Visit) -> None:
    visit.go("/samples")
    visit.browser.evaluate(AXE.read_text(encoding="utf-8") + "; 0")
    visit.browser.evaluate("document.querySelector('#main, main').innerHTML = '<img src=\"/pictures/3/thumbnail\">'")
    assert "image-alt" in {one[1] for one in run_in(visit, RUN_AXE)}
