"""Store an experiment's table under `tests/benchmarks/tables/`: its question and results as JSON, and the page made from them.

`python -m tests.benchmarks.tables NAME [NAME …]` copies finished experiments from the configured store. A test makes each
page again from its JSON, so no figure in it is typed by hand.
"""

import json
import sys
from pathlib import Path

from alchemist_core.experiments.stored import markdown_of
from alchemist_core.settings import load_settings
from alchemist_core.store.engine import open_store
from alchemist_core.store.experiments import find_experiment

FOLDER = Path(__file__).with_name("tables")
# The fields that a page needs, without the texts and images made from them.
LEFT_OUT = ("sheet", "rows")


def keep(name: str, folder: Path = FOLDER) -> Path:
    """Write NAME.json and NAME.md of a finished experiment, and return the page's path."""
    row = find_experiment(open_store(), name)
    if row.result is None or row.finished_at is None:
        raise SystemExit(f"experiment {name} is not finished: run it again, it goes on")
    kept = {"config": row.config, "result": {key: row.result[key] for key in row.result if key not in LEFT_OUT}}
    folder.mkdir(exist_ok=True)
    # The page does not show where the home was on the machine that measured.
    words = json.dumps(kept, sort_keys=True, ensure_ascii=False).replace(str(load_settings().home.resolve()), "HOME")
    (folder / f"{name}.json").write_text(f"{words}\n", encoding="utf-8")
    page = folder / f"{name}.md"
    page.write_text(page_of(folder / f"{name}.json"), encoding="utf-8")
    return page


def page_of(path: Path) -> str:
    """Make the page of a kept JSON."""
    kept = json.loads(path.read_text(encoding="utf-8"))
    return markdown_of(path.stem, kept["config"], kept["result"])


if __name__ == "__main__":
    for word in sys.argv[1:]:
        print(keep(word))
