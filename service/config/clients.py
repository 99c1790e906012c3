"""HTTP clients and AWS sessions of daemon and commands, built as the environment says (proxies, certificates); and what
answers mean, whoever asks: a status as one of our errors, how long to wait.

HTTP_PROXY, HTTPS_PROXY, ALL_PROXY (http, https, socks5, socks5h) and NO_PROXY, in small letters too; SSL_CERT_FILE,
SSL_CERT_DIR; AWS_CA_BUNDLE, AWS_ENDPOINT_URL and the rest of botocore's. What can't be used is a ConfigError that names
the variable. httpx would read most of this by itself, but fails at networks and bracketed addresses in NO_PROXY.
"""

import os
import re
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache, partial
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from service.config.masking import MASK, mask_address
from service.domain.errors import ConfigError, HealthError, Rejected, TooLarge, Unauthorized, Unavailable

_S3_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")


def http_client(
    environ: Mapping[str, str] = os.environ,
    *,
    user_agent: str = "infra-health",
    timeout: float | httpx.Timeout = 30.0,
) -> httpx.AsyncClient:
    """A client that follows no redirects. Raises ConfigError for a variable that can't be used.

    ``timeout``: seconds to connect, and between two pieces of the answer.
    """
    transport, headers = _RoutingTransport(environ), {"User-Agent": user_agent}
    return httpx.AsyncClient(transport=transport, timeout=timeout, headers=headers, trust_env=False)


def sync_http_client(
    environ: Mapping[str, str] = os.environ,
    *,
    base_url: str,
    timeout: float = 15.0,
    headers: Mapping[str, str] | None = None,
) -> httpx.Client:
    """A client for the one server at ``base_url`` (the commands' way to the daemon). Raises as ``http_client``."""
    proxy = proxy_for(base_url, environ)
    # Loading the authorities costs 20 ms and more; without any of them TLS would refuse every server.
    is_plain = base_url.startswith("http://") and not (proxy or "").startswith("https:")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if is_plain else _ssl_context(environ)
    through = _proxy(proxy, context)
    return httpx.Client(
        base_url=base_url, verify=context, proxy=through, timeout=timeout, headers=headers, trust_env=False
    )


def proxy_for(url: str, environ: Mapping[str, str] = os.environ) -> str | None:
    """The proxy through which ``url`` is asked, None where it is asked directly, as this machine's own addresses always
    are. Raises ConfigError for a proxy of a kind that httpx does not know."""
    parts = urlsplit(url)
    host, port = (parts.hostname or "").rstrip("."), parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    excepted = (environ.get("no_proxy") or environ.get("NO_PROXY", "")).lower().replace(",", " ").split()
    if any(_matches(entry, host, port) for entry in ("localhost", "127.0.0.0/8", "::1", *excepted)):
        return None
    return _proxies(environ).get(parts.scheme)


def suggest_variable(
    error: Exception, url: str, environ: Mapping[str, str] = os.environ, authorities: str = "SSL_CERT_FILE"
) -> str:
    """Half a sentence that names the variable which leads out of a failed connection to ``url``, or nothing."""
    if "CERTIFICATE_VERIFY_FAILED" in str(error) and "mismatch" not in str(error):
        return f"; set {authorities} to a file with the certificates of your authorities"
    if proxy := proxy_for(url, environ):
        return f"; it was asked through the proxy {mask_address(proxy)}: NO_PROXY names the hosts that need none"
    return ""


def describe_error(error: Exception) -> str:
    """``no answer (ConnectError): All connection attempts failed``."""
    return f"no answer ({type(error).__name__}): {mask_address(str(error))}".removesuffix(": ")


def certificate_file(environ: Mapping[str, str] = os.environ) -> str | None:
    """The file of authorities that SSL_CERT_FILE names, None without it. Raises ConfigError when it can't be used."""
    path = environ.get("SSL_CERT_FILE") or None
    if path:
        _load_authorities("SSL_CERT_FILE", path)
    return path


def check_environment(environ: Mapping[str, str]) -> list[str]:
    """What of the environment can't be used by any client, a sentence each that names the variable."""
    variables = ("SSL_CERT_FILE", "SSL_CERT_DIR", "AWS_CA_BUNDLE")
    checks: list[Callable[[], object]] = [partial(_proxies, environ)]
    checks += [partial(_load_authorities, name, path) for name in variables if (path := environ.get(name))]
    checks += [partial(_ssl_context, environ)] if environ.get("SSLKEYLOGFILE") else []
    problems = []
    for check in checks:
        try:
            check()
        except ConfigError as error:
            problems.append(str(error))
    return list(dict.fromkeys(problems))


def parse_http_date(text: str) -> datetime | None:
    """A date of an HTTP header in UTC, None for what is no date."""
    try:
        date = parsedate_to_datetime(text)
        return date.astimezone(UTC) if date.tzinfo else date.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def retry_after(headers: Mapping[str, str], now: datetime, name: str = "retry-after") -> float | None:
    """Seconds that the header asks to wait (RFC 9110, 10.2.3: seconds or a date), None when it asks for nothing.

    A date counts from the answer's own Date, from ``now`` where it has none. ``headers`` know no case.
    """
    text = headers.get(name, "").strip()
    if re.fullmatch(r"\d{1,15}(\.\d+)?", text, re.ASCII):
        return float(text)
    until = parse_http_date(text)
    return max(0.0, (until - (parse_http_date(headers.get("date", "")) or now)).total_seconds()) if until else None


def refuse_status(status: int, message: str, wait: float | None = None) -> HealthError:
    """The error that an HTTP status stands for. ``wait``: seconds that the server asks for."""
    if status in (401, 403):
        return Unauthorized(message)
    if status in (408, 429) or status >= 500:
        return Unavailable(message, retry_after=wait)
    return TooLarge(message) if status == httpx.codes.REQUEST_ENTITY_TOO_LARGE else Rejected(message)


def refuse_answer(answer: httpx.Response, message: str) -> HealthError:
    """``refuse_status`` with what the answer asks to wait."""
    return refuse_status(answer.status_code, message, retry_after(answer.headers, datetime.now(UTC)))


def to_health_error(error: Exception) -> HealthError | None:
    """What an error of httpx means to whoever let it out (collectors of other packages); None for any other error."""
    if isinstance(error, httpx.HTTPStatusError):
        answer = error.response
        return refuse_answer(answer, f"{mask_address(str(answer.url))}: answered {answer.status_code}")
    if isinstance(error, httpx.RequestError):
        try:
            place = f"{mask_address(str(error.request.url))}: "
        except RuntimeError:  # raised by hand, of no request
            place = ""
        return Unavailable(f"{place}{describe_error(error)}")
    return None


@asynccontextmanager
async def aws_client(
    service: str, title: str, *, connect_timeout: float = 5, read_timeout: float = 30
) -> AsyncIterator[Any]:
    """An aioboto3 client of ``service`` that tries once; region and role come from the usual AWS chain (IRSA included).

    ``title`` begins the messages. Raises ConfigError (no region, no credentials, a variable that can't be used) and
    Unavailable (no answer), also for what is asked within; botocore's ClientError is left to the caller.
    Importing and building it takes most of a second of CPU: do so in a thread where a loop must not wait.
    """
    if bundle := os.environ.get("AWS_CA_BUNDLE"):
        _load_authorities("AWS_CA_BUNDLE", bundle)
    if (os.environ.get("https_proxy") or os.environ.get("HTTPS_PROXY", "")).startswith("socks"):
        raise ConfigError(f"{title}: AWS can't be asked through the SOCKS proxy that HTTPS_PROXY names; set ALL_PROXY")
    import aioboto3
    from aiobotocore.config import AioConfig
    from aiohttp import ClientError as TransferError
    from botocore import exceptions

    # Stand-ins for S3 seldom have a host name for each bucket.
    s3 = {"addressing_style": "path"} if service == "s3" and any(map(os.environ.get, _S3_ENDPOINTS)) else None
    config = AioConfig(
        connect_timeout=connect_timeout, read_timeout=read_timeout, retries={"total_max_attempts": 1}, s3=s3
    )
    try:
        async with aioboto3.Session().client(service, config=config) as client:
            yield client
    except exceptions.ClientError:
        raise
    except exceptions.NoRegionError as error:
        raise ConfigError(f"{title}: no region; set AWS_REGION") from error
    except (exceptions.NoCredentialsError, exceptions.ProfileNotFound) as error:
        raise ConfigError(f"{title}: no credentials") from error
    except exceptions.ParamValidationError as error:
        raise ConfigError(f"{title}: {str(error).splitlines()[0]}") from error
    except (exceptions.ConfigParseError, ValueError) as error:
        variables = "AWS_ENDPOINT_URL, AWS_REGION or the file AWS_CONFIG_FILE"
        raise ConfigError(f"{title}: {mask_address(str(error))}; correct {variables}") from error
    except (exceptions.BotoCoreError, TransferError, OSError) as error:
        message = f"{title}: {describe_error(error)}"
        raise Unavailable(message + suggest_variable(error, "https://aws", authorities="AWS_CA_BUNDLE")) from error


class _RoutingTransport(httpx.AsyncBaseTransport):
    """Sends each request directly or through the proxy for its address; its errors name the variable that leads out."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        _proxies(environ)  # raises ConfigError now, not with the first request
        self._environ, self._context = dict(environ), _ssl_context(environ)
        self._transports: dict[str | None, httpx.AsyncHTTPTransport] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = str(request.url)
        proxy = proxy_for(url, self._environ)
        if proxy not in self._transports:
            self._transports[proxy] = httpx.AsyncHTTPTransport(
                verify=self._context, proxy=_proxy(proxy, self._context), trust_env=False
            )
        try:
            return await self._transports[proxy].handle_async_request(request)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            raise type(error)(f"{error}{suggest_variable(error, url, self._environ)}", request=request) from error

    async def aclose(self) -> None:
        for transport in self._transports.values():
            await transport.aclose()


def _proxy(url: str | None, context: ssl.SSLContext) -> httpx.Proxy | None:
    return httpx.Proxy(url, ssl_context=context if url.startswith("https:") else None) if url else None


def _proxies(environ: Mapping[str, str]) -> dict[str, str]:
    """The proxy for http and https. Raises ConfigError for one of a kind that httpx does not know."""
    found = {}
    for scheme in ("http", "https"):
        names = (f"{scheme}_proxy", f"{scheme}_proxy".upper(), "all_proxy", "ALL_PROXY")
        if name := next((each for each in names if environ.get(each, "").strip()), None):
            text = environ[name].strip()
            found[scheme] = text if "://" in text else f"http://{text}"
            try:
                url = httpx.Proxy(found[scheme]).url
                # A password with / or # in it makes a host of its beginning.
                if not url.host or url.raw_path != b"/" or url.fragment or not 0 < (url.port or 80) < 65536:
                    raise ValueError("no host or no port")
            except (ValueError, httpx.InvalidURL):
                kinds = "http://, https://, socks5://, socks5h://; of a password / # ? as %2F %23 %3F"
                shown = re.sub("//.*@", f"//{MASK}@", text)
                what = f"{shown} is no proxy that can be used ({kinds}); mend or unset it"
                raise ConfigError(f"environment {name}: {what}") from None
    return found


def _matches(entry: str, host: str, port: int | None) -> bool:
    """Whether an entry of NO_PROXY means the host: 10.0.0.0/8, [::1]:8080, .example.com, *.example.com:443, *."""
    try:
        return ip_address(host) in ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        name = f"[{host}]" if ":" in host else host
        domain = entry.lstrip("*.")
        return entry == "*" or any(domain and f".{each}".endswith(f".{domain}") for each in (name, f"{name}:{port}"))


def _ssl_context(environ: Mapping[str, str]) -> ssl.SSLContext:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        if path := environ.get(name):
            return _load_authorities(name, path)
    import certifi

    return _load_authorities("", certifi.where())


@lru_cache(maxsize=8)
def _load_authorities(variable: str, path: str) -> ssl.SSLContext:
    """One context for all clients: parsing the authorities of the world takes 20 to 50 ms. Raises ConfigError."""
    try:
        if variable == "SSL_CERT_DIR":
            # Several with a colon between, of which one is enough. OpenSSL itself would say nothing.
            found = filter(Path.is_dir, map(Path, filter(None, path.split(os.pathsep))))
            next(next(found, Path(path)).iterdir(), None)
            return ssl.create_default_context(capath=path)
        return ssl.create_default_context(cafile=path)
    except ssl.SSLError:
        reason = "holds no certificate in PEM format"
    except OSError as error:
        if error.filename and error.filename == os.environ.get("SSLKEYLOGFILE"):  # which Python writes to
            raise ConfigError(f"environment SSLKEYLOGFILE: {error.filename}: {error.strerror}; unset it") from error
        reason = f"can't be read ({(error.strerror or 'no certificates').lower()})"
    raise ConfigError(
        f"environment {variable}: {path} {reason}; name one with the certificates of your authorities, or unset it"
    )
