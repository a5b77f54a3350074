# syntax=docker/dockerfile:1
# Strongroom: server, audit log and command line in one image.
#
#   docker build --tag strongroom .                      no PKCS#11 module: mount the vendor's
#   docker build --target dev --tag strongroom:dev .     with SoftHSM 2
#
# glibc, because the vendors' PKCS#11 modules are glibc libraries. No PIN, key or
# certificate is in the image: they are files mounted at run time, named in server.toml.

FROM python:3.11-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /opt/strongroom
COPY requirements/server.txt requirements/build.txt requirements/
RUN /opt/strongroom/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r requirements/server.txt
RUN python -m venv /opt/build \
    && /opt/build/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r requirements/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY protos/python protos/python
COPY client/python client/python
COPY server server
RUN /opt/build/bin/python -m hatchling build -t wheel -d /dist \
    && /opt/strongroom/bin/pip install --no-cache-dir --no-deps /dist/*.whl \
    && /opt/strongroom/bin/python -m compileall -q /opt/strongroom/lib

FROM python:3.11-slim-bookworm AS base
COPY --from=build /opt/strongroom /opt/strongroom
ENV PATH=/opt/strongroom/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    STRONGROOM_OPS_ADDRESS=127.0.0.1:9464
RUN groupadd --gid 65532 strongroom \
    && useradd --uid 65532 --gid 65532 --no-create-home --home-dir /var/lib/strongroom --shell /usr/sbin/nologin strongroom \
    && install -d -o 65532 -g 65532 -m 0700 /var/lib/strongroom
USER 65532:65532
WORKDIR /var/lib/strongroom
EXPOSE 7443
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-m", "strongroom_server.ops.healthcheck"]
ENTRYPOINT ["strongroom"]
CMD ["serve", "--config", "/etc/strongroom/server.toml"]

FROM base AS dev
USER 0:0
# Debian keeps one version of a package at a time; a pin would break with every update.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends softhsm2 \
    && rm -rf /var/lib/apt/lists/*
USER 65532:65532

FROM base AS prod
