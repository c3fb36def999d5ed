"""Spelling and style of the documentation that is written by hand: `make test-docs`, or `python -m tests.prose`.

codespell finds misspellings, proselint bad style, and the rules below what our own language excludes. Code is left out.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from infra.docs.markdown import without_blocks

CHECKOUT = Path(__file__).parents[1]
PAGES = sorted(CHECKOUT.glob("docs/**/*.md")) + [
    CHECKOUT / name for name in ("README.md", "CONTRIBUTING.md", "CODE_OF_CONDUCT.md", "SECURITY.md")
]
RULES = {
    r"\b(whoever|nobody|nought|of old|set aside|put away)\b": "Name who acts.",
    r"\b(lookalikes?|fingerprints? of (a )?pictures?)\b": "near-duplicate, perceptual hash",
    r"\b(pair|pairs) known to be good\b": "oracle",
    r"\b(certificate|health certificate)\b": "acceptance report",
    r"\bis no (?!longer\b|gain\b|reason\b|rater\b)": "Write: is not a …",
    r"\d %": "No space before %.",
    r"(?<![\w.,])\.\d": "A number begins with its zero.",
    r"\b(simply|obviously|easily|of course)\b": "Leave it out.",
}
LONGEST_SENTENCE = 55
# Pages that must name former words, or that quote them.
LEFT_OUT = {"docs/how-to/upgrade.md"}
# Advice on typography, which Markdown or tables make impossible, and on names of days in names of folders.
SWITCHED_OFF = ("typography", "lexical_illusions", "misc.capitalization", "misc.phrasal_adjectives", "hyperbole")


def main() -> int:
    """Print every finding; returns 1 if there is one."""
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder)
        texts = {str(path.relative_to(CHECKOUT)): readable(path) for path in PAGES}
        for name, text in texts.items():
            (plain / name).parent.mkdir(parents=True, exist_ok=True)
            (plain / name).write_text(text, encoding="utf-8")
        config = plain / "proselint.json"
        config.write_text(json.dumps({"max_errors": 1000, "checks": dict.fromkeys(SWITCHED_OFF, False)}))
        names = sorted(texts)
        found = [
            *program(["codespell", *names], plain),
            *program(["proselint", "--config", str(config), "check", *names], plain),
            *(finding for name, text in texts.items() if name not in LEFT_OUT for finding in style(name, text)),
        ]
    found = [line for line in found if not any(f" {check}" in line for check in SWITCHED_OFF)]
    print("\n".join([*found, f"{len(texts)} pages, {len(found)} findings"]))
    return int(bool(found))


def readable(path: Path) -> str:
    """Return a page without code, addresses and lines of tables that hold numbers only; line numbers are kept."""
    text = path.read_text(encoding="utf-8")
    kept = re.sub(
        r"^```.*?^```$|^    .*?$", lambda found: "\n" * found[0].count("\n"), text, flags=re.MULTILINE | re.DOTALL
    )
    kept = re.sub(r"`[^`\n]*`", "CODE", kept)
    return re.sub(r"\]\([^)]*\)", "]", kept)


def program(command: list[str], folder: Path) -> list[str]:
    """Return the findings that a program prints.

    Raises:
        RuntimeError: The program failed without a finding, for example because it is not installed completely.
    """
    done = subprocess.run(
        [Path(sys.executable).parent / command[0], *command[1:]],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = (line.replace(f"{folder.resolve()}/", "").replace(f"{folder}/", "") for line in done.stdout.splitlines())
    # Findings of several lines: the first one names the page.
    found = [line for line in lines if re.match(r"[\w./-]+\.md:", line)]
    if done.returncode != 0 and not found:
        raise RuntimeError(f"{command[0]} ended with exit code {done.returncode}:\n{done.stderr or done.stdout}")
    return found


def style(name: str, text: str) -> Iterator[str]:
    """Yield what our own rules refuse."""
    for number, line in enumerate(text.splitlines(), 1):
        for pattern, advice in RULES.items():
            for found in re.finditer(pattern, line, re.IGNORECASE):
                yield f"{name}:{number}: {found[0]!r}: {advice}"
    for paragraph in re.split(r"\n\s*\n|^[|#*-].*$", without_blocks(text), flags=re.MULTILINE):
        for sentence in re.split(r"(?<=[.!?:;])\s", paragraph):
            if len(sentence.split()) > LONGEST_SENTENCE:
                yield f"{name}: a sentence of {len(sentence.split())} words: {' '.join(sentence.split()[:8])} …"


if __name__ == "__main__":
    sys.exit(main())
