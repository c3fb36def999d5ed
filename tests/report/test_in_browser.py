"""The page in a browser: not wider than a phone, readable contrast, light and dark."""

import html
import json
import re
import shutil
import subprocess

import pytest

from alchemist_core.report.page import render_report
from tests.e2e.browser import CONTRAST

pytestmark = pytest.mark.stack

# Encloses the page in a frame, so that the page itself can forbid scripts.
MEASURE = (
    """
const page = document.querySelector("iframe").contentDocument;
"""
    + CONTRAST
    + """
const texts = [...page.body.querySelectorAll("*")].filter(
  e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) && e.getClientRects().length && !e.closest("svg"));
document.body.append(Object.assign(document.createElement("pre"), {id: "measured", textContent: JSON.stringify({
  width: page.documentElement.scrollWidth,
  beyond: texts.filter(e => e.getBoundingClientRect().right > WIDTH + 1 && !e.closest("thead")).map(e => e.outerHTML.slice(0, 120)),
  contrast: Math.min(...texts.map(contrast)),
  smallest: Math.min(...texts.map(e => parseFloat(getComputedStyle(e).fontSize))),
  images: [...page.images].filter(i => i.naturalWidth === 0).length,
  background: getComputedStyle(page.body).backgroundColor,
})}));
"""
)


@pytest.fixture(scope="module")
def chromium():
    found = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("no Chromium: apt-get install chromium")
    return found


def measure(chromium, folder, page, *, width, is_dark):
    frame = f'<iframe style="border:0;width:{width}px;height:20000px" srcdoc="{html.escape(page)}"></iframe>'
    script = f"<script>onload = () => {{ {MEASURE.replace('WIDTH', str(width))} }}</script>"
    around = folder / "around.html"
    around.write_text(f"<!doctype html><meta charset=utf-8><body style=margin:0>{frame}{script}", encoding="utf-8")
    command = [
        *(chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"),
        *(f"--blink-settings=preferredColorScheme={0 if is_dark else 1}", "--window-size=1400,1000", "--dump-dom"),
        around.as_uri(),
    ]
    dom = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    return json.loads(html.unescape(re.search(r'<pre id="measured">(.*?)</pre>', dom, re.DOTALL).group(1)))


@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [380, 1280])
def test_the_page_fits_and_can_be_read(chromium, tmp_path, content, width, is_dark):
    measured = measure(chromium, tmp_path, render_report(content), width=width, is_dark=is_dark)
    assert measured["width"] <= width
    assert measured["beyond"] == []
    assert measured["images"] == 0
    assert measured["contrast"] >= 4.5
    assert measured["smallest"] >= 11.5
    assert (measured["background"] == "rgb(20, 23, 26)") == is_dark
