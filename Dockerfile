# Two images from one file:
#   docker build --target api .           the HTTP side; no torch in it
#   docker build --target worker-cpu .    a worker on a CPU
# The build's network must reach a package index; TORCH_INDEX names one with CPU builds of torch,
# without it the default build (CUDA, several GB) is taken.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS base
ENV PATH=/opt/venv/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

FROM base AS api-build
WORKDIR /src
RUN python3 -m venv /opt/venv
COPY requirements/api.lock requirements/
RUN pip install --require-hashes --no-deps -r requirements/api.lock
COPY pyproject.toml LICENSE ./
COPY service service
RUN pip install --no-deps --no-build-isolation .

FROM base AS worker-build
ARG TORCH_INDEX=
WORKDIR /src
RUN python3 -m venv /opt/venv
COPY requirements/runtime.lock requirements/
RUN pip install --require-hashes --no-deps -r requirements/runtime.lock \
    && PIP_INDEX_URL=${TORCH_INDEX} pip install torch==2.13.0
COPY pyproject.toml LICENSE ./
COPY service service
COPY engines engines
RUN pip install --no-deps --no-build-isolation .

FROM base AS api
COPY --from=api-build /opt/venv /opt/venv
WORKDIR /srv
# Libraries that look for a home folder find a temporary one; the root file system may be read-only.
ENV HOME=/tmp INSTANTIR_HOST=0.0.0.0 INSTANTIR_PORT=8000
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s --retries=3 \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/livez', timeout=2)"]
CMD ["instantir", "api"]

FROM base AS worker-cpu
COPY --from=worker-build /opt/venv /opt/venv
WORKDIR /srv
ENV HOME=/tmp
USER 10001:10001
# A worker serves no port: its heartbeat in Redis shows its health, and its lease replaces it.
HEALTHCHECK NONE
STOPSIGNAL SIGTERM
CMD ["instantir", "worker"]
