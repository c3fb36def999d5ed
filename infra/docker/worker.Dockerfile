# For one machine with LocalExecutor: Airflow and torch in one image, because tasks run beside the scheduler.
FROM python:3.11.14-slim-trixie
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN groupadd --gid 10001 alchemist && useradd --uid 10001 --gid alchemist --create-home alchemist
WORKDIR /opt/alchemist
ARG TORCH_VERSION=2.13.0
ARG TORCHVISION_VERSION=0.28.0
RUN pip install --no-cache-dir "torch==${TORCH_VERSION}" "torchvision==${TORCHVISION_VERSION}"
COPY constraints.txt pyproject.toml setup.py README.md LICENSE ./
COPY alchemist_core alchemist_core
COPY sql sql
COPY infra/RUNBOOK.md infra/
COPY dags dags
RUN pip install --no-cache-dir --constraint constraints.txt --editable '.[train,metrics,airflow,local,checks,offline]'
ENV AIRFLOW_HOME=/opt/airflow \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/alchemist/dags \
    ALCHEMIST_HOME=/var/lib/alchemist \
    HF_HUB_OFFLINE=1 \
    PYTHONUNBUFFERED=1
RUN install --directory --owner alchemist --group alchemist /opt/airflow /opt/airflow/logs /var/lib/alchemist
# Every run and ledger row stores this version: --build-arg CODE_VERSION="$(git describe --always --dirty --abbrev=12)"
ARG CODE_VERSION
RUN test -n "${CODE_VERSION}"
ENV ALCHEMIST_CODE_VERSION=${CODE_VERSION}
USER 10001:10001
CMD ["airflow", "scheduler"]
