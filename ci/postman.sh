#!/usr/bin/env bash
# Runs the Postman collection from top to bottom against a stack of its own, and fails when it is stale.
# Needs the virtual environment in .venv (or PYTHON), and node with npm.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
newman_version=6.2.2
python=${PYTHON:-.venv/bin/python}

"$python" -m sandbox.postman --check

programs=$(mktemp -d)
trap 'rm -rf "$programs"' EXIT
npm install --silent --no-audit --no-fund --no-save --prefix "$programs" "newman@$newman_version" </dev/null

env -u BASE_URL "$python" -m ci.with_stack "$programs/node_modules/.bin/newman" run \
    docs/postman/gemini-backend.postman_collection.json \
    --environment docs/postman/gemini-backend.postman_environment.json \
    --env-var 'base_url={address}' --color off --timeout-request 90000 --disable-unicode
