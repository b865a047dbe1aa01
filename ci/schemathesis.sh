#!/usr/bin/env bash
# Checks a running service against its own /openapi.json: no 5xx, no answer that is not described, none that breaks
# its schema. All checks are on, the number of examples is bounded, and so is the time (20 minutes each).
#
#   ci/schemathesis.sh [URL] [further options of `schemathesis run`]
#
# The service must run with OTP_DELIVERY=response and RATE_LIMIT_PER_MINUTE=0. Needs the packages of
# ci/requirements.txt: SCHEMATHESIS names the program, .venv-ci/bin/schemathesis when it is not set.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
url=${1:-http://127.0.0.1:5000}
shift || true
program=${SCHEMATHESIS:-.venv-ci/bin/schemathesis}

post() { curl -sS --fail-with-body "$url$1" -H 'Content-Type: application/json' -d "$2"; }
pick() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }

# The tokens of somebody new: numbers are tried one after the other until one is free.
log_in() {
    local first=$((RANDOM % 10000)) step mobile sent
    for ((step = 0; step < 200; step++)); do
        mobile="+1415555$(printf '%04d' $(((first + step) % 10000)))"
        post /auth/signup "{\"mobile\": \"$mobile\"}" >/dev/null 2>&1 || continue  # somebody's
        sent=$(post /auth/send-otp "{\"mobile\": \"$mobile\"}" 2>/dev/null) || continue  # had a code just now
        post /auth/verify-otp "{\"mobile\": \"$mobile\", \"otp\": \"$(pick otp <<<"$sent")\"}"
        return
    done
    echo "No number was free at $url." >&2
    return 1
}

check() {
    timeout 1200 "$program" --config-file ci/schemathesis.toml run "$url/openapi.json" \
        --checks all --phases examples,coverage,fuzzing --workers 1 "$@"  # Python 3.11 cannot parse in two threads (gh-106905)
}

# These end the token that they are called with: each gets one of its own, when the others are done.
ending=(POST:/auth/logout POST:/auth/change-password DELETE:/user/me)
others='^(POST /auth/logout|POST /auth/change-password|DELETE /user/me|POST /auth/refresh|DELETE /auth/sessions/.*)$'

status=0
TOKEN=$(log_in | pick access_token)
export TOKEN
check --exclude-name-regex "$others" "$@" || status=1
for operation in "${ending[@]}"; do
    TOKEN=$(log_in | pick access_token)
    check --include-name "${operation%%:*} ${operation#*:}" --max-examples 5 "$@" || status=1
done
TOKEN=$(log_in | pick refresh_token)
check --include-name "POST /auth/refresh" --max-examples 5 "$@" || status=1
TOKEN=$(log_in | pick access_token)
check --include-name "DELETE /auth/sessions/{session_id}" --max-examples 5 "$@" || status=1
exit "$status"
