# One image for every part: `docker run IMAGE serve` (the default), `web` or `runner`.
# It runs as nobody's user and writes to /data and /tmp alone:
#   docker run --read-only --tmpfs /tmp -v plateau:/data --stop-timeout 35 \
#     -e API_KEYS=a-key-of-yours -p 127.0.0.1:8000:8000 IMAGE
# 3.12 and 3.13 take a fifth less memory than 3.11: docs/architecture.md, section 9.
ARG PYTHON=3.12-slim-bookworm

FROM python:${PYTHON} AS build
WORKDIR /src
# Without its own pip: the image's installs into it, and nothing is left to be removed.
RUN python -m venv --without-pip /opt/plateau
# What is locked changes less often than the code does: this layer is kept.
COPY requirements/serve.txt requirements/
RUN pip --python /opt/plateau install --no-cache-dir --require-hashes -r requirements/serve.txt
COPY pyproject.toml README.md LICENSE ./
COPY service service
# Only the build needed setuptools.
RUN pip --python /opt/plateau install --no-cache-dir --no-deps --no-build-isolation . \
 && pip --python /opt/plateau uninstall --yes setuptools

FROM python:${PYTHON}
RUN useradd --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin plateau \
 && install -d -o plateau -g plateau -m 700 /data && install -d /app
COPY --from=build /opt/plateau /opt/plateau
COPY deploy/entrypoint /usr/local/bin/entrypoint
# Without API_KEYS it refuses to start on this HOST, and says so.
ENV PATH=/opt/plateau/bin:$PATH HOST=0.0.0.0 PORT=8000 DATA_DIR=/data
# Agents of your own that are mounted here can be imported.
WORKDIR /app
# As a number, so that a host can see that it is not root.
USER 10001:10001
EXPOSE 8000
# Of `serve` and `web`; docker-compose.yml has one for a runner, which has no port.
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s \
  CMD ["python", "-m", "plateau_sse.serve.healthcheck", "/health/live"]
# The service is process 1: gunicorn's master reaps whatever is left to it, and ends on SIGTERM.
ENTRYPOINT ["/usr/local/bin/entrypoint"]
CMD ["serve"]
