#!/usr/bin/env bash
# Migrates both databases, sets the password of each role, and installs the DAGs with the forms and schedules of the project file;
# safe to re-run. compose.yaml runs it before any other service.
# Only here is ALCHEMIST_DATABASE_URL the address of the owner.
set -euo pipefail
python - <<'PYTHON'
import os
import psycopg2
from psycopg2 import sql

from alchemist_core.store.engine import migrate

AIRFLOW = sql.Identifier("alchemist_airflow")
PASSWORDS = {
    "alchemist_reader": "STORE_READER_PASSWORD",
    "alchemist_writer": "STORE_WRITER_PASSWORD",
    "alchemist_airflow": "AIRFLOW_DATABASE_PASSWORD",
}

url = os.environ["ALCHEMIST_DATABASE_URL"]
migrate(url)
connection = psycopg2.connect(url)
connection.autocommit = True
with connection.cursor() as cursor:
    cursor.execute("SELECT to_regrole('alchemist_airflow') IS NULL")
    if cursor.fetchone()[0]:
        cursor.execute(sql.SQL("CREATE ROLE {} LOGIN").format(AIRFLOW))
    for role, variable in PASSWORDS.items():
        password = sql.Literal(os.environ[variable])
        cursor.execute(sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(role), password))
    cursor.execute("SELECT true FROM pg_database WHERE datname = 'airflow'")
    if cursor.fetchone() is None:
        cursor.execute(sql.SQL("CREATE DATABASE airflow OWNER {}").format(AIRFLOW))
PYTHON
airflow db migrate
mkdir -p "${AIRFLOW__CORE__DAGS_FOLDER}"
alchemist dags install --to "${AIRFLOW__CORE__DAGS_FOLDER}"
airflow pools set gpu "${ALCHEMIST_SCORE_SLOTS:-1}" "One slot a device"
