"""No datagram stops the StatsD listener; tests/infra/test_exporter.py tests what it keeps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alchemist_core.cli.dags import shipped_dags
from alchemist_core.local.airflow_metrics import AirflowMetrics

HEARTBEAT = b"airflow.scheduler_heartbeat:1|c"


@pytest.mark.parametrize("value", [b"1.2.3", b".", b"-", b"--1", b"1e400", b"nan", b""])
def test_a_number_that_is_none_is_passed_over(value: bytes) -> None:
    heard = AirflowMetrics(shipped_dags())
    heard.receive(b"airflow.scheduler_heartbeat:" + value + b"|c\n" + HEARTBEAT)
    assert heard.read() == {"alchemist_airflow_heartbeats_total": [((), 1.0)]}


@given(st.binary(max_size=200))
def test_no_datagram_stops_the_listener(datagram: bytes) -> None:
    heard = AirflowMetrics(shipped_dags())
    heard.receive(datagram)
    heard.receive(HEARTBEAT)
    assert heard.read()["alchemist_airflow_heartbeats_total"] == [((), 1.0)]
