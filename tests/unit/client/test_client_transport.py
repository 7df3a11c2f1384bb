"""HTTP as it goes wrong: each failure is an error of ours, and says whether anything was sent."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from trivet import errors
from trivet.bodies import BytesBody, StreamBody
from trivet.caller import Caller, Request, whole
from trivet.retry import RetryPolicy
from trivet.transport import Answer

_ONCE = RetryPolicy(attempts=1)
_LARGE = bytes(4 << 20)


@asynccontextmanager
async def _server(answer: bytes, *, reads: int | None = 1, waits: bool = False, tls: ssl.SSLContext | None = None):
    """Answers every connection with these bytes once `reads` bytes came (None: at once), and closes, or waits."""
    ends = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if reads is not None:
            await reader.readexactly(reads)
        writer.write(answer)
        await writer.drain()
        if waits:
            await ends.wait()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        ends.set()
        server.close()
        await server.wait_closed()


async def _call(url: str, request: Request, *, timeout_s: float = 5.0) -> bytes:
    caller = Caller(url, None, timeout_s=timeout_s, retry=_ONCE)
    try:
        return await caller.call(request, whole)
    finally:
        await caller.close()


async def test_an_answer_is_read() -> None:
    """The control: what the other tests break, whole."""
    async with _server(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nHello") as url:
        assert await _call(url, Request("GET", "/x")) == b"Hello"


async def test_nobody_at_the_address_is_definite() -> None:
    """Nothing was sent."""
    async with _server(b"") as url:
        pass
    with pytest.raises(errors.ConnectionFailed, match="address") as caught:
        await _call(url, Request("GET", "/x"))
    assert caught.value.definite


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nConte", b"SSH-2.0-OpenSSH_9.2\r\n"])
async def test_a_connection_that_ends_without_an_answer_is_not_definite(answer) -> None:
    """The request may have been carried out."""
    async with _server(answer) as url:
        with pytest.raises(errors.ConnectionFailed) as caught:
            await _call(url, Request("GET", "/x"))
        assert not caught.value.definite


@pytest.mark.parametrize(
    "head",
    [b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n"],
)
async def test_a_body_that_ends_early_is_broken(head) -> None:
    """Never a short file."""
    async with _server(head + b"Hello") as url:
        with pytest.raises((errors.BrokenDownload, errors.ConnectionFailed)):
            await _call(url, Request("GET", "/x"))


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nHello"])
async def test_silence_ends_at_the_deadline(answer) -> None:
    """Before an answer, and in the middle of one."""
    async with _server(answer, waits=True) as url:
        with pytest.raises(errors.ConnectionFailed) as caught:
            await _call(url, Request("GET", "/x"), timeout_s=0.3)
        assert not caught.value.definite


async def test_a_refusal_before_the_body_was_taken_is_heard() -> None:
    """As of a key that may not write: not a lost connection."""
    text = b'{"code": "access_denied", "definite": true}'
    head = b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/problem+json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    async with _server(head % len(text) + text, waits=True) as url:
        with pytest.raises(errors.Forbidden):
            await _call(url, Request("PUT", "/x", {}, BytesBody(_LARGE)))


async def test_what_a_server_never_takes_is_not_waited_for() -> None:
    """Its refusal ends while the client cannot send on; the client ends all the same."""
    ends = asyncio.Event()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/problem+json\r\nContent-Length: 2\r\n\r\n{")
        await asyncio.sleep(0.3)  # what lies on the way is all that fits
        writer.write(b"}")
        await ends.wait()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server, asyncio.timeout(20):
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(errors.Forbidden):
            await _call(url, Request("PUT", "/x", {}, BytesBody(bytes(64 << 20))))
        ends.set()


async def test_what_a_source_raises_gets_out_as_it_is() -> None:
    """Not as a lost connection, which would be repeated."""

    def pieces():
        yield b"one"
        raise ZeroDivisionError

    async with _server(b"", reads=None, waits=True) as url:
        with pytest.raises(ZeroDivisionError):
            await _call(url, Request("PUT", "/x", {}, StreamBody(pieces())))


@pytest.mark.parametrize("proxy", ["http://{}", "{}", "http://bob:hunter2@{}"])
async def test_a_proxy_does_not_hear_the_key_nor_an_error_tell_its_password(monkeypatch, proxy) -> None:
    """CONNECT goes to it in the clear. The variable may leave the scheme out."""
    heard = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        monkeypatch.setenv("https_proxy", proxy.format(f"127.0.0.1:{server.sockets[0].getsockname()[1]}"))
        caller = Caller("https://store.test", "TVid.secret", timeout_s=5.0, retry=_ONCE)
        with pytest.raises(errors.ConnectionFailed) as caught:
            await caller.call(Request("GET", "/x"), whole)
        await caller.close()
    assert heard[0].startswith(b"CONNECT store.test:443")
    assert b"secret" not in heard[0]
    assert (b"Proxy-Authorization: Basic" in heard[0]) == ("hunter2" in proxy)
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize("proxy", ["socks5://bob:hunter2@host:1080", "http://", "http://[host"])
async def test_a_proxy_that_is_none_of_http_is_refused(monkeypatch, proxy) -> None:
    """In our words, without its password."""
    monkeypatch.setenv("https_proxy", proxy)
    with pytest.raises(errors.ConfigError, match="https_proxy") as caught:
        await _call("https://store.test", Request("GET", "/x"))
    assert "hunter2" not in caught.value.message


async def test_a_server_without_tls_is_not_trusted_as_one_with_it() -> None:
    """And that is said as it is."""
    async with _server(b"HTTP/1.1 400 Bad Request\r\n\r\n") as url:
        with pytest.raises(errors.TrivetError) as caught:
            await _call(url.replace("http:", "https:"), Request("GET", "/x"))
        assert not isinstance(caught.value, ssl.SSLError)


async def test_https_is_checked_against_what_is_trusted_now(monkeypatch, tmp_path) -> None:
    """Not against what was trusted when aiohttp was imported: the program has it find nothing, to start sooner."""
    file = _certificate(tmp_path / "of-127.0.0.1.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(file)
    async with _server(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nHello", tls=context) as url:
        with pytest.raises(errors.ConfigError, match="trusted"):
            await _call(url, Request("GET", "/x"))
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        assert await _call(url, Request("GET", "/x")) == b"Hello"


def _certificate(path: Path) -> Path:
    """Key and certificate of 127.0.0.1, which nobody has signed but itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a store")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(key.private_bytes(*plain) + certificate.public_bytes(serialization.Encoding.PEM))
    return path


async def test_no_more_is_read_than_was_wanted() -> None:
    """However much comes: here without an announced end."""

    async def some(answer: Answer) -> bytes:
        return await answer.read(1000)

    async with _server(b"HTTP/1.1 200 OK\r\n\r\n" + _LARGE, waits=True) as url:
        caller = Caller(url, None, timeout_s=5.0, retry=_ONCE)
        assert await caller.call(Request("GET", "/x"), some) == bytes(1001)
        await caller.close()


async def test_a_refused_connection_says_where_the_address_comes_from() -> None:
    """In words of the system, and without those of a library."""
    async with _server(b"") as url:
        pass
    caller = Caller(url, None, timeout_s=5.0, retry=_ONCE)
    with pytest.raises(errors.ConnectionFailed) as caught:
        await caller.call(Request("GET", "/x"), whole)
    await caller.close()
    assert str(caught.value).startswith(f"{url} cannot be reached: Connection refused. Is it running")
    assert "TRIVET_URL" in str(caught.value)
    assert "make run" in str(caught.value)
    assert caught.value.definite
