#!/bin/sh
# Creates .venv with everything that development and the sandbox need. Called by make as: install.sh PYTHON STAMP
# The stamp is written last and holds the folder's path, so an install that was interrupted or moved is done again.
# The mark is written first, so that a folder is only ever deleted if this script made it.
set -u
wanted=$1
stamp=$2
venv=$(dirname "$stamp")
mark=$venv/.made-by-make

refuse() {
    echo "$1" >&2
    exit 1
}

is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

python=
others=
[ "$wanted" = python3 ] && others="python3.14 python3.13 python3.12 python3.11"
for candidate in "$wanted" $others; do
    if is_new_enough "$candidate"; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    if found=$("$wanted" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null); then
        refuse "Python 3.11 or newer is needed and $wanted is $found: install one, or name it as in \`make PYTHON=/path/to/python3.12 run\`."
    fi
    refuse "Python 3.11 or newer is needed and $wanted was not found: install it, or name it as in \`make PYTHON=/path/to/python3.12 run\`."
fi
"$python" -c 'import venv, ensurepip' 2>/dev/null ||
    refuse "$python cannot make virtual environments: install its venv module (on Debian and Ubuntu: apt install python3-venv)."

# Only one run at a time. The system drops the lock with the last process that has it, so a killed run leaves none.
exec 9<.
if ! "$python" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)' 2>/dev/null; then
    echo "Another make is installing $venv: waiting for it …"
    "$python" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)' 2>/dev/null # NFS may refuse the lock: go on without it
    [ "$(cat "$stamp" 2>/dev/null)" = "$(pwd -P)" ] && ! [ requirements-dev.txt -nt "$stamp" ] && exit 0
fi

if ! [ -w . ] || { [ -e "$venv" ] && ! [ -w "$venv" ]; }; then
    refuse "Cannot write to $(pwd -P): the packages and the data go there."
fi

if [ -L "$venv" ] || { [ -e "$venv" ] && ! [ -e "$mark" ]; }; then
    refuse "$venv exists and was not made by make: move it away first, so that nothing in it is lost."
fi

echo "Installing packages into $venv, about a minute the first time …"
report=$(mktemp) || exit 1
trap 'rm -f "$report"' EXIT
trap 'exit 1' HUP INT TERM
rm -rf "$venv" # it may have packages that are no longer pinned
mkdir "$venv" && : >"$mark" || exit 1
"$python" -m venv "$venv" >"$report" 2>&1 || {
    cat "$report" >&2
    refuse "$python could not make $venv: see above."
}
# The pins are complete, so nothing is left for pip to resolve.
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --no-deps --require-hashes \
    -r requirements-dev.txt >"$report" 2>&1 || {
    tail -n 15 "$report" >&2
    refuse "The packages could not be installed: see above, then run make again."
}
pwd -P >"$stamp"
