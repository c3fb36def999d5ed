"""VARIABLES.md lists every environment variable that the settings, the DAGs, the deployment files or the code read."""

import importlib.util
import re
import sys
from pathlib import Path

from alchemist_core.settings import FILE_VARIABLES, Settings

CHECKOUT = Path(__file__).parents[2]
PAGE = CHECKOUT / "infra" / "VARIABLES.md"
NAME = re.compile(r"\bALCHEMIST_[A-Z0-9_]*[A-Z0-9]\b")
# Set by Alchemist itself for the processes that it starts: no user sets them.
INTERNAL = {"ALCHEMIST_STACK", "ALCHEMIST_VERIFIERS"}
# The DAGs, or trainings, refuse these, with what replaced them.
REMOVED = {"ALCHEMIST_TRAIN_WEEKLY", "ALCHEMIST_EVALUATE", "ALCHEMIST_LAUNCH"}


def listed() -> set[str]:
    return set(re.findall(r"^\| `(ALCHEMIST_\w+)`", PAGE.read_text(encoding="utf-8"), re.MULTILINE))


def named_in(folder: str) -> set[str]:
    files = [path for path in (CHECKOUT / folder).rglob("*") if path.is_file() and path.suffix != ".pyc"]
    return {name for path in files if path != PAGE for name in NAME.findall(path.read_text(encoding="utf-8"))}


def test_the_page_lists_every_setting() -> None:
    assert {f"ALCHEMIST_{name.upper()}" for name in Settings.model_fields} <= listed()


def test_the_page_lists_every_variable_that_dags_deployment_or_code_name() -> None:
    named = named_in("dags") | named_in("infra") | named_in("alchemist_core")
    assert len(named) > 30
    assert named - INTERNAL - REMOVED <= listed()


def test_every_listed_variable_is_named_by_some_code() -> None:
    settings = {f"ALCHEMIST_{name.upper()}" for name in Settings.model_fields}
    assert listed() <= settings | FILE_VARIABLES.keys() | named_in("dags") | named_in("alchemist_core")


def test_the_page_is_current() -> None:
    spec = importlib.util.spec_from_file_location("variables", CHECKOUT / "infra" / "variables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["variables"] = module
    spec.loader.exec_module(module)
    assert PAGE.read_text(encoding="utf-8") == module.render()
