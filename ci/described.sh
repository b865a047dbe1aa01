#!/usr/bin/env bash
# Checks a stack of its own against /openapi.json with Schemathesis, and the source with bandit. Both come from
# ci/requirements.txt into a folder of their own. Needs the virtual environment in .venv (or PYTHON).
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-.venv/bin/python}

tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
"$python" -m venv "$tools"
"$tools/bin/python" -m pip install --quiet --disable-pip-version-check -r ci/requirements.txt

"$tools/bin/bandit" --quiet --recursive app --severity-level medium  # the low ones are answered in docs/security.md

export SCHEMATHESIS="$tools/bin/schemathesis" RATE_LIMIT_PER_MINUTE=0 OTP_DELIVERY=response
env -u BASE_URL "$python" -m ci.with_stack ci/schemathesis.sh '{address}'
