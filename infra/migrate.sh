#!/usr/bin/env bash
# Bring both databases up to date and let Grafana in; harmless to repeat. Run by compose.yaml once before anything else starts.
set -euo pipefail
python - <<'PYTHON'
import os
import psycopg2
from psycopg2 import sql

from alchemist_core.store.migrate import migrate

url = os.environ["ALCHEMIST_DATABASE_URL"]
connection = psycopg2.connect(url)
connection.autocommit = True
with connection.cursor() as cursor:
    cursor.execute("SELECT true FROM pg_database WHERE datname = 'airflow'")
    if cursor.fetchone() is None:
        cursor.execute("CREATE DATABASE airflow")
migrate(url)
with connection.cursor() as cursor:
    password = sql.Literal(os.environ["STORE_READER_PASSWORD"])
    cursor.execute(sql.SQL("ALTER ROLE alchemist_reader LOGIN PASSWORD {}").format(password))
PYTHON
airflow db migrate
airflow pools set gpu "${ALCHEMIST_SCORE_SLOTS:-1}" "One slot a device"
