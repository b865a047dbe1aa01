#!/bin/sh
# Resolves requirements*.in into requirements*.txt, keeping the versions that are pinned already.
# Called by make as: pins.sh PYTHON [--upgrade and the like]
set -eu
python=$1
shift
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
trap 'exit 1' HUP INT TERM

"$python" -m venv "$tools"
"$tools/bin/python" -m pip install --quiet --disable-pip-version-check pip-tools
for name in requirements requirements-genai requirements-dev; do
    CUSTOM_COMPILE_COMMAND="make pins" "$tools/bin/python" -m piptools compile --quiet \
        --no-header --no-emit-index-url --no-emit-trusted-host --no-emit-find-links \
        --strip-extras --annotation-style=line "$@" --output-file "$name.txt" "$name.in"
done
