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
    "sqlalchemy.orm", "sqlglot", "torch", "urllib3",
)  # fmt: skip
# Its tasks, and what each is the first to load: no task before it needs that.
TASKS_OF_A_NIGHT = {
    "note failure": "store.notifications",
    "night announce": "store.nights",
    "duplicates find": "store.samples",
    "maintain takedowns": "store.maintenance",
    "check": "store.subsets",
    "night publish": "store.ledger",
    "plan night": "store.datasets",
    "night check-drift": "quality.drift",
    "ingest": "stages.ingest",
    "score": "stages.score",
}
# Modules of other commands of the same groups.
NOT_OF_A_NIGHT = {
    "cli.approvals",
    "cli.estimates",
    "cli.held_nights",
    "local.airflow_client",
    "report.comparison",
    "training.config",
}


def loaded_by(statement: str) -> set[str]:
    """Return the modules that a statement loads in another process."""
    program = f"{statement}\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_a_task_of_a_night_loads_no_large_library_and_no_other_command_before_it_has_work() -> None:
    loaded = loaded_by(
        "import sys; from alchemist_core.cli.command_line import build_parser\n"
        f"for words, own in {TASKS_OF_A_NIGHT}.items():\n"
        "    assert f'alchemist_core.{own}' not in sys.modules, words\n"
        "    build_parser(words.split())\n"
        "    assert f'alchemist_core.{own}' in sys.modules, words"
    )
    assert loaded & {*LARGE, *(f"alchemist_core.{name}" for name in NOT_OF_A_NIGHT)} == set()
    assert "sqlalchemy" in loaded


@pytest.mark.slow
def test_a_check_loads_its_library_without_what_it_rarely_uses_and_leaves_that_usable() -> None:
    loaded = loaded_by(
        "from alchemist_core.quality.suites import Check\n"
        "from alchemist_core.quality.validation import validate\n"
        "check = Check('all_are_one', 'fail', 'own', 'ExpectColumnValuesToBeInSet', {'column': 'n', 'value_set': [1]})\n"
        "assert not validate({'n': [1, 2]}, [check])[0].is_success\n"
        "import sys; assert 'great_expectations' in sys.modules\n"
        "assert {'altair.vegalite', 'scipy.stats._stats_py'}.isdisjoint(sys.modules)\n"
        "from scipy.stats import norm; assert norm.cdf(0) == 0.5"
    )
    assert "scipy.stats._stats_py" in loaded


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


def test_the_program_freezes_what_it_has_loaded_and_a_caller_in_another_program_freezes_nothing() -> None:
    program = (
        "import gc, sys; from alchemist_core.__main__ import main\n"
        "main(['note', 'failure', '--json']); assert gc.isenabled() and not gc.get_freeze_count()\n"
        "sys.argv[1:] = ['note', 'failure']; main(); assert gc.isenabled(); print(gc.get_freeze_count())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 10_000


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


OPEN_FILES = """
import resource
from alchemist_core.compute_defaults import set_compute_defaults
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 1000))
set_compute_defaults()
print(resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_a_command_may_have_as_many_files_open_as_the_system_lets_it() -> None:
    done = subprocess.run([sys.executable, "-c", OPEN_FILES], capture_output=True, text=True, check=True)
    assert done.stdout == "(1000, 1000)\n"


REUSE = """
import resource
import numpy as np
from alchemist_core.compute_defaults import set_compute_defaults
set_compute_defaults()
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20): np.ones(1 << 20, np.uint8)
before = faults()
for _ in range(20): np.ones(1 << 20, np.uint8)
print(faults() - before)
"""


# 20 arrays have 5,120 pages of 4 KiB; each is too small for a page of 2 MiB.
@pytest.mark.parametrize(
    ("own", "least", "most"), [({}, 0, 500), ({"MALLOC_TRIM_THRESHOLD_": "131072"}, 2_500, 10_000)]
)
def test_a_command_keeps_freed_memory_unless_the_user_sets_glibc_up(own: dict[str, str], least: int, most: int) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")} | own
    done = subprocess.run([sys.executable, "-c", REUSE], capture_output=True, text=True, check=True, env=environment)
    assert least <= int(done.stdout) < most
