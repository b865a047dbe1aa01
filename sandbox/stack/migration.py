"""`make migration m="…"`: writes a migration, from a fresh database with all migrations so far."""

import os
import subprocess
import sys

from sandbox.stack.postgres import PostgresServer
from sandbox.stack.processes import ROOT
from sandbox.stack.run import newest_migration
from sandbox.stack.servers import ValkeyServer


def main() -> int:
    """Run `flask db migrate` with the only argument as the message. The migration gets the next number."""
    if len(sys.argv) != 2 or not sys.argv[1].strip():
        print('A migration needs a name: make migration m="Add the colour of a chatroom"', file=sys.stderr)
        return 1
    number = int(newest_migration()) + 1
    flask = ["flask", "--app", "wsgi", "db"]
    steps = (
        [*flask, "upgrade"],
        [*flask, "migrate", "-m", sys.argv[1], "--rev-id", f"{number:04}"],
        ["ruff", "format", "--quiet", "migrations/versions"],
    )
    with PostgresServer(durable=False) as postgres, ValkeyServer(append_only=False) as valkey:
        environ = {**os.environ, "APP_ENV": "development", "DATABASE_URL": postgres.url, "REDIS_URL": valkey.url}
        for step in steps:
            done = subprocess.run([sys.executable, "-m", *step], check=False, cwd=ROOT, env=environ)
            if done.returncode != 0:
                return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
