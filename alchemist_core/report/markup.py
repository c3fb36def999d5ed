"""HTML by construction: whatever is not already `Html` is escaped, so no caption can become markup.

Knows nothing of reports.
"""

from html import escape

_VOID = {"meta", "img", "br"}


class Html(str):
    """Text that is markup already; only `element` and `join` make it."""

    __slots__ = ()


def element(tag: str, *children: object, **attributes: object) -> Html:
    """Return an element; a child or attribute that is None or False is left out, other text is escaped.

    Attribute names lose a trailing underscore, and inner underscores become dashes.

    >>> element("p", "a < b", class_="note")
    '<p class="note">a &lt; b</p>'
    """
    inner = join(*children)
    pairs = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{_clean(value)}"'
        for name, value in attributes.items()
        if value is not None and value is not False
    )
    return Html(f"<{tag}{pairs}>" if tag in _VOID else f"<{tag}{pairs}>{inner}</{tag}>")


def join(*children: object) -> Html:
    """Put children behind one another, escaped where they are not markup."""
    kept = (child for child in children if child is not None and child is not False)
    return Html("".join(child if isinstance(child, Html) else _clean(child) for child in kept))


def _clean(value: object) -> str:
    # A lone surrogate cannot be written to a file, and HTML knows no NUL.
    text = str(value).encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
    return escape(text, quote=True)
