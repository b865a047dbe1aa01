# One image for every process. The default command serves the API; the others are named when a container starts:
#   worker   celery -A celery_worker worker …          (the line in Procfile)
#   beat     python celery_beat.py                    (the line in Procfile; run exactly one)
#   migrate  flask --app wsgi db upgrade               (before a new version takes traffic)

FROM python:3.11-slim AS packages
RUN python -m venv /venv
ENV PATH=/venv/bin:$PATH
# In a layer of its own, which is rebuilt only when a pin has changed. Wheels only: there is no compiler here.
# The pins are complete, and each has its hashes: exactly what was tested is installed.
COPY requirements.txt .
RUN pip install --no-cache-dir --disable-pip-version-check --only-binary :all: --no-deps --require-hashes -r requirements.txt

FROM python:3.11-slim
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin app
COPY --from=packages /venv /venv
WORKDIR /srv
COPY config.py production_rules.py wsgi.py celery_worker.py celery_beat.py gunicorn.conf.py web_worker.py ./
COPY migrations migrations
COPY app app
# Without SSL_CERT_FILE, `sslrootcert=system` finds no certificate: psycopg2's libpq looks where its wheel was built.
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    FLASK_APP=wsgi \
    FLASK_SKIP_DOTENV=1 \
    APP_ENV=production \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
    PORT=5000
USER app
EXPOSE 5000
# For the process that serves HTTP; run worker, beat and migrate with --no-healthcheck.
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/healthz', timeout=4)"]
CMD ["gunicorn", "-c", "gunicorn.conf.py", "wsgi:app"]
