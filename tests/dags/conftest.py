"""The DAG files, imported by Airflow in an Airflow home of the tests."""

import importlib
import os
import sys
import warnings
from pathlib import Path

import pytest

from tests.conftest import folder_of_run
from tests.trained_store import copy_trained, corpus, scored_once, scored_store, trained_once, trained_store

__all__ = ["copy_trained", "corpus", "dag", "dags", "scored_once", "scored_store", "trained_once", "trained_store"]

DAGS = Path(__file__).resolve().parents[2] / "dags" / "alchemist_dags"
NAMES = ("build_subset", "crawl_arrived", "evaluate_subset", "maintenance", "nightly_rescore", "train_rater")


@pytest.hookimpl(trylast=True)
def pytest_configure() -> None:
    """Set Airflow's environment, which it reads once, when it is first imported; the folder of the run was made before."""
    os.environ["AIRFLOW_HOME"] = str(folder_of_run("airflow"))
    os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"


@pytest.fixture(scope="session")
def dags():
    """Each DAG by its name."""
    sys.path.insert(0, str(DAGS.parent))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Airflow's own, at its first import
        importlib.import_module("airflow.sdk")
    # The path stays on sys.path, because a pod's operator is imported only when it is used.
    return {name: getattr(importlib.import_module(f"alchemist_dags.{name}"), name)() for name in NAMES}


@pytest.fixture(params=NAMES)
def dag(request, dags):
    return dags[request.param]
