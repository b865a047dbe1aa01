"""One run of the whole stack, in the foreground until Ctrl-C."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from types import FrameType

import psycopg2

from sandbox.stack import processes, settings
from sandbox.stack.folder import Lock, locked, stack_folder
from sandbox.stack.postgres import PostgresServer
from sandbox.stack.processes import (
    POLL_SECONDS,
    ROOT,
    Processes,
    StackError,
    StoppedError,
    procfile_commands,
    says_ok,
    wait_until,
)
from sandbox.stack.servers import Server, ServerError, ValkeyServer

READY_SECONDS = 60.0
MIGRATION_SECONDS = 600.0
# A terminal, `make` and a process manager may each pass on the same Ctrl-C.
_ECHO_SECONDS = 0.7


# To be pasted into bash or zsh: no comments (an interactive zsh knows none), no unquoted `?` or `!`. Each paste takes
# another number (nobody has a 555 one), so that neither the quota nor the wait between two codes is in the way.
_CONVERSATION = r"""API=http://127.0.0.1:{port}
JSON='Content-Type: application/json'
MOBILE="+1202555$((RANDOM % 9000 + 1000))"
pick() {{ sed -n "s/.*\"$1\": *\"\([^\"]*\)\".*/\1/p" | head -n 1; }}
curl -s -w '\n' "$API/auth/signup" -H "$JSON" -d "{{\"mobile\": \"$MOBILE\", \"name\": \"Ada\"}}"
OTP=$(curl -s "$API/auth/send-otp" -H "$JSON" -d "{{\"mobile\": \"$MOBILE\"}}" | pick otp)
TOKEN=$(curl -s "$API/auth/verify-otp" -H "$JSON" -d "{{\"mobile\": \"$MOBILE\", \"otp\": \"$OTP\"}}" | pick access_token)
AUTH="Authorization: Bearer $TOKEN"
ROOM=$(curl -s "$API/chatroom" -H "$AUTH" -H "$JSON" -d '{{"title": "First steps"}}' | pick id)
curl -s -w '\n' "$API/chatroom/$ROOM/message" -H "$AUTH" -H "$JSON" -H 'Prefer: wait=10' -d '{{"text": "Explain DNS"}}'
"""  # noqa: E501 - one command, one line

_TEXT = """
{rule}
 The API is ready.

   Docs      http://127.0.0.1:{port}/docs
   Health    http://127.0.0.1:{port}/readyz
{locations}
   Stop      Ctrl-C

 Paste this into another terminal for a first answer:

{conversation}{rule}
"""

_WIDTH = 78


class StopSignals:
    """`requested` after the first SIGINT, SIGTERM or SIGHUP; `hurried` after another SIGINT or SIGTERM."""

    def __init__(self) -> None:
        self.requested = False
        self.hurried = False
        self._first = 0.0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._heard)

    def _heard(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.requested:
            self.request()
        elif number != signal.SIGHUP and now - self._first > _ECHO_SECONDS:
            self.hurried = True

    def request(self) -> None:
        """Request the stop, as a signal does."""
        self.requested = True
        self._first = time.monotonic()

    def check(self) -> None:
        """Raise StoppedError if the stop was requested."""
        if self.requested:
            raise StoppedError


def welcome(*, port: int, locations: dict[str, str]) -> str:
    """Return the welcome text. locations: more names and places to list."""
    lines = "\n".join(f"   {name:<9} {where}" for name, where in locations.items())
    return _TEXT.format(rule="─" * _WIDTH, port=port, locations=lines, conversation=conversation(port))


def conversation(port: int) -> str:
    """Return shell commands for bash and zsh that go from signup to an answered message."""
    return _CONVERSATION.format(port=port)


class Stack:
    """One run, from the first check to the end of the last process."""

    def __init__(self, stop: StopSignals) -> None:
        self._var = stack_folder()
        self._stop = stop
        self._processes = Processes(lost_output=stop.request)
        self._servers: list[Server] = []
        self._stand_ins: list[str] = []
        self._app: list[str] = []
        self._locations: dict[str, str] = {}

    def run(self) -> None:
        """Start everything, wait until a stop is requested, and stop everything. Raises what `main` catches."""
        began = time.monotonic()
        given = settings.given_environment(ROOT, os.environ)
        commands = procfile_commands(ROOT / "Procfile")
        with locked(self._var) as lock, ExitStack() as at_the_end:
            port = settings.chosen_port(given)
            added = {"APP_ENV": given["APP_ENV"], "PORT": str(port), **settings.token_secret(given, self._var)}
            added |= self._start_servers(given, at_the_end)
            at_the_end.callback(self._stop_processes)
            added |= self._start_stand_ins(given, port, lock)
            environ = settings.process_environment(given, added)
            self._migrate(environ)
            for name, command in commands.items():
                self._app.append(name)
                lock.record(name, self._processes.start(name, command, environ))
            self._locations["Variables"] = f". {os.path.relpath(self._var / 'stack.env', ROOT)}"
            settings.write_exports(self._var / "stack.env", added)
            at_the_end.callback((self._var / "stack.env").unlink, missing_ok=True)
            self._wait_until_ready(port)
            self._processes.say(f"Ready after {time.monotonic() - began:.1f} s")
            self._processes.wait_for_silence(unless=lambda: self._stop.requested)
            self._stop.check()
            self._processes.show(welcome(port=port, locations=self._locations))
            while not self._stop.requested:
                self._fail_if_one_ended()
                time.sleep(POLL_SECONDS)

    def _start_servers(self, given: dict[str, str], at_the_end: ExitStack) -> dict[str, str]:
        """Start the databases that have no given address. Returns their addresses."""
        addresses = {}
        if not given.get("DATABASE_URL"):
            addresses["DATABASE_URL"] = self._start_server(PostgresServer(self._var / "postgres"), at_the_end)
        if not given.get("REDIS_URL"):
            addresses["REDIS_URL"] = self._start_server(ValkeyServer(self._var / "valkey"), at_the_end)
        return addresses

    def _start_server(self, server: Server, at_the_end: ExitStack) -> str:
        self._stop.check()
        self._processes.say(f"Starting {server.name.capitalize()}")
        at_the_end.enter_context(server)
        self._servers.append(server)
        self._locations[server.name.capitalize()] = str(server.folder)
        return server.url

    def _start_stand_ins(self, given: dict[str, str], port: int, lock: Lock) -> dict[str, str]:
        """Start the stand-ins and the chat page. Returns the variables that the product needs to use them."""
        variables: dict[str, str] = {}
        chat = settings.chat_page(given, api_port=port)
        for stand_in in (*([chat] if chat else []), *settings.stand_ins(given, port=port, var=self._var)):
            self._stop.check()
            hint = " (try it in a browser)" if stand_in is chat else ""
            self._locations[stand_in.name.capitalize()] = f"http://127.0.0.1:{stand_in.port}{hint}"
            self._stand_ins.append(stand_in.name)
            environ = settings.process_environment(given, {})
            lock.record(stand_in.name, self._processes.start(stand_in.name, stand_in.command, environ))
            variables |= stand_in.variables
        return variables

    def _migrate(self, environ: dict[str, str]) -> None:
        """Bring the database up to date. The output is shown only if that fails."""
        self._stop.check()
        if is_up_to_date(environ["DATABASE_URL"]):  # Flask-Migrate takes some seconds to find out
            return
        self._processes.say("Bringing the database up to date")
        with tempfile.TemporaryFile() as output:
            migration = processes.spawn(settings.MIGRATE, output=output, env=environ, cwd=ROOT)
            wait_until(lambda: migration.poll() is not None or self._stop.requested, seconds=MIGRATION_SECONDS)
            processes.kill_group(migration.pid)
            code = migration.wait()
            self._stop.check()
            if code != 0:
                output.seek(0)
                self._processes.show(output.read().decode(errors="replace"))
                raise StackError("The migrations failed: see above.")

    def _wait_until_ready(self, port: int) -> None:
        url = f"http://127.0.0.1:{port}/readyz"

        def ready() -> bool:
            self._stop.check()
            self._fail_if_one_ended()
            return says_ok(url)

        if not wait_until(ready, seconds=READY_SECONDS):
            raise StackError(f"{url} was not ready within {READY_SECONDS:.0f} s: see the log above.")

    def _fail_if_one_ended(self) -> None:
        ended = self._processes.ended()
        if ended is None:
            gone = [server for server in self._servers if server.pid is None]
            ended = f"{gone[0].name} has stopped unexpectedly (see {gone[0].log_file})" if gone else None
        if ended is not None and not self._stop.requested:
            raise StackError(f"{ended}, so everything is being stopped.")

    def _stop_processes(self) -> None:
        """Stop the app's processes, then the stand-ins they use. The databases end last, with their own contexts."""
        if self._app:
            self._processes.say("Stopping (Ctrl-C again to hurry)")
        for names in (self._app, self._stand_ins):
            self._processes.stop(names, hurried=lambda: self._stop.hurried)


def newest_migration() -> str:
    """Return the newest migration's number, with which its file name begins."""
    return max(file.name[:4] for file in (ROOT / "migrations" / "versions").glob("[0-9]*.py"))


def is_up_to_date(database_url: str) -> bool:
    """Return whether the database has the newest migration; False if it cannot be asked."""
    try:
        with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT version_num FROM alembic_version")
            return bool(cursor.fetchall() == [(newest_migration(),)])
    except psycopg2.Error:
        return False


def main() -> int:
    """Return 0 after Ctrl-C or SIGTERM, or 1 after a sentence about what is in the way or broke."""
    try:
        Stack(StopSignals()).run()
    except StoppedError:
        return 0
    except (StackError, ServerError, subprocess.SubprocessError, OSError) as error:
        print(error, file=sys.stderr, flush=True)
        return 1
    return 0
