#!/usr/bin/env bash
# Migrates both databases, sets the password of each role, installs the DAGs with the forms and schedules of the project file, and creates
# the pool and the first user; safe to re-run. compose.yaml runs it before any other service.
# Only here is ALCHEMIST_DATABASE_URL_FILE the address of the owner.
set -euo pipefail
python - <<'PYTHON'
from pathlib import Path

import psycopg2
from psycopg2 import sql
from sqlalchemy import make_url

from alchemist_core.store.engine import database_url, migrate

AIRFLOW = sql.Identifier("alchemist_airflow")
SECRETS = Path("/run/secrets")

migrate(url := database_url())
passwords = {"alchemist_reader": (SECRETS / "store_reader_password").read_text().strip()}
for name in ("store_writer_url", "airflow_database_url"):
    account = make_url((SECRETS / name).read_text().strip())
    passwords[account.username] = account.password
connection = psycopg2.connect(url)
connection.autocommit = True
with connection.cursor() as cursor:
    cursor.execute("SELECT to_regrole('alchemist_airflow') IS NULL")
    if cursor.fetchone()[0]:
        cursor.execute(sql.SQL("CREATE ROLE {} LOGIN").format(AIRFLOW))
    for role, password in passwords.items():
        statement = sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(role), sql.Literal(password))
        cursor.execute(statement)
    cursor.execute("SELECT true FROM pg_database WHERE datname = 'airflow'")
    if cursor.fetchone() is None:
        cursor.execute(sql.SQL("CREATE DATABASE airflow OWNER {}").format(AIRFLOW))
PYTHON
airflow db migrate
mkdir -p "${AIRFLOW__CORE__DAGS_FOLDER}"
alchemist dags install --to "${AIRFLOW__CORE__DAGS_FOLDER}"
airflow pools set gpu "${ALCHEMIST_SCORE_SLOTS:-1}" "One slot a device"
# The first user, who creates the others; a user that exists keeps the password. It is typed, so that no list of processes shows it.
password=$(cat /run/secrets/airflow_admin_password)
printf '%s\n%s\n' "$password" "$password" |
	airflow users create --username admin --firstname Admin --lastname Alchemist --email admin@localhost --role Admin
