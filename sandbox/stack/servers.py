"""Real databases for whoever needs some: `make run`, the test-suite, experiments with crashes.

    with postgres_server(durable=False) as postgres, valkey_server(append_only=False) as valkey:
        connect(postgres.url, valkey.url)
        valkey.kill()
        valkey.start()  # same address

Without a folder the data is temporary. A server has `url`, `pid`, `folder`, `log_file`, `start()`, `stop()`
and `kill()`. It ends with the process that started it, however that ends (Linux), and no Ctrl-C reaches it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sandbox.stack.postgres import PostgresServer
from sandbox.stack.server import Server, ServerError
from sandbox.stack.valkey import ValkeyServer
from sandbox.stack.waiting import free_port, wait_until

__all__ = [
    "PostgresServer",
    "Server",
    "ServerError",
    "ValkeyServer",
    "free_port",
    "postgres_server",
    "valkey_server",
    "wait_until",
]


@contextmanager
def postgres_server(data_dir: Path | None = None, *, durable: bool = True) -> Iterator[PostgresServer]:
    """A running PostgreSQL, stopped at the end. Raises ServerError.

    data_dir: where its data stays; None for a temporary folder.
    durable: False is for tests: faster, and safe against kill -9 but not against a power cut.
    """
    with PostgresServer(data_dir, durable=durable) as server:
        yield server


@contextmanager
def valkey_server(
    data_dir: Path | None = None, *, append_only: bool = True, databases: int = 16
) -> Iterator[ValkeyServer]:
    """A running Valkey, stopped at the end. Raises ServerError.

    data_dir: where its data stays; None for a temporary folder.
    append_only: keep the data over a restart.
    databases: how many numbered ones it has.
    """
    with ValkeyServer(data_dir, append_only=append_only, databases=databases) as server:
        yield server
