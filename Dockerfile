# Three images from one file. `server` is what `serve`, `proxy` and `consume` need; `batch` adds what reads and writes tables
# (`profile`, `ingest`, `label`, `archive`); `demo`, the last one, adds what docker-compose.yml runs. They do not run as root.
#   docker build --target server --build-arg VERSION=1.0.0 --build-arg REVISION=$(git rev-parse HEAD) .
FROM python:3.12.15-slim-trixie@sha256:a6e34c598f2467ed0e9a8d349809fcd8b5c603269512df273a0bb1784edc11b1 AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN python -m venv /opt/model-exporter
ENV PATH=/opt/model-exporter/bin:$PATH
# Dependencies change rarely, so they get their own layer.
COPY requirements.lock ./
RUN pip install --require-hashes --only-binary :all: --requirement requirements.lock
COPY pyproject.toml README.md CHANGELOG.md LICENSE ./
COPY exporter/ exporter/
# exporter/server/docs is a symbolic link to this directory.
COPY docs/ docs/
# There is no git here: the tag and the commit are arguments.
ARG VERSION=1.0.0
ARG REVISION=unknown
RUN printf '%s\n' "$REVISION" > exporter/REVISION \
    && SETUPTOOLS_SCM_PRETEND_VERSION=$VERSION pip install --no-deps --no-build-isolation .

FROM build AS build-server
RUN pip uninstall --yes setuptools setuptools-scm pip

FROM build AS build-batch
COPY requirements-batch.lock ./
RUN pip install --require-hashes --only-binary :all: --requirement requirements-batch.lock \
    && pip uninstall --yes setuptools setuptools-scm pip

FROM build AS build-demo
COPY requirements-demo.lock ./
RUN pip install --require-hashes --only-binary :all: --requirement requirements-demo.lock \
    && pip uninstall --yes setuptools setuptools-scm pip

FROM python:3.12.15-slim-trixie@sha256:a6e34c598f2467ed0e9a8d349809fcd8b5c603269512df273a0bb1784edc11b1 AS runtime

ENV PATH=/opt/model-exporter/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

# State is in the volume /data. The rest of the image can be mounted read-only.
RUN groupadd --system --gid 10001 exporter \
    && useradd --system --uid 10001 --gid exporter --home-dir /data --no-create-home --shell /usr/sbin/nologin exporter \
    && install --directory --owner=exporter --group=exporter /data /data/demo /data/alertmanager

USER 10001:10001
WORKDIR /data
EXPOSE 9877

# A 401 also means that the exporter is healthy.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 9877, timeout=4); c.request('GET', '/-/healthy'); raise SystemExit(c.getresponse().status >= 500)"]

ENTRYPOINT ["model-exporter"]

FROM runtime AS server
COPY --from=build-server /opt/model-exporter /opt/model-exporter
# Mount your exporter.yml at this path, with `store: {url: "sqlite:////data/model-exporter.db"}`.
CMD ["serve", "--config.file=/etc/model-exporter/exporter.yml", "--web.listen-address=0.0.0.0:9877"]

FROM runtime AS batch
COPY --from=build-batch /opt/model-exporter /opt/model-exporter
HEALTHCHECK NONE
CMD ["--help"]

FROM runtime AS demo
COPY --from=build-demo /opt/model-exporter /opt/model-exporter
COPY demo/ /opt/demo/demo/
ENV PYTHONPATH=/opt/demo
CMD ["--help"]
