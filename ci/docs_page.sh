#!/usr/bin/env bash
# Opens /docs in headless Chromium and sends a message from there. Needs the virtual environment in .venv (or PYTHON)
# and Chromium: Debian's, which root gets installed when it is missing. A screenshot goes to SCREENSHOT.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
playwright_version=1.65.2
python=${PYTHON:-.venv/bin/python}

if [ ! -x /usr/bin/chromium ]; then
    if [ "$(id -u)" -ne 0 ]; then
        echo "Install Chromium first: apt-get install chromium" >&2
        exit 1
    fi
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends chromium >/dev/null
fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    "playwright==$playwright_version" "requests==2.34.2"

env -u BASE_URL "$python" -m ci.with_stack "$folder/venv/bin/python" ci/docs_page.py \
    '{address}' "${SCREENSHOT:-var/docs_page.png}"
