"""Datadog's intake: sends bodies and events, and translates every answer into the error that the caller acts on.

    202, 200               taken
    400, 422               Rejected: something in the body is wrong
    413                    TooLarge, whoever says it (a proxy's limit counts as well)
    401, 403               Unauthorized when Datadog says it; Unavailable when a proxy does
    429                    Unavailable until X-RateLimit-Reset
    any other, no answer   Unavailable: kept and tried again, a wrong DD_URL (404, 3xx) included

Ambiguous is only a request that was sent and got no answer at all. An answer of 408 or 5xx says that the intake did not
take the body; a gateway that answers 502 or 504 may be wrong about that, but while one does so for minutes, each
distribution counted as unknown would be a certain loss against a possible double.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime

import anyio
import httpx
import msgspec
import structlog

from service.config.clients import parse_http_date, retry_after
from service.config.secrets import Secret
from service.config.settings import DatadogSettings
from service.datadog.payload import Payload
from service.domain.alerts import Event
from service.domain.errors import HealthError, Rejected, TooLarge, Unauthorized, Unavailable
from service.domain.samples import Kind

log = structlog.get_logger(__name__)

_SERIES, _DISTRIBUTIONS = "/api/v2/series", "/api/v1/distribution_points"
_EVENTS, _VALIDATE = "/api/v1/events", "/api/v1/validate"
_TIMEOUT = httpx.Timeout(20, connect=5, pool=5)
_DEADLINE = 30.0  # seconds for the request and its answer, however slowly they trickle
_MAX_ANSWER = 65_536  # bytes
_MAX_REASON = 300  # characters
_MAX_SKEW = 60.0  # seconds; Datadog drops what is ten minutes ahead or an hour behind

# The body did not leave this machine whole, so nobody can have taken it.
_NOT_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.WriteTimeout,
    httpx.LocalProtocolError,
    httpx.UnsupportedProtocol,
)


def intake_url(settings: DatadogSettings) -> str:
    """The base address of the intake and the API: DD_URL, else that of the site."""
    return settings.url or f"https://api.{settings.site}"


class Intake:
    """The intake at the base address ``url``, asked through ``client``, which whoever built it closes.

    ``clock_skew``: seconds by which our clock is ahead of the intake's Date header, None while unknown.
    ``requests``: answers so far by status; "error" where none came.
    ``trouble``: why the last request was not taken, None when it was.
    """

    def __init__(
        self,
        url: str,
        api_key: Secret,
        client: httpx.AsyncClient,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.clock_skew: float | None = None
        self.requests: Counter[str] = Counter()
        self.trouble: str | None = None
        self._url = url.rstrip("/")
        self._host = httpx.URL(url).host
        self._key = api_key
        self._client = client
        self._now = now

    async def send(self, payload: Payload) -> None:
        """Returns when the intake took ``payload``. Raises Unavailable, Rejected, Unauthorized or TooLarge."""
        is_distribution = payload.kind is Kind.DISTRIBUTION
        path, encoding = (_DISTRIBUTIONS, "deflate") if is_distribution else (_SERIES, "zstd1")
        try:
            await self._ask("POST", path, payload.body, {"Content-Encoding": encoding})
        except HealthError as error:
            # A body that was refused says nothing about the next one.
            self.trouble = None if isinstance(error, Rejected) and not isinstance(error, Unauthorized) else str(error)
            raise
        self.trouble = None

    async def send_event(self, event: Event) -> None:
        """Returns when Datadog took the event. Raises Unavailable, Rejected or Unauthorized.

        https://docs.datadoghq.com/api/latest/events/#post-an-event
        """
        body = asdict(event)
        body["date_happened"] = int(body.pop("at").timestamp())
        await self._ask("POST", _EVENTS, msgspec.json.encode(body))

    async def validate(self) -> None:
        """Returns when the intake takes the key. Nothing is sent. Raises Unauthorized, Unavailable or Rejected.

        https://docs.datadoghq.com/api/latest/authentication/#validate-api-key
        """
        await self._ask("GET", _VALIDATE)

    async def _ask(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        """One request; a second one where the first was refused and another key has come since."""
        try:
            await self._ask_once(method, path, body, headers or {})
        except Unauthorized:
            if not await self._key.ask_again():
                raise
            await self._ask_once(method, path, body, headers or {})

    async def _ask_once(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> None:
        key = await self._usable_key()
        sent = {"DD-API-KEY": key, "Content-Type": "application/json", "Accept-Encoding": "identity", **headers}
        url, content = self._url + path, body or None
        try:
            with anyio.fail_after(_DEADLINE):
                # A redirect is never followed with the key in hand.
                async with self._client.stream(
                    method, url, content=content, headers=sent, timeout=_TIMEOUT, follow_redirects=False
                ) as response:
                    text = await _read(response)
        except TimeoutError as error:
            self.requests["error"] += 1
            raise Unavailable(f"{self._host}: no answer within {_DEADLINE:.0f} s", ambiguous=True) from error
        except httpx.HTTPError as error:
            self.requests["error"] += 1
            reason = mask(f"{type(error).__name__} {error}", key)
            raise Unavailable(f"{self._host}: {reason}", ambiguous=not isinstance(error, _NOT_SENT)) from error
        self.requests[str(response.status_code)] += 1
        self._judge(response, text, key)

    async def _usable_key(self) -> str:
        key = (await self._key.get() or "").strip()
        if not key:
            # While a source can't be reached the key may come any minute; without one nobody brings it.
            raise Unavailable(self._key.missing) if self._key.may_pass else Unauthorized(self._key.missing)
        if not (key.isascii() and key.isprintable()):
            raise Unauthorized(f"the {self._key.title} holds characters that no key has")
        return key

    def _judge(self, response: httpx.Response, text: bytes, key: str) -> None:
        status, headers, errors = response.status_code, response.headers, _decode_errors(text)
        is_page = "html" in headers.get("content-type", "").lower()
        if not is_page:
            self._compare_clocks(headers.get("date"))
        reasons = mask("; ".join(errors or ()), key)
        answer = f"{self._host} answered {status}" + (f": {reasons}" if reasons else "")
        if status in (200, 202) and not is_page:
            if reasons:
                log.warning("the intake took a request with remarks", remarks=reasons)
            return
        if status in (400, 422) and not is_page:
            raise Rejected(answer if reasons else f"{answer}: {mask(text.decode(errors='replace'), key)}")
        if status == 413:
            raise TooLarge(answer)
        if status in (401, 403):
            if errors is None:
                raise Unavailable(f"{answer}, but not as Datadog does: is a proxy in between?")
            raise Unauthorized(f"{answer}; the {self._key.title} is refused")
        if status < 400 or status in (404, 405):
            raise Unavailable(f"{answer}, which no intake does: is DD_URL right?")
        # Datadog puts the seconds to wait in X-RateLimit-Reset, others in Retry-After.
        wait = retry_after(headers, self._now(), "x-ratelimit-reset") if status == 429 else None
        wait = retry_after(headers, self._now()) if wait is None else wait
        raise Unavailable(answer, retry_after=wait, answered=status >= 500)

    def _compare_clocks(self, date: str | None) -> None:
        intake_time = parse_http_date(date or "")
        if intake_time is None:
            return
        was_wrong = abs(self.clock_skew or 0) > _MAX_SKEW
        self.clock_skew = (self._now() - intake_time).total_seconds()
        is_wrong = abs(self.clock_skew) > _MAX_SKEW
        if is_wrong and not was_wrong:
            # Points keep their time: a second clock would only hide which one is wrong.
            log.warning("this machine's clock differs from the intake's", ahead_seconds=round(self.clock_skew))
        elif was_wrong and not is_wrong:
            log.info("this machine's clock agrees with the intake's again", ahead_seconds=round(self.clock_skew))


async def _read(response: httpx.Response) -> bytes:
    """The answer's text, bounded. The status alone decides, so a text that breaks off is as good as none."""
    text = bytearray()
    try:
        async for piece in response.aiter_raw():
            text += piece
            if len(text) > _MAX_ANSWER:
                break
    except httpx.HTTPError:
        log.debug("the intake's answer broke off", status=response.status_code)
    return bytes(text[:_MAX_ANSWER])


def _decode_errors(text: bytes) -> list[str] | None:
    try:
        return find_errors(msgspec.json.decode(text))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def find_errors(answer: object) -> list[str] | None:
    """What ``{"errors": [...]}`` says, which is how Datadog refuses; None of another answer."""
    errors = answer.get("errors") if isinstance(answer, dict) else None
    if not isinstance(errors, list):
        return None
    return [error if isinstance(error, str) else msgspec.json.encode(error).decode() for error in errors]


def mask(text: str, *keys: str) -> str:
    """``text`` on one line, without the keys, cut to a length that a log line bears."""
    line = "".join(char if char.isprintable() else " " for char in text[: 10 * _MAX_REASON])
    for key in filter(None, keys):
        line = line.replace(key, "***")
    line = " ".join(line.split())
    return line if len(line) <= _MAX_REASON else f"{line[:_MAX_REASON]}…"
