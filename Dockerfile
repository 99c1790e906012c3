# The daemon's image: make image IMAGE=registry.example.com/infra-health TAG=0.1.0
# For a build that repeats to the byte, follow the tag below with the digest that `docker buildx imagetools inspect
# python:3.12-slim` prints: python:3.12-slim@sha256:...
FROM python:3.12-slim AS base

FROM base AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /src

# Dependencies before the code: a change of the code alone reuses these layers.
COPY requirements.lock requirements-build.lock ./
RUN python -m venv --without-pip /opt/infra-health \
    && python -m pip --python /opt/infra-health/bin/python install --no-compile --no-deps --require-hashes \
        --only-binary :all: -r requirements.lock \
    && python -m pip install --no-compile --no-deps --require-hashes --only-binary :all: -r requirements-build.lock

# The root file system is read-only, so all bytecode is made here, and never checked against the times of the sources,
# which layers may lose.
COPY pyproject.toml README.md ./
COPY service service
RUN python -m pip wheel --no-deps --no-index --no-build-isolation --wheel-dir /dist . \
    && python -m pip --python /opt/infra-health/bin/python install --no-compile --no-deps --no-index /dist/*.whl \
    && python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/infra-health/lib


FROM base
ARG VERSION=unknown
ARG COMMIT=unknown
LABEL org.opencontainers.image.title="infra-health" \
      org.opencontainers.image.description="Collects CI, training and evaluation health and delivers it to Datadog" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}" \
      org.opencontainers.image.licenses="MIT"

# The first process of a container: it passes signals on, also before Python has set its handlers, and takes in what exec
# collectors leave behind.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends 'tini=0.19.*' \
    && rm -rf /var/lib/apt/lists/*

# Without bytecode of the standard library (the base image leaves it out) every start would compile it anew. Nothing is
# installed in this image any more: pip would only be one more thing to patch.
RUN python -m pip uninstall --quiet --yes --root-user-action ignore pip \
    && python -m compileall -q -j 0 --invalidation-mode unchecked-hash "$(python -c 'import os; print(os.path.dirname(os.__file__))')" \
    && groupadd --gid 10001 infra-health \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/infra-health --shell /usr/sbin/nologin infra-health \
    && install -d -o 10001 -g 10001 -m 0750 /var/lib/infra-health

COPY --from=build /opt/infra-health /opt/infra-health
COPY config.yaml /etc/infra-health/config.yaml

ENV PATH=/opt/infra-health/bin:${PATH} \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    INFRA_HEALTH_CONFIG=/etc/infra-health/config.yaml \
    INFRA_HEALTH_STATE_DIR=/var/lib/infra-health \
    INFRA_HEALTH_COMMIT=${COMMIT}

# By number: runAsNonRoot can't judge a name.
USER 10001:10001
WORKDIR /var/lib/infra-health
# With it `docker run --read-only` has a writable state directory without further ado.
VOLUME /var/lib/infra-health
EXPOSE 8080
STOPSIGNAL SIGTERM
# For Docker and Compose (buildah keeps it with --format docker alone); Kubernetes has its own probes.
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 CMD ["infra-health", "status", "--probe"]
ENTRYPOINT ["tini", "--", "infra-health"]
