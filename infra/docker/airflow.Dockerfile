# Airflow and the part of the platform without torch: command line, store, checks, exporter.
FROM python:3.11.14-slim-trixie
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN groupadd --gid 10001 alchemist && useradd --uid 10001 --gid alchemist --create-home alchemist
WORKDIR /opt/alchemist
COPY constraints.txt pyproject.toml setup.py README.md LICENSE ./
COPY alchemist_core alchemist_core
COPY sql sql
COPY infra/RUNBOOK.md infra/
COPY dags dags
# Editable, so that the package finds sql/ and dags/ beside itself.
RUN pip install --no-cache-dir --constraint constraints.txt --editable '.[airflow,celery,kubernetes,local,checks]'
ENV AIRFLOW_HOME=/opt/airflow \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/alchemist/dags \
    ALCHEMIST_HOME=/var/lib/alchemist
RUN install --directory --owner alchemist --group alchemist /opt/airflow /opt/airflow/logs /var/lib/alchemist
# Every run and ledger row stores this version: --build-arg CODE_VERSION="$(git describe --always --dirty --abbrev=12)"
ARG CODE_VERSION
RUN test -n "${CODE_VERSION}"
ENV ALCHEMIST_CODE_VERSION=${CODE_VERSION}
USER 10001:10001
CMD ["airflow", "version"]
