"""Importing the package changes nothing in the importing process; only the command line changes settings, in its own process."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from alchemist_core.compute_defaults import DEFAULTS

WATCH = """
import json, logging, os, signal, sys, threading, warnings


def state():
    return {
        "environment": dict(os.environ), "path": list(sys.path), "threads": threading.active_count(), "folder": os.getcwd(),
        "filters": list(map(str, warnings.filters)), "handlers": list(map(str, logging.root.handlers)), "level": logging.root.level,
        "loggers": {name: found.level for name, found in logging.root.manager.loggerDict.items() if hasattr(found, "level")
                    and (found.level or found.handlers)},
        "signals": {str(number): str(signal.getsignal(number)) for number in signal.valid_signals()}, "hook": str(sys.excepthook),
        "meta path": list(map(str, sys.meta_path)), "locale": __import__("locale").setlocale(0),
    }


before = state()
%s
after = state()
print(json.dumps({
    "changed": [name for name in before if before[name] != after[name]],
    "libraries": sorted({name.partition(".")[0] for name in sys.modules} & {"numpy", "torch", "sqlalchemy", "pyarrow", "airflow"}),
}))
"""
CONFIGS = (
    "training.config",
    "models.config",
    "rating.config",
    "selection.config",
    "stages.score",
    "stages.train_rater",
    "project",
    "presets",
)

# numpy adds warning filters and SQLAlchemy sets its logger's level; importing them alone does the same.
OF_LIBRARIES = {"filters", "loggers"}


def watch(statement: str) -> dict[str, list[str]]:
    """Run a statement in another process and return what it changed there, and which large libraries it loaded."""
    environment = {name: value for name, value in os.environ.items() if name not in DEFAULTS}
    command = [sys.executable, "-W", "ignore", "-c", WATCH % statement]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


def test_importing_the_package_loads_no_large_library_and_changes_nothing() -> None:
    assert watch("import alchemist_core") == {"changed": [], "libraries": []}


def test_importing_the_configs_changes_nothing_and_loads_no_torch() -> None:
    found = watch("\n".join(f"import alchemist_core.{name}" for name in CONFIGS))
    assert set(found["changed"]) <= OF_LIBRARIES
    assert "torch" not in found["libraries"]


# A task of a night that has nothing to do would take longer to load one of these than to run.
LARGE = (
    "PIL", "boto3", "great_expectations", "jaxtyping", "jinja2", "numpy", "pandas", "prometheus_client", "pyarrow", "rich", "scipy",
    "sqlglot", "torch", "urllib3",
)  # fmt: skip
COMMANDS_OF_A_NIGHT = ("check", "duplicates", "ingest", "maintain", "night", "note", "plan", "score")


def loaded_by(statement: str) -> set[str]:
    """Return the modules that a statement loads in another process."""
    program = f"{statement}\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_commands_of_a_night_load_no_large_library_before_they_have_work() -> None:
    loaded = loaded_by(
        "from alchemist_core.cli.command_line import build_parser\n"
        f"for verb in {COMMANDS_OF_A_NIGHT}: build_parser([verb])"
    )
    assert loaded & set(LARGE) == set()
    assert {"sqlalchemy", "alchemist_core.stages.score"} <= loaded


def test_help_and_version_load_no_config_model() -> None:
    loaded = loaded_by(
        "from alchemist_core.__main__ import main\n"
        "for word in ('--help', '--version'):\n"
        "    try: main([word])\n"
        "    except SystemExit as ended: assert ended.code == 0"
    )
    assert "alchemist_core.cli.parser" in loaded
    assert loaded & {"pydantic", "sqlalchemy", "alchemist_core.config", *LARGE} == set()


def test_numpy_and_pyarrow_are_loaded_at_their_first_use() -> None:
    program = (
        "import sys; from alchemist_core.lazy import np, pa, pq; assert not {'numpy', 'pyarrow'} & set(sys.modules)\n"
        "import numpy; assert np.float64 is numpy.float64 and np.array([1, 2]).sum() == 3\n"
        "assert 'pyarrow' not in sys.modules; assert pa.table({'a': [1]}).num_rows == 1 and pq.ParquetFile"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_command_line_sets_what_torch_reads_and_keeps_what_the_user_has_set() -> None:
    program = (
        "import os, sys; os.environ['OMP_NUM_THREADS'] = '3'; from alchemist_core.__main__ import main; "
        "main(['night', 'list', '--json']); print(os.environ['OMP_NUM_THREADS'], os.environ['CUBLAS_WORKSPACE_CONFIG'])"
    )
    environment = {name: value for name, value in os.environ.items() if name not in DEFAULTS}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3", DEFAULTS["CUBLAS_WORKSPACE_CONFIG"]]


@pytest.mark.parametrize("folder", ["alchemist_core", "dags", "infra", "tests"])
@pytest.mark.slow
def test_a_module_that_is_also_a_program_starts_it_after_its_last_definition(folder: str) -> None:
    # The supervisor once died at its first look: it was started above a function that it calls.
    late = [
        str(path)
        for path in (Path(__file__).parents[1] / folder).rglob("*.py")
        if any(ast.unparse(one).startswith("if __name__ ==") for one in ast.parse(path.read_text()).body[:-1])
    ]
    assert late == []
