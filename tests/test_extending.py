"""Each example of "to add" in the core's README applies to the present code, and what it adds is usable everywhere at once."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "alchemist_core" / "README.md").read_text()
DIFFS = re.findall(r"```diff\n(.*?)```", README, flags=re.DOTALL)
USES = {
    "rating/rules.py": """
import torch
from alchemist_core.cli.forms import build_forms
from alchemist_core.experiments.arms import RATERS
from alchemist_core.rating.rules import sample_cost
from alchemist_core.selection.config import SelectionPolicy
from alchemist_core.training.config import RaterTrainingConfig

rule = RaterTrainingConfig(rule="ratio").rule
assert sample_cost(rule, torch.tensor([2.0, 3.0]), torch.tensor([4.0, 2.0])).tolist() == [0.5, 1.5]
assert SelectionPolicy().resolve("ratio").name == "head_gsample"
assert "ratio" in build_forms()["train_rater"]["rule"]["enum"]
assert {"ratio", "ratio+group"} <= RATERS.keys()
""",
    "selection/strategies.py": """
import numpy as np
from alchemist_core.cli.forms import build_forms
from alchemist_core.selection.config import SelectionPolicy, strategy_spec

strategy = SelectionPolicy(strategy="bottom_k").resolve("alignment")
assert np.argmax(strategy.log_density(np.array([0.1, 0.9, 0.5]))) == 1
assert strategy_spec(strategy) == {"strategy": "bottom_k"}
assert "bottom_k" in build_forms()["build_subset"]["strategy"]["enum"]
""",
    "cli/forms.py": """
from alchemist_core.cli.forms import build_forms

assert build_forms()["build_subset"]["p_rank"]["enum"] == [None, "per-draw", "inclusion"]
""",
}


@pytest.mark.slow
def test_each_example_of_the_readme_adds_what_it_says(tmp_path: Path) -> None:
    for folder in ("alchemist_core", "infra", "sql", "dags"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    program = [f"import sys; sys.path.insert(0, {str(tmp_path)!r})"]
    for number, diff in enumerate(DIFFS):
        (tmp_path / f"{number}.diff").write_text(diff)
        # Each applies by itself; then all do, so that one process tries them.
        subprocess.run(["git", "apply", "--check", f"{number}.diff"], check=True, cwd=tmp_path)
    for number, diff in enumerate(DIFFS):
        (changed,) = (name for name in USES if f"+++ b/alchemist_core/{name}" in diff)
        subprocess.run(["git", "apply", f"{number}.diff"], check=True, cwd=tmp_path)
        program.append(USES[changed])
    subprocess.run([sys.executable, "-c", "\n".join(program)], check=True, cwd=tmp_path)


def test_every_example_is_used() -> None:
    assert len(DIFFS) == len(USES)
