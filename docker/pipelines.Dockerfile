# The pipelines and the tools: `python run.py ...`, `python -m millwright ...`, `mlflow server`.
#   docker build --file docker/pipelines.Dockerfile --tag millwright-pipelines:0.1.0 .
# BASE is any image of Debian with Python 3.11 and its venv module; name it with a digest to pin it.
ARG BASE=python:3.11.14-slim-bookworm

FROM ${BASE} AS builder
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 UV_NO_CACHE=1
COPY requirements/setup.txt requirements/runtime.txt /requirements/
RUN python3 -m venv /opt/setup \
    && /opt/setup/bin/pip install --quiet --require-hashes -r /requirements/setup.txt \
    && python3 -m venv --without-pip /opt/venv \
    && /opt/setup/bin/uv pip sync --quiet --python /opt/venv/bin/python --compile-bytecode \
        --require-hashes /requirements/runtime.txt

FROM ${BASE}
# Nothing that installs packages stays. The account has a number that orchestrators can check.
RUN find /usr -xdev -depth \( -name pip -o -name 'pip3*' -o -name 'pip-*.dist-info' \
        -o -name ensurepip -o -name python-wheels \) -exec rm -rf {} + \
    && groupadd --gid 10001 millwright \
    && useradd --no-log-init --uid 10001 --gid 10001 --no-create-home \
        --home-dir /var/lib/millwright --shell /usr/sbin/nologin millwright \
    && install --directory --owner 10001 --group 10001 --mode 0750 /var/lib/millwright
COPY --from=builder /opt/venv /opt/venv
WORKDIR /app
# Owned by root and so read-only to the account. The order is from what changes least.
COPY LICENSE run.py ./
# What `python -m millwright doctor` holds the installed packages against.
COPY requirements/runtime.txt requirements/dev.txt requirements/
COPY configs configs
COPY docker/kubernetes docker/kubernetes
COPY feature_repo feature_repo
COPY pipelines pipelines
COPY steps steps
COPY millwright millwright
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MILLWRIGHT_HOME=/var/lib/millwright
# There is no git here: the commit that the image was made from is what the build is told.
ARG REVISION=unknown
ARG RELEASE=unreleased
ENV MILLWRIGHT_REVISION=${REVISION}
LABEL org.opencontainers.image.title="millwright-pipelines" \
      org.opencontainers.image.description="Ingest, features and training of Millwright" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.version="${RELEASE}"
VOLUME /var/lib/millwright
USER 10001:10001
# A batch job has no port to ask: it is healthy while it can keep its state.
HEALTHCHECK --interval=60s --timeout=5s CMD ["test", "-w", "/var/lib/millwright"]
CMD ["python", "run.py", "--help"]
