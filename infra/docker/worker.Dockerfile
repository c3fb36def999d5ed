# Airflow and torch in one image, where tasks run beside Airflow: one machine with LocalExecutor, or Celery workers for devices.
# `make images` builds it.
FROM python:3.11.14-slim-trixie AS libraries
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /build
RUN pip install --no-cache-dir uv==0.13.9 && python -m venv --without-pip /opt/venv
ARG TORCH_VERSION=2.13.0
ARG TORCHVISION_VERSION=0.28.0
RUN uv pip install --quiet --no-cache --compile-bytecode --python /opt/venv/bin/python \
    "torch==${TORCH_VERSION}" "torchvision==${TORCHVISION_VERSION}"
COPY pyproject.toml constraints.txt ./
# A test runs each command of each DAG with nothing but these extras.
ARG EXTRAS="train metrics flux embeddings offline airflow server celery local checks lineage"
RUN echo "${EXTRAS}" | xargs -n 1 printf -- '--extra=%s ' \
    | xargs uv pip install --quiet --no-cache --compile-bytecode --python /opt/venv/bin/python --constraint constraints.txt \
    --requirement pyproject.toml
WORKDIR /opt/venv/lib/python3.11/site-packages
RUN find numpy pandas pyarrow scipy -name tests -prune -exec rm -r {} + && rm -r pyarrow/include

FROM libraries AS wheel
WORKDIR /build
COPY setup.py README.md LICENSE ./
COPY alchemist_core alchemist_core
COPY sql sql
COPY dags dags
COPY infra infra
RUN pip wheel --quiet --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11.14-slim-trixie
RUN groupadd --gid 10001 alchemist && useradd --uid 10001 --gid alchemist --create-home alchemist
COPY --from=libraries /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    AIRFLOW_HOME=/opt/airflow \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/alchemist/dags \
    AIRFLOW__CORE__LOAD_EXAMPLES=False \
    # Airflow 3.3 would derive an asyncpg address, which only setups of several teams need, and no image contains that driver.
    AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC="" \
    AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK=True \
    ALCHEMIST_HOME=/var/lib/alchemist \
    HF_HUB_OFFLINE=1 \
    PYTHONUNBUFFERED=1
# A layer of its own: a change of the code changes nothing but this one.
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip --python /opt/venv/bin/python install --no-cache-dir --no-deps /wheels/*.whl \
    && install --directory --owner alchemist --group alchemist /opt/airflow /opt/airflow/logs /var/lib/alchemist /opt/alchemist/dags \
    && alchemist dags install --to /opt/alchemist/dags
COPY --chmod=755 infra/docker/healthcheck.py /usr/local/bin/healthcheck
# Every run and ledger row stores the code's version, so there is no image without one.
ARG CODE_VERSION
ARG VERSION
ARG CREATED
RUN test -n "${CODE_VERSION}"
ENV ALCHEMIST_CODE_VERSION=${CODE_VERSION}
LABEL org.opencontainers.image.title="Alchemist: worker" \
    org.opencontainers.image.description="Airflow and Alchemist with torch, where tasks run beside Airflow" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${CODE_VERSION}" \
    org.opencontainers.image.created="${CREATED}"
USER 10001:10001
# Of the scheduler; services that run another process set their own.
HEALTHCHECK --interval=10s --timeout=8s --start-period=2m CMD ["healthcheck", "http://localhost:8974/health"]
CMD ["airflow", "scheduler"]
