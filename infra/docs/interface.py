"""Page of the Python interface: classes with their methods, read from the source, so that neither torch nor a network is imported."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import alchemist_core
from infra.docs.markdown import plain

PAGE = "reference/python.md"
PACKAGE = Path(alchemist_core.__file__).parent
HEAD = """# Python interface

`Store` and `SubsetDataset` are imported from `alchemist_core`; `Scorer` and `Metric` are what a scorer or a metric of your own implements
([a scorer](../contributing/packages/scorers.md), [a metric](../contributing/packages/metrics.md)). Errors are those of the [exit
codes](exit-codes.md).
"""
CLASSES = (
    ("from alchemist_core import Store", "interface.py", "Store"),
    ("from alchemist_core import SubsetDataset", "subsets/dataset.py", "SubsetDataset"),
    ("from alchemist_core.scorers import Scorer", "scorers/scorer.py", "Scorer"),
    ("from alchemist_core.scorers import Batch", "scorers/scorer.py", "Batch"),
    ("from alchemist_core.metrics.metric import Metric", "metrics/metric.py", "Metric"),
    ("from alchemist_core.metrics.metric import Bench", "metrics/metric.py", "Bench"),
)
"""How a class is imported, the file that declares it, and its name."""
SECTION = re.compile(r"^(Args|Raises|Returns|Yields):$", re.MULTILINE)


def render() -> dict[str, str]:
    """Return the page by its path."""
    return {PAGE: "\n".join([HEAD, *(part for one in CLASSES for part in _class(*one))])}


def _class(line: str, file: str, name: str) -> Iterator[str]:
    tree = ast.parse((PACKAGE / file).read_text(encoding="utf-8"))
    node = next(one for one in tree.body if isinstance(one, ast.ClassDef) and one.name == name)
    yield f"## {name}\n"
    yield f"```python\n{line}\n```\n"
    yield _docstring(node)
    if attributes := list(_attributes(node)):
        yield "\n".join(attributes) + "\n"
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and (
            not method.name.startswith("_") or method.name in ("__init__", "__len__")
        ):
            if method.name == "__init__" and len(method.args.args) + len(method.args.kwonlyargs) == 1:
                continue
            shown = name if method.name == "__init__" else f"{name}.{method.name}"
            if method.name != "__init__":
                yield f"### {shown}\n"
            yield f"```python\n{_signature(method, shown)}\n```\n"
            yield _docstring(method)


def _signature(method: ast.FunctionDef, shown: str) -> str:
    if any(isinstance(mark, ast.Name) and mark.id == "property" for mark in method.decorator_list):
        return f"{shown}: {ast.unparse(method.returns)}" if method.returns else shown
    arguments = ast.arguments(
        posonlyargs=[], args=method.args.args[1:], vararg=method.args.vararg, kwonlyargs=method.args.kwonlyargs,
        kw_defaults=method.args.kw_defaults, kwarg=method.args.kwarg, defaults=method.args.defaults,
    )  # fmt: skip
    result = f" -> {ast.unparse(method.returns)}" if method.returns and not shown[0].islower() and "." in shown else ""
    return f"{shown}({ast.unparse(arguments)}){result}"


def _attributes(node: ast.ClassDef) -> Iterator[str]:
    """Yield each attribute that has a docstring below it."""
    for one, after in zip(node.body, node.body[1:], strict=False):
        if isinstance(one, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            default = f" = {ast.unparse(one.value)}" if one.value is not None else ""
            text = " ".join(str(after.value.value).split())
            yield f"- `{ast.unparse(one.target)}: {ast.unparse(one.annotation)}{default}`: {plain(text)}"


def _docstring(node: ast.ClassDef | ast.FunctionDef) -> str:
    """Return a docstring in Google's form as Markdown."""
    text = ast.get_docstring(node) or ""
    parts = SECTION.split(text)
    lines = [plain(parts[0].strip()) + "\n"] if parts[0].strip() else []
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        lines.append(f"*{ {'Args': 'Arguments', 'Raises': 'Errors'}.get(title, title) }*\n")
        items = re.split(r"^ {4}(?=\S)", body.strip("\n"), flags=re.MULTILINE)
        for item in filter(None, map(str.strip, items)):
            word, _, about = " ".join(item.split()).partition(": ")
            lines.append(f"- `{word}`: {plain(about)}")
        lines.append("")
    return "\n".join(lines)
