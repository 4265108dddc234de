# Three images from one file (docs/images.md says what is in them, and how large they are):
#   docker build --target api .           the HTTP side; no torch in it
#   docker build --target worker-cpu .    a worker on processors
#   docker build --target worker-gpu .    a worker on an NVIDIA GPU
# TORCH_INDEX names the package index to take torch from; TENSORRT names the TensorRT that the GPU
# image gets, whose CUDA must be that of CUDA_IMAGE and of the build of torch.
ARG BASE_IMAGE=python:3.11-slim-bookworm
ARG CUDA_IMAGE=nvidia/cuda:13.0.3-base-ubuntu24.04

FROM ${BASE_IMAGE} AS base
# Libraries that look for a home folder find a temporary one; the root file system may be read-only.
ENV HOME=/tmp \
    PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1

FROM base AS build
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
RUN python3 -m venv /opt/venv

FROM build AS api-build
COPY requirements/api.lock requirements/
RUN pip install --require-hashes --no-deps -r requirements/api.lock
COPY pyproject.toml LICENSE ./
COPY service service
RUN pip install --no-deps --no-build-isolation . \
    && pip uninstall --yes setuptools pip

FROM build AS worker-cpu-build
ARG TORCH_INDEX=
COPY requirements/runtime.lock requirements/
RUN pip install --require-hashes --no-deps -r requirements/runtime.lock \
    && PIP_INDEX_URL=${TORCH_INDEX} pip install torch==2.13.0
COPY pyproject.toml LICENSE ./
COPY service service
COPY engines engines
RUN pip install --no-deps --no-build-isolation . \
    && pip uninstall --yes pip

# Of CUDA only what a driver needs: torch brings its libraries as packages. The compiler is for
# Triton, which compiles the code that launches a kernel.
FROM ${CUDA_IMAGE} AS cuda
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
ENV HOME=/tmp \
    PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1

FROM cuda AS worker-gpu-build
ARG TORCH_INDEX=
ARG TENSORRT=tensorrt-rtx-cu13
ARG TENSORRT_VERSION=1.7.1.116
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
COPY requirements/runtime.lock requirements/
RUN python3 -m venv /opt/venv \
    && pip install --require-hashes --no-deps -r requirements/runtime.lock \
    && PIP_INDEX_URL=${TORCH_INDEX} pip install torch==2.13.0 \
    && pip install "${TENSORRT}==${TENSORRT_VERSION}"
COPY pyproject.toml LICENSE ./
COPY service service
COPY engines engines
RUN pip install --no-deps --no-build-isolation . \
    && pip uninstall --yes pip

FROM base AS api
COPY --from=api-build /opt/venv /opt/venv
WORKDIR /srv
ENV INSTANTIR_HOST=0.0.0.0 \
    INSTANTIR_PORT=8000
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s --retries=3 \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/livez', timeout=2)"]
CMD ["instantir", "api"]

FROM base AS worker-cpu
COPY --from=worker-cpu-build /opt/venv /opt/venv
RUN install -d -o 10001 -g 10001 /var/cache/instantir
WORKDIR /srv
ENV INSTANTIR_ENGINE_CACHE=/var/cache/instantir/engines
VOLUME /var/cache/instantir
USER 10001:10001
# A worker serves no port: its heartbeat in Redis shows its health, and its lease replaces it.
HEALTHCHECK NONE
CMD ["instantir", "worker"]

FROM cuda AS worker-gpu
COPY --from=worker-gpu-build /opt/venv /opt/venv
RUN install -d -o 10001 -g 10001 /var/cache/instantir
WORKDIR /srv
ENV INSTANTIR_ENGINE_CACHE=/var/cache/instantir/engines \
    TRITON_CACHE_DIR=/var/cache/instantir/triton
VOLUME /var/cache/instantir
USER 10001:10001
HEALTHCHECK NONE
CMD ["instantir", "worker"]
