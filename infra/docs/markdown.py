"""Markdown of the documentation: tables, anchors, and links between files of the repository and pages of the site."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath

# [text](target), but not ![image](target); a target with spaces is not a link.
LINK = re.compile(r"(?<!!)\[(?P<text>(?:[^\[\]]|\[[^\[\]]*\])*)\]\((?P<target>[^()\s]+)\)")
IMAGE = re.compile(r"!\[[^\]]*\]\((?P<target>[^()\s]+)\)")
FENCE = re.compile(r"^(?P<indent> *)(?P<mark>```+|~~~+).*?^(?P=indent)(?P=mark)[ \t]*$", re.MULTILINE | re.DOTALL)
# A link, or code, in which nothing is a link.
LINK_OR_CODE = re.compile(rf"{LINK.pattern}|(?P<mark>`+)(?:(?!`).)+?(?P=mark)")
HEADING = re.compile(r"^(?P<level>#{1,6}) +(?P<text>.+?)(?: +\{ *#(?P<id>[\w-]+) *\})?$", re.MULTILINE)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)


def cell(text: object) -> str:
    r"""Return text for one cell of a table.

    >>> cell("a | b")
    'a \\| b'
    """
    return " ".join(str(text).split()).replace("|", "\\|")


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(cell, line)) + " |" for line in lines) + "\n"


def plain(text: str) -> str:
    """Return text in which nothing is HTML, outside of code.

    >>> plain("w < h in `a < b`")
    'w &lt; h in `a < b`'
    """
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;") for part in parts)


def without_blocks(text: str) -> str:
    """Return Markdown without blocks of code and comments, in which nothing is a link or a heading."""
    return COMMENT.sub("", FENCE.sub("", text))


def slug(heading: str) -> str:
    """Return the anchor of a heading, as the extension `toc` of Python-Markdown makes it.

    >>> slug("What a user of *Airflow* can: `db`")
    'what-a-user-of-airflow-can-db'
    """
    text = LINK.sub(lambda found: found["text"], heading)
    text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", text.replace("*", "")).strip().lower())


def anchors(text: str) -> set[str]:
    r"""Return the anchors of a page: its headings, a repeated one with a number, and anchors in HTML.

    >>> sorted(anchors("# A b\n## A b\n## C { #own }"))
    ['a-b', 'a-b_1', 'own']
    """
    found: set[str] = set(re.findall(r'<a id="([\w-]+)"', text))
    for heading in HEADING.finditer(without_blocks(text)):
        name = heading["id"] or slug(heading["text"])
        number = next(n for n in range(len(found) + 1) if (f"{name}_{n}" if n else name) not in found)
        found.add(f"{name}_{number}" if number else name)
    return found


def is_outside(target: str) -> bool:
    """Return whether a link leads to another site or to an address for letters."""
    return bool(re.match(r"[a-z][a-z0-9+.-]*:", target))


def resolve(page: str, target: str) -> str:
    """Return the path that a relative link on a page names, without its anchor.

    >>> resolve("infra/README.md", "../sql/README.md#x")
    'sql/README.md'
    """
    path = target.partition("#")[0]
    if not path:
        return page
    parts: list[str] = []
    for part in (PurePosixPath(page).parent / path).parts:
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


def relative(page: str, other: str) -> str:
    """Return the link from one page to another.

    >>> relative("how-to/a.md", "reference/b.md"), relative("how-to/a.md", "how-to/b.md")
    ('../reference/b.md', 'b.md')
    """
    here, there = PurePosixPath(page).parent.parts, PurePosixPath(other).parts
    n = next(
        (i for i, (a, b) in enumerate(zip(here, there[:-1], strict=False)) if a != b), min(len(here), len(there) - 1)
    )
    return "/".join([".."] * (len(here) - n) + list(there[n:]))


def move(text: str, source: str, page: str, pages: Mapping[str, str]) -> str:
    """Return a file of the repository as a page of the site: links to other pages lead there, other links become the path of the file.

    Args:
        text: The file.
        source: Its path in the repository.
        page: Its path on the site.
        pages: The page of each file of the repository that is one.
    """

    def replace(found: re.Match[str]) -> str:
        target = found["target"]
        if target is None or is_outside(target) or target.startswith("#"):
            return found[0]
        path, anchor = resolve(source, target), target.partition("#")[2]
        if path in pages:
            return f"[{found['text']}]({relative(page, pages[path])}{'#' + anchor if anchor else ''})"
        shown = found["text"].strip("`")
        return f"{found['text']} (`{path}`)" if PurePosixPath(path).name != PurePosixPath(shown).name else f"`{path}`"

    return _outside_code(text, lambda part: LINK_OR_CODE.sub(replace, part))


def _outside_code(text: str, change: Callable[[str], str]) -> str:
    parts, at = [], 0
    for found in FENCE.finditer(text):
        parts += [change(text[at : found.start()]), found[0]]
        at = found.end()
    return "".join([*parts, change(text[at:])])


def dead_links(pages: Mapping[str, str], files: Iterable[str] = ()) -> Iterator[str]:
    """Yield each link of the pages that leads to no page, no file or no anchor.

    Args:
        pages: The text of each page by its path.
        files: Other files to which pages may link, such as images.
    """
    known, anchors_of = {*pages, *files}, {path: anchors(text) for path, text in pages.items()}
    for page, text in pages.items():
        shown = without_blocks(text)
        for found in (*LINK_OR_CODE.finditer(shown), *IMAGE.finditer(shown)):
            target = found["target"]
            if target is None or is_outside(target):
                continue
            path, anchor = resolve(page, target), target.partition("#")[2]
            if path not in known:
                yield f"{page}: {target} is not a page"
            elif anchor and path in anchors_of and anchor not in anchors_of[path]:
                yield f"{page}: {target} has no such heading"
