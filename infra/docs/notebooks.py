"""Notebooks: their pages of the documentation, and a small executor that needs no Jupyter.

The executor runs the code cells of a notebook in one namespace, in their order, and keeps what each prints and the value of its last
expression, in the forms that Jupyter shows: HTML, a picture, or text.
"""

import ast
import base64
import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parents[2]
NOTEBOOKS = CHECKOUT / "docs" / "notebooks"
DOWNLOAD = "\n\n[Download this notebook]({name}.ipynb){{ .md-button }}\n"


def read(path: Path) -> dict[str, Any]:
    """Return a notebook."""
    notebook: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return notebook


def write(path: Path, notebook: dict[str, Any]) -> None:
    """Write a notebook in the form in which it is kept."""
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def execute(notebook: dict[str, Any], replaced: dict[str, str] | None = None) -> dict[str, Any]:
    """Run the code cells and return the notebook with what they show.

    Args:
        notebook: As `read` returns it.
        replaced: Texts of the code that are replaced before it runs, such as the name of a dataset.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    cells, n_run = [], 0
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            cells.append(cell)
            continue
        source = "".join(cell["source"])
        for former, present in (replaced or {}).items():
            source = source.replace(former, present)
        n_run += 1
        cells.append({**cell, "execution_count": n_run, "outputs": list(_run(source, names, n_run))})
    return {**notebook, "cells": cells}


def _run(source: str, names: dict[str, Any], number: int) -> Iterator[dict[str, Any]]:
    tree, file = ast.parse(source), f"<cell {number}>"
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, file, "exec"), names)  # noqa: S102  the notebooks of this repository
        if last is not None:
            value = eval(compile(ast.Expression(last.value), file, "eval"), names)  # noqa: S307  as above
    if printed.getvalue():
        yield {"output_type": "stream", "name": "stdout", "text": printed.getvalue().splitlines(keepends=True)}
    if value is not None:
        yield {"output_type": "execute_result", "metadata": {}, "data": _shown(value), "execution_count": number}


def _shown(value: Any) -> dict[str, Any]:
    data: dict[str, Any] = {"text/plain": repr(value).splitlines(keepends=True)}
    if hasattr(value, "_repr_png_") and (picture := value._repr_png_()):
        data["image/png"] = base64.b64encode(picture).decode()
    elif hasattr(value, "_repr_html_") and (html := value._repr_html_()):
        data["text/html"] = html.splitlines(keepends=True)
    return data


def render() -> dict[str, str]:
    """Return each notebook as a page, by path."""
    return {f"notebooks/{path.stem}.md": page(path) for path in sorted(NOTEBOOKS.glob("*.ipynb"))}


def page(path: Path) -> str:
    """Return a notebook as Markdown: its texts, its code, and what its cells showed when it was last executed."""
    parts = []
    for cell in read(path)["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            # Links between notebooks lead to their pages.
            parts.append(source.replace(".ipynb)", ".md)"))
        else:
            parts.append(f"```python\n{source}\n```")
            parts += [_output(output) for output in cell["outputs"]]
    parts.append(DOWNLOAD.format(name=path.stem))
    return "\n\n".join(parts)


def _output(output: dict[str, Any]) -> str:
    if output["output_type"] == "stream":
        return f"```text\n{''.join(output['text']).rstrip()}\n```"
    data = output["data"]
    if "image/png" in data:
        return f'<img alt="Output of the cell" src="data:image/png;base64,{data["image/png"]}">'
    if "text/html" in data:
        # Without blank lines, at which Markdown would end the block.
        lines = [line for line in "".join(data["text/html"]).splitlines() if line.strip()]
        # A wide table scrolls within the page of a phone; the theme does this for tables without a class alone.
        return '<div class="notebook-output" style="overflow-x: auto">\n' + "\n".join(lines) + "\n</div>"
    return f"```text\n{''.join(data['text/plain']).rstrip()}\n```"
