"""Clients and the environment: which proxy is asked, and what is said of a variable that can't be used."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import certifi
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from service.config.clients import aws_client, check_environment, describe_error, http_client, proxy_for
from service.domain.errors import ConfigError, Unavailable
from tests.aws import reach

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
NO_PROXY = "localhost,[::1],10.0.0.0/8, fd00::/8 .example.com,b.test:8443,[2001:db8::1]:444,192.168.1.5,*.wild.test"


@asynccontextmanager
async def serving(tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Answers ``ok`` to whatever it is asked, as a server or a proxy (HTTP, SOCKS 5): its address, what it is asked."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.read(9999)
        if data.startswith(b"\x05"):
            writer.write(b"\x05\x00")
            await reader.read(9999)
            writer.write(b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50")
            data = b"socks " + await reader.read(9999)
        asked.append(data.partition(b"\r\n")[0])
        writer.write(ANSWER)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", asked


async def get(url: str, environ: Mapping[str, str]) -> str:
    async with http_client(environ, user_agent="test") as client:
        return (await client.get(url)).text


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize(("scheme", "line"), [("", "GET http://far.test/a"), ("socks5://", "socks GET /a")])
async def test_a_proxy_is_asked_for_what_is_not_excepted(variable: str, scheme: str, line: str) -> None:
    async with serving() as (address, asked):
        assert await get("http://far.test/a", {variable: f"{scheme}{address}", "NO_PROXY": NO_PROXY}) == "ok"
    assert asked == [f"{line} HTTP/1.1".encode()]


async def test_this_machine_is_asked_directly() -> None:
    environ = {"ALL_PROXY": "http://127.0.0.1:9", "NO_PROXY": "10.0.0.0/8,[::1]"}
    async with serving() as (address, asked):
        assert await get(f"http://{address}/a", environ) == "ok"
    assert asked == [b"GET /a HTTP/1.1"]


def test_no_proxy_takes_hosts_domains_ports_addresses_and_networks() -> None:
    proxied = ("https://far.test", "https://[fe80::5]", "https://notexample.com", "https://b.test")
    addresses = ("http://10.1.2.3", "https://[fd00::5]", "https://[2001:db8::1]:444", "http://192.168.1.5:80")
    hosts = ("https://example.com", "https://b.test:8443", "http://a.wild.test")
    here = ("http://127.9.9.9", "http://[::1]:8080")
    environ = {"HTTPS_PROXY": "http://p:3128", "HTTP_PROXY": "http://p:3128", "NO_PROXY": NO_PROXY}
    for url in (*proxied, *addresses, *hosts, *here):
        assert proxy_for(url, environ) == ("http://p:3128" if url in proxied else None), url
        assert proxy_for(url, {**environ, "no_proxy": "*"}) is None
    assert check_environment({**environ, "ALL_PROXY": "socks5h://p:1080", "SSL_CERT_FILE": certifi.where()}) == []


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("ALL_PROXY", "ftp://x:1", "ftp://x:1 is no proxy that can be used"),
        ("HTTP_PROXY", "http://me:hid#hidden@h:1", "http://********@h:1 is no proxy"),
        ("HTTP_PROXY", "http://h:99999", "http://h:99999 is no proxy"),
        ("SSL_CERT_FILE", "/nonexistent/ca.pem", "/nonexistent/ca.pem can't be read"),
        ("SSL_CERT_FILE", __file__, "holds no certificate"),
        ("AWS_CA_BUNDLE", "/nonexistent/ca.pem", "can't be read"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named(variable: str, value: str, reason: str) -> None:
    (problem,) = check_environment({variable: value})
    assert problem.startswith(f"environment {variable}: ")
    assert reason in problem
    assert "hidden" not in problem
    if not variable.startswith("AWS"):
        with pytest.raises(ConfigError, match=variable):
            http_client({variable: value})


def make_certificate(path: Path) -> Path:
    """A key and its certificate for 127.0.0.1, signed by nobody else."""
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "here")]), datetime.now(UTC)
    unsigned = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    hosts = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    signed = unsigned.add_extension(hosts, critical=False).sign(key, hashes.SHA256())
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL
    path.write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()) + signed.public_bytes(pem))
    return path


async def test_a_server_of_a_private_authority_is_trusted_once_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then the error names the variable that leads out, AWS's own where AWS is asked."""
    certificate = make_certificate(tmp_path / "here.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    async with serving(context) as (address, _):
        with pytest.raises(httpx.ConnectError, match="; set SSL_CERT_FILE to a file with the certificates of your"):
            await get(f"https://{address}", {})
        assert await get(f"https://{address}", {"SSL_CERT_FILE": str(certificate)}) == "ok"
        reach(f"https://{address}", monkeypatch)
        with pytest.raises(Unavailable, match="; set AWS_CA_BUNDLE to a file with the certificates of your"):
            async with aws_client("s3", "s3://b/k") as client:
                await client.list_buckets()


async def test_a_proxy_that_does_not_answer_is_named_with_the_way_past_it() -> None:
    with pytest.raises(httpx.ConnectError) as caught:
        await get("http://far.test", {"HTTP_PROXY": "http://me:hidden@127.0.0.1:9"})
    assert "through the proxy http://********@127.0.0.1:9: NO_PROXY names" in describe_error(caught.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("HTTPS_PROXY", "socks5://h:9"), ("AWS_ENDPOINT_URL", "localhost:4566"), ("AWS_CONFIG_FILE", __file__)],
)
async def test_aws_is_not_asked_with_what_cannot_be_used(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=variable):
        await aws_client("s3", "s3://b/k").__aenter__()
