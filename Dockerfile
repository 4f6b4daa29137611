# The server for NVIDIA GPUs: the official Triton with this project in it, and no torch.
#   docker build --build-arg REVISION="$(git rev-parse HEAD)" --tag songstarter:0.1.0 .
FROM nvcr.io/nvidia/tritonserver:26.07-py3 AS triton

# Not the slim image: building the wheel compiles what is in C.
FROM python:3.12.12-bookworm AS wheel
WORKDIR /build
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY songstarter songstarter
COPY client client
COPY export export
COPY backends backends
COPY model_repository model_repository
COPY embedded embedded
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /dist .

# A virtual environment on Triton's own Python: `songstarter serve` puts it in front of PATH, where Triton's Python
# processes look for theirs.
FROM triton AS packages
WORKDIR /build
COPY constraints.txt ./
COPY --from=wheel /dist /dist
RUN python3 -m pip install --no-cache-dir --break-system-packages virtualenv==21.15.8 \
 && python3 -m virtualenv /opt/songstarter \
 && /opt/songstarter/bin/python -m pip install --no-cache-dir --constraint constraints.txt \
      "$(echo /dist/songstarter-*.whl)[runtime-gpu]" \
 && /opt/songstarter/bin/python -m songstarter.stages.cuda.compiler

FROM triton AS runtime
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="songstarter" \
      org.opencontainers.image.description="MusicGen as a high-throughput inference service on NVIDIA Triton" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="nvcr.io/nvidia/tritonserver:26.07-py3"
COPY --from=packages /opt/songstarter /opt/songstarter
COPY deploy/image/probe.py deploy/image/model_store.py /opt/songstarter/
# Mount points: everything that is written lies in them, so the root filesystem can be read-only.
RUN mkdir -p /models /run/songstarter \
 && chown 10001:10001 /models /run/songstarter
ENV PATH=/opt/songstarter/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PROBE_REPOSITORY=/models
WORKDIR /run/songstarter
EXPOSE 8000 8001 8002
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=60s --start-period=15m --retries=3 \
    CMD ["/opt/songstarter/bin/python", "/opt/songstarter/probe.py", "--every-model"]
ENTRYPOINT ["/opt/songstarter/bin/songstarter"]
# Reachable from outside its container, and so it wants a key: --env SONGSTARTER_KEY, or --without-key.
CMD ["serve", "--repository=/models", "--run-directory=/run/songstarter", "--host=0.0.0.0", "--verbose"]
