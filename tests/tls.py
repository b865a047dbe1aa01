"""TLS in front of servers whose packages have none: certificates made here, and a proxy that ends the encryption."""

import asyncio
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

# https://www.postgresql.org/docs/current/protocol-message-formats.html
SSL_REQUEST, SSL_ACCEPTED = bytes.fromhex("0000000804d2162f"), b"S"


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate. `trusted`: the file that makes clients trust it; `context`: serves with it."""

    trusted: Path
    context: ssl.SSLContext


def make_certificate(folder: Path, host: str = "localhost") -> Certificate:
    """Make a certificate for a host, or 127.0.0.1, valid for an hour, with its files in an existing folder."""
    named = x509.IPAddress(ip_address(host)) if host == "127.0.0.1" else x509.DNSName(host)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([named]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    trusted, secret = folder / f"{host}.pem", folder / f"{host}.key"
    trusted.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(trusted, secret)
    return Certificate(trusted, context)


class Proxy:
    """Speaks TLS with clients and plain text with a server: `valkey` by TCP, or `postgres` on its unix socket."""

    def __init__(self, url: str, context: ssl.SSLContext) -> None:
        self.parts = urlsplit(url)
        self.context = context
        self.is_postgres = self.parts.scheme.startswith("postgres")
        self.port = 0
        self.started = threading.Event()
        self.stop: Callable[[], object] = lambda: None

    async def serve(self) -> None:
        """Serve until `stop`, which cuts off what is connected then."""
        context = None if self.is_postgres else self.context  # there TLS begins after a plain message
        server = await asyncio.start_server(self.pass_on, "127.0.0.1", 0, ssl=context)
        self.port = server.sockets[0].getsockname()[1]
        loop, over = asyncio.get_running_loop(), asyncio.Event()
        self.stop = lambda: loop.call_soon_threadsafe(over.set)
        self.started.set()
        await over.wait()
        server.close()

    async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError), ExitStack() as ends:
            ends.callback(abort, writer)
            if self.is_postgres:
                if await reader.readexactly(len(SSL_REQUEST)) != SSL_REQUEST:
                    return  # a client without TLS
                writer.write(SSL_ACCEPTED)
                await writer.start_tls(self.context)
                query = parse_qs(self.parts.query)
                behind = await asyncio.open_unix_connection(f"{query['host'][0]}/.s.PGSQL.{query['port'][0]}")
            else:
                behind = await asyncio.open_connection(self.parts.hostname, self.parts.port)
            ends.callback(abort, behind[1])
            ways = {asyncio.create_task(pump(reader, behind[1])), asyncio.create_task(pump(behind[0], writer))}
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)


def abort(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()  # TLS replaces the writer's own transport


async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while piece := await source.read(65_536):
            target.write(piece)
            await target.drain()


@contextmanager
def tls_in_front_of(url: str, certificate: Certificate, *, trusted: Path | None = None) -> Iterator[str]:
    """Run a proxy that shows the certificate, before the server of a Redis or PostgreSQL URL. Yields its TLS URL.

    trusted: the file that PostgreSQL's client trusts; redis-py trusts SSL_CERT_FILE.
    """
    proxy = Proxy(url, certificate.context)
    thread = threading.Thread(target=lambda: asyncio.run(proxy.serve()), daemon=True)
    thread.start()
    assert proxy.started.wait(10)
    where = proxy.parts._replace(netloc=f"{proxy.parts.netloc.rpartition('@')[0]}@localhost:{proxy.port}")
    verified = f"sslmode=verify-full&sslrootcert={trusted or certificate.trusted}"
    try:
        yield where._replace(query=verified).geturl() if proxy.is_postgres else where._replace(scheme="rediss").geturl()
    finally:
        proxy.stop()
        thread.join(10)
