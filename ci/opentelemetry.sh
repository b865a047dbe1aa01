#!/bin/sh
# Runs the tests that need requirements-otel.txt. It is not in .venv: redis-py imports OpenTelemetry wherever it is
# installed, and that would cost every process of `make run` time and memory. Called as: opentelemetry.sh FOLDER
set -eu
awk '/^[a-z]/ { keep = /^opentelemetry/ } keep' requirements-otel.txt >"$1/opentelemetry.txt"
.venv/bin/python -m pip install --quiet --no-input --no-deps --require-hashes --target "$1/packages" \
    -r "$1/opentelemetry.txt"
PYTHONPATH="$1/packages" exec .venv/bin/python -m pytest -n 0 tests/core/test_spans.py --junitxml="$1/pytest.xml"
