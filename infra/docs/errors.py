"""Page of exit codes and errors: the error classes, and every message that the code can raise, read from its source."""

import ast
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import alchemist_core
from infra.docs.markdown import plain, table

PAGE = "reference/exit-codes.md"
CATALOGUE = "reference/errors.md"
ROOT = "AlchemistError"
PACKAGE = Path(alchemist_core.__file__).parent
HEAD = """# Exit codes

A command that fails prints one line, `error: …`, that says what is wrong, what is allowed and what to do, and ends with one of these codes.
Airflow does not try final codes again. [All messages](errors.md).

"""
ERRORS_HEAD = """# Error messages

Every message of an [error class](exit-codes.md), with `{…}` for the value that a message contains. Search this page for a few
words of the message that you have.
"""


class Kind(NamedTuple):
    """A class of errors."""

    exit_code: int
    is_retryable: bool
    text: str


class Message(NamedTuple):
    """A message: the class that carries it, the file that raises it, its text."""

    error: str
    file: str
    text: str


def render() -> dict[str, str]:
    """Return the pages by path."""
    trees = {
        str(path.relative_to(PACKAGE.parent)): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(PACKAGE.rglob("*.py"))
    }
    kinds = _error_classes(trees.values())
    names = sorted(kinds, key=lambda name: (kinds[name].exit_code, name))
    rows = [
        (kinds[name].exit_code, f"`{name}`", "yes" if kinds[name].is_retryable else "no", plain(kinds[name].text))
        for name in names
    ]
    codes = HEAD + table(("code", "error", "tried again", "meaning"), [(0, "", "", "The command succeeded."), *rows])
    by_error = defaultdict(list)
    for message in sorted({found for file, tree in trees.items() for found in _messages(file, tree, kinds)}):
        by_error[message.error].append((plain(message.text), f"`{message.file}`"))
    parts = [ERRORS_HEAD]
    for name in names:
        if name in by_error:
            parts += [
                f"## {name}\n",
                f"Exit code {kinds[name].exit_code}.\n",
                table(("message", "raised in"), by_error[name]),
            ]
    return {PAGE: codes, CATALOGUE: "\n".join(parts)}


def _error_classes(trees: Iterable[ast.Module]) -> dict[str, Kind]:
    """Return the subclasses of AlchemistError; what a class does not declare is its parent's."""
    nodes = {
        node.name: node
        for tree in trees
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name.endswith("Error") and node.name[0] != "_"
    }
    kinds = {ROOT: Kind(1, is_retryable=True, text=_first_line(nodes[ROOT]))}
    while added := {
        name: _kind(node, parent)
        for name, node in nodes.items()
        if name not in kinds and (parent := _parent(node, kinds))
    }:
        kinds |= added
    return kinds


def _parent(node: ast.ClassDef, kinds: Mapping[str, Kind]) -> Kind | None:
    return next((kinds[base.id] for base in node.bases if isinstance(base, ast.Name) and base.id in kinds), None)


def _kind(node: ast.ClassDef, parent: Kind) -> Kind:
    given = {
        target.id: one.value.value
        for one in node.body
        if isinstance(one, ast.Assign) and isinstance(one.value, ast.Constant)
        for target in one.targets
        if isinstance(target, ast.Name)
    }
    return Kind(
        given.get("exit_code", parent.exit_code), given.get("is_retryable", parent.is_retryable), _first_line(node)
    )


def _first_line(node: ast.ClassDef) -> str:
    return (ast.get_docstring(node) or "").partition("\n")[0]


def _messages(file: str, tree: ast.Module, names: Collection[str]) -> Iterator[Message]:
    texts, calls = {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            texts[node.targets[0].id] = node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names and node.args:
            calls.append(node)
    for call in calls:
        first = call.args[0]
        value = texts.get(first.id, first) if isinstance(first, ast.Name) else first
        if text := _text(value):
            yield Message(call.func.id, file, " ".join(text.split()))


def _text(node: ast.expr) -> str:
    """Return the text of a string, with … for what is put into it; empty if it is computed elsewhere."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else _name(part.value) for part in node.values]
        return "".join(map(str, parts))
    return ""


def _name(node: ast.expr) -> str:
    """Return a short name of what a message contains."""
    if isinstance(node, ast.Name):
        return f"{{{node.id}}}"
    if isinstance(node, ast.Attribute):
        return f"{{{node.attr}}}"
    return "{…}"
