#!/bin/sh
# Resolves requirements*.in into requirements*.txt with hashes, for every Python from 3.11 on and every system. Keeps
# the versions that are already pinned. Called by make as: pins.sh PYTHON [options such as --upgrade]
set -eu
python=$1
shift
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
trap 'exit 1' HUP INT TERM

"$python" -m venv "$tools"
"$tools/bin/python" -m pip install --quiet --disable-pip-version-check uv==0.13.9
for name in requirements requirements-genai requirements-otel requirements-dev ci/requirements; do
    "$tools/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --no-header --no-emit-index-url --strip-extras --annotation-style=line \
        "$@" --output-file "$name.txt" "$name.in"
done
