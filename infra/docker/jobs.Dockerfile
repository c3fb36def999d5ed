# For stages that compute: torch with CUDA, no Airflow. PyPI's torch for Linux includes the CUDA libraries; the host provides the driver.
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
ARG EXTRAS="train metrics flux embeddings offline lineage"
RUN echo "${EXTRAS}" | xargs -n 1 printf -- '--extra=%s ' \
    | xargs uv pip install --quiet --no-cache --compile-bytecode --python /opt/venv/bin/python --constraint constraints.txt \
    --requirement pyproject.toml
WORKDIR /opt/venv/lib/python3.11/site-packages
RUN find numpy pyarrow scipy -name tests -prune -exec rm -r {} + && rm -r pyarrow/include

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
    ALCHEMIST_HOME=/var/lib/alchemist \
    HF_HUB_OFFLINE=1 \
    PYTHONUNBUFFERED=1
# A layer of its own: a change of the code changes nothing but this one.
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip --python /opt/venv/bin/python install --no-cache-dir --no-deps /wheels/*.whl \
    && install --directory --owner alchemist --group alchemist /var/lib/alchemist
# Every run and ledger row stores the code's version, so there is no image without one.
ARG CODE_VERSION
ARG VERSION
ARG CREATED
RUN test -n "${CODE_VERSION}"
ENV ALCHEMIST_CODE_VERSION=${CODE_VERSION}
LABEL org.opencontainers.image.title="Alchemist: jobs" \
    org.opencontainers.image.description="Alchemist with torch, for training, scoring and evaluation on a GPU" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${CODE_VERSION}" \
    org.opencontainers.image.created="${CREATED}"
USER 10001:10001
# A job ends by itself, and its run has a heartbeat in the store; this shows only that the container can start a process.
HEALTHCHECK --interval=60s --timeout=20s CMD ["alchemist", "--version"]
CMD ["alchemist", "--help"]
