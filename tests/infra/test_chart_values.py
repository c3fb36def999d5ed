"""The values for Airflow's Helm chart, key by key. The tests cannot download the chart or its schema.

Instead they list the parameters that we set, with their types from the chart's "Parameters reference"
(airflow.apache.org/docs/helm-chart, release 1.22.0). This finds mistyped keys, which Helm silently ignores.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

VALUES = Path(__file__).resolve().parents[2] / "infra" / "chart" / "values.yaml"
DOCUMENTED: dict[str, type] = {
    "executor": str,
    "airflowVersion": str,
    "defaultAirflowRepository": str,
    "defaultAirflowTag": str,
    "uid": int,
    "gid": int,
    "fernetKeySecretName": str,
    "apiSecretKeySecretName": str,
    "jwtSecretName": str,
    "data.metadataSecretName": str,
    "postgresql.enabled": bool,
    "statsd.enabled": bool,
    "createUserJob.enabled": bool,
    "scheduler.replicas": int,
    **dict.fromkeys(
        [
            "scheduler.resources",
            "workers.kubernetes.resources",
            "workers.celery.resources",
            "apiServer.resources",
            "dagProcessor.resources",
            "triggerer.resources",
        ],
        dict,
    ),
    "env": list,
    # A template: text that becomes a list.
    "extraEnvFrom": str,
    "volumes": list,
    "volumeMounts": list,
}
# Sections of airflow.cfg, which Airflow's own configuration documents.
FREE = "config"
# From "Upgrading the Helm Chart to Airflow 3": the first release that supports it.
FIRST_FOR_AIRFLOW_3 = (1, 19, 0)


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(VALUES.read_text())
    return found


def settings(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each parameter by its path; a list is one, and so are the resources of a container."""
    for name, value in values.items():
        if isinstance(value, dict) and name != "resources":
            yield from settings(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def mistakes(values: dict[str, Any]) -> list[str]:
    """Values that the chart would ignore or misread."""
    given = settings({name: value for name, value in values.items() if name != FREE})
    return [name for name, value in given if not isinstance(value, DOCUMENTED.get(name, ()))]


def test_every_value_is_a_documented_parameter_of_its_type(values: dict[str, Any]) -> None:
    assert mistakes(values) == []
    assert {name for name, _ in settings(values) if not name.startswith(f"{FREE}.")} == DOCUMENTED.keys()


@pytest.mark.parametrize(
    "wrong", [{"fernetKeySecret": "x"}, {"scheduler": {"replica": 2}}, {"scheduler": {"replicas": "2"}}], ids=str
)
def test_a_mistyped_key_or_value_is_found(values: dict[str, Any], wrong: dict[str, Any]) -> None:
    assert len(mistakes({**values, **wrong})) == 1


def test_every_airflow_setting_is_an_existing_option(values: dict[str, Any]) -> None:
    configuration = pytest.importorskip("airflow.configuration")
    description = configuration.retrieve_configuration_description(include_providers=True)
    known = {(section, option) for section, told in description.items() for option in told["options"]}
    given = {(section, option) for section, told in values[FREE].items() for option in told}
    assert given - known == set()


def test_values_that_airflow_reads_are_text(values: dict[str, Any]) -> None:
    """YAML's true would be written as `true`, which some options take for text."""
    assert all(isinstance(value, str | int) and not isinstance(value, bool) for _, value in settings(values[FREE]))


def test_the_chart_is_fit_for_our_airflow(values: dict[str, Any]) -> None:
    pinned = re.search(r"--version (\d+)\.(\d+)\.(\d+)", VALUES.read_text())
    assert pinned is not None
    assert tuple(map(int, pinned.groups())) >= FIRST_FOR_AIRFLOW_3
    constraints = (VALUES.parents[2] / "constraints.txt").read_text()
    assert f"apache-airflow=={values['airflowVersion']}\n" in constraints


def test_the_chart_creates_no_account_with_a_known_password(values: dict[str, Any]) -> None:
    """Its default is the administrator admin with the password admin."""
    assert values["createUserJob"] == {"enabled": False}


def test_each_part_of_the_chart_has_the_resources_of_our_own_manifests(values: dict[str, Any]) -> None:
    """Without, the LimitRange gives 1 GiB. Light tasks run in the scheduler there, and in the worker here."""
    own = {
        container["name"]: container["resources"]
        for part in yaml.safe_load_all((VALUES.parents[1] / "kubernetes" / "airflow.yaml").read_text())
        if part["kind"] == "Deployment"
        for container in part["spec"]["template"]["spec"]["containers"]
    }
    assert {name: values[name]["resources"] for name in ("apiServer", "scheduler", "dagProcessor", "triggerer")} == {
        "apiServer": own["api"],
        "scheduler": own["scheduler"],
        "dagProcessor": own["dag-processor"],
        "triggerer": own["triggerer"],
    }
    assert [values["workers"][kind]["resources"] for kind in ("kubernetes", "celery")] == [own["scheduler"]] * 2


def test_files_and_secrets_that_the_values_name_are_documented(values: dict[str, Any]) -> None:
    told = (VALUES.parents[1] / "README.md").read_text()
    named = {value for name, value in settings(values) if name.endswith("SecretName")}
    assert {name for name in named if name not in told} == set()
    mounted, declared = ({one["name"] for one in values[key]} for key in ("volumeMounts", "volumes"))
    assert mounted == declared
