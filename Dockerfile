# Two images: `serve` (the default: watcher, API, migrations; no torch) and `train` (everything).
# The tag says what it is, the digest what it must be; see docs/operate.md for how to move both.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

# --- the runtime and nothing else, from exact versions with hashes ---
FROM ${PYTHON_IMAGE} AS build
WORKDIR /build
RUN python -m venv /opt/pigeonhole
COPY requirements/runtime.txt requirements/postgres.txt requirements/build.txt requirements/
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/pigeonhole/bin/pip install --require-hashes \
    --requirement requirements/runtime.txt --requirement requirements/postgres.txt
COPY pyproject.toml README.md LICENSE ./
COPY data/LICENSE-fashion-mnist.txt data/
COPY models/starter models/starter
COPY api api
COPY core core
COPY monitoring monitoring
COPY pigeonhole pigeonhole
COPY pipeline pipeline
COPY storage storage
COPY watcher watcher
RUN --mount=type=cache,target=/root/.cache/pip \
    PIP_CONSTRAINT=requirements/build.txt /opt/pigeonhole/bin/pip install --no-deps . \
    && /opt/pigeonhole/bin/pip uninstall --yes pip setuptools

# --- training: torch, DVC, MLflow; works on a checkout that is mounted at /checkout ---
FROM ${PYTHON_IMAGE} AS train
# Its version is the Debian release's; git is what DVC and the lineage of a model ask.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git \
    && rm -rf /var/lib/apt/lists/* \
    && git config --system --add safe.directory /checkout \
    && install --directory --mode=1777 /mlflow /data
WORKDIR /build
COPY requirements/all.txt requirements/
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv /opt/pigeonhole \
    && /opt/pigeonhole/bin/pip install --requirement requirements/all.txt
COPY --from=build /build /build
RUN --mount=type=cache,target=/root/.cache/pip \
    PIP_CONSTRAINT=requirements/build.txt /opt/pigeonhole/bin/pip install --no-deps .
ENV PATH=/opt/pigeonhole/bin:$PATH PYTHONUNBUFFERED=1 HOME=/tmp \
    MLFLOW_DISABLE_TELEMETRY=true DVC_NO_ANALYTICS=1 DVC_SITE_CACHE_DIR=/tmp/dvc USER=pigeonhole
USER 10001:10001
WORKDIR /checkout
ENTRYPOINT []
CMD ["pigeonhole", "train"]

# --- serving ---
FROM ${PYTHON_IMAGE} AS serve
LABEL org.opencontainers.image.title="Pigeonhole" \
      org.opencontainers.image.description="Drop images into a folder: each one is classified, filed under its label and recorded." \
      org.opencontainers.image.licenses="Apache-2.0"
# A fresh volume takes the owner and the mode of the folder that it is mounted over.
RUN groupadd --system --gid 10001 pigeonhole \
    && useradd --system --uid 10001 --gid 10001 --home-dir /nonexistent --shell /usr/sbin/nologin pigeonhole \
    && install --directory --owner=10001 --group=10001 /data \
    && install --directory --mode=1777 /database
COPY --from=build /opt/pigeonhole /opt/pigeonhole
ENV PATH=/opt/pigeonhole/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    PIGEONHOLE_HOME=/data PIGEONHOLE_LOG_FORMAT=json
USER 10001:10001
WORKDIR /opt/pigeonhole
EXPOSE 8000 9108
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --start-interval=1s --retries=3 \
    CMD ["python", "-m", "monitoring.healthcheck", "http://127.0.0.1:8000/readyz"]
ENTRYPOINT ["pigeonhole"]
CMD ["serve"]
