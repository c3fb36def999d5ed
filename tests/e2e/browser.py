"""Headless Chromium through its debugging protocol: log in by a token, open a page, wait for a text, take a screenshot."""

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

# A loaded machine takes minutes.
START_TIMEOUT_S = 180.0
PAGE_TIMEOUT_S = 120.0
# Width and height in CSS pixels.
DESKTOP, PHONE = (1400, 1000), (390, 844)
# Functions for a script in a page: the contrast of an element's text with what is behind it, as WCAG 2.2 defines it.
CONTRAST = """
const luminance = colour => {
  const [r, g, b] = colour.match(/[\\d.]+/g).map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
  return .2126 * r + .7152 * g + .0722 * b;
};
const ground = element => {
  for (; element; element = element.parentElement) {
    const colour = getComputedStyle(element).backgroundColor;
    if (!colour.startsWith("rgba(0, 0, 0, 0")) return colour;
  }
  return "rgb(255, 255, 255)";
};
const contrast = element => {
  const [low, high] = [luminance(getComputedStyle(element).color), luminance(ground(element))].sort((a, b) => a - b);
  return (high + .05) / (low + .05);
};
"""


def find_chromium() -> str | None:
    """Return the program's path."""
    return shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")


needs_chromium = pytest.mark.skipif(find_chromium() is None, reason="no Chromium: apt-get install chromium")


class Browser:
    """One tab of a new Chromium."""

    def __init__(self, folder: Path, *, width: int = 1400, height: int = 1800) -> None:
        program = find_chromium()
        if program is None:
            pytest.skip("no Chromium: apt-get install chromium")
        self._websocket = pytest.importorskip("websocket")
        command = [
            program, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            # Any free port: one that was free a moment ago may be taken.
            "--remote-debugging-port=0", "--remote-allow-origins=*",
            f"--user-data-dir={folder}", f"--window-size={width},{height}", "about:blank",
        ]  # fmt: skip
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._tab = self._websocket.create_connection(self._address(folder), timeout=PAGE_TIMEOUT_S)
        self._n_calls = 0

    def __enter__(self) -> "Browser":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tab.close()
        self._process.terminate()
        self._process.wait()

    def leave(self, script: str) -> str:
        """Run a script that leads to another page, wait until that page is complete, and return its text."""
        self.evaluate("window.isLeft = true")
        self.evaluate(script)
        self.until("!window.isLeft && document.readyState === 'complete'")
        return self.text()

    def go(self, url: str) -> str:
        """Open an address, wait until the page and its pictures are complete, and return its text."""
        self.evaluate("window.isLeft = true")
        self.call("Page.navigate", url=url)
        self.until("!window.isLeft && document.readyState === 'complete'")
        return self.text()

    def until(self, script: str) -> Any:
        """Return what a script returns, once that is true. It may run while a page is left."""
        deadline = time.monotonic() + PAGE_TIMEOUT_S
        while time.monotonic() < deadline:
            with suppress(AssertionError):
                if found := self.evaluate(script):
                    return found
            time.sleep(0.05)
        raise AssertionError(f"never true: {script}; the page showed: {self.text()[:500]}")

    def press(self, key: str, *, code: int = 0, text: str = "") -> None:
        """Press a key of the keyboard: its name, for keys without a sign its code, and the sign that it types."""
        sign = text or (key if len(key) == 1 else "")
        named = {"text": sign} if sign else {}
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code or ord(key[0].upper()), **named
            )

    def log_in(self, url: str, token: str) -> None:
        """Give the page the token that its own login would have left."""
        self.call("Network.setCookie", name="_token", value=token, url=url)

    def open(self, url: str, *, until: str) -> str:
        """Open an address and return the page's text once it holds these words."""
        self.call("Page.navigate", url=url)
        return self.wait_for(until)

    def click(self, label: str, *, until: str) -> str:
        """Press the button of this name and return the page's text once it holds these words."""
        find = f"[...document.querySelectorAll('button, a')].find(one => one.innerText.trim().startsWith({json.dumps(label)}))"
        # A section of the form unfolds only if it has the focus, as it has by a mouse.
        self.evaluate(f"(one => {{ one.focus(); one.click() }})({find})")
        return self.wait_for(until)

    def type(self, field: str, text: str) -> str:
        """Type into a field of Airflow's form key by key, as a person does, and return what the field shows then."""
        find = f"document.querySelector('[name=\"element_{field}\"]')"
        self.evaluate(f"(one => {{ one.focus(); one.select() }})({find})")
        for key in ("Backspace", *text, "Tab"):
            named = {"key": key} if len(key) > 1 else {"key": key, "text": key}
            code = {"Backspace": 8, "Tab": 9}.get(key, 0)
            self.call("Input.dispatchKeyEvent", type="keyDown", windowsVirtualKeyCode=code, **named)
            self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)
        time.sleep(0.5)  # What the form does when the field is left.
        return str(self.evaluate(f"{find}.value"))

    def press_last(self, label: str) -> None:
        """Press the last button of this name, and wait for the server's answer."""
        self.evaluate(
            f"[...document.querySelectorAll('button')].filter(one => one.innerText.trim() == {json.dumps(label)}).pop().click()"
        )
        time.sleep(4.0)

    def text(self) -> str:
        """Return the page's text."""
        return str(self.evaluate("document.body.innerText"))

    def wait_for(self, words: str) -> str:
        """Return the page's text once it holds these words."""
        deadline, text = time.monotonic() + PAGE_TIMEOUT_S, ""
        while time.monotonic() < deadline:
            text = str(self.evaluate("document.body ? document.body.innerText : ''") or "")
            if words in text:
                time.sleep(2.0)  # Rendered after the text: fonts, the graph.
                return str(self.evaluate("document.body.innerText"))
            time.sleep(0.3)
        raise AssertionError(f"the page never showed {words!r}; it showed: {text[:500]}")

    def evaluate(self, script: str) -> Any:
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def resize(self, width: int, height: int) -> None:
        """Show the page as a window of this size would, a narrow one as a phone."""
        is_phone = width <= PHONE[0]
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=is_phone
        )
        time.sleep(1.0)  # What moves when the width changes: drawers, the graph.

    def shows(self, label: str) -> bool:
        """Return whether a button or label of this name is within the window's width, because a page may cut it off."""
        named = f"[...document.querySelectorAll('button, label')].filter(one => one.innerText.trim().startsWith({json.dumps(label)}))"
        inside = (
            "(box => box.width > 0 && box.left >= 0 && box.right <= window.innerWidth)(one.getBoundingClientRect())"
        )
        return bool(self.evaluate(f"{named}.some(one => {inside})"))

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """Write a picture of the window, or of the whole page."""
        path.parent.mkdir(parents=True, exist_ok=True)
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._n_calls += 1
        self._tab.send(json.dumps({"id": self._n_calls, "method": method, "params": params}))
        while True:
            answer = json.loads(self._tab.recv())
            if answer.get("id") == self._n_calls:
                assert "error" not in answer, answer
                found: dict[str, Any] = answer["result"]
                return found

    def _address(self, folder: Path) -> str:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                # Chromium writes there which port it got.
                port = (folder / "DevToolsActivePort").read_text().split()[0]
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=5) as answer:
                    tabs = [tab for tab in json.load(answer) if tab["type"] == "page"]
                    if tabs:
                        return str(tabs[0]["webSocketDebuggerUrl"])
            except (OSError, IndexError):
                pass
            assert self._process.poll() is None, "Chromium ended"
            assert time.monotonic() < deadline, "Chromium did not start"
            time.sleep(0.2)
