#!/bin/sh
# Installs what the checks need besides .venv: curl, Node.js and Chromium if they are missing (as root, on Debian),
# Playwright and Schemathesis in a virtual environment, and newman. Called as: install.sh FOLDER
#
# Python's and npm's packages are pinned with hashes. Debian's are those of its stable release on the day: its archive
# keeps only one version of Chromium, so an exact pin would fail from the next security update on.
set -eu
folder=$1

missing=
for program in curl node npm chromium; do
    command -v "$program" >/dev/null || missing="$missing $program"
done
if [ -n "$missing" ]; then
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        echo "Missing:$missing. Install these programs, or run this as root on Debian." >&2
        exit 1
    fi
    apt-get update -qq
    # shellcheck disable=SC2046
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends $(echo "$missing" | sed 's/node/nodejs/')
fi
chromium --version
node --version

.venv/bin/python -m venv --clear "$folder"
"$folder/bin/python" -m pip install --quiet --no-input --no-deps --require-hashes -r ci/requirements.txt
npm ci --silent --no-audit --no-fund --prefix ci/node
