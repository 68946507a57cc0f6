# One image; the command picks the service:
# python -m gateway | router_svc | executor_svc | dex_sim | engine.migrate
FROM python:3.13-slim AS build
RUN python -m venv /venv
COPY requirements.lock .
RUN /venv/bin/pip install --no-cache-dir --no-compile --require-hashes -r requirements.lock

FROM python:3.13-slim
# Directories that volumes are mounted on: a fresh volume takes over their owner.
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin engine \
    && install -d -m 0700 -o engine -g engine /data /wallet
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
COPY --from=build /venv /venv
COPY . .
USER engine
# Services drain on SIGTERM.
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m"]
CMD ["gateway"]
