"""The official client as we use it: whom it asks, how long, how often, and what its errors mean.

datadog_api_client is imported inside the functions: a daemon that has nothing to say through it does not pay for it.
Its calls block; where an event loop runs, they belong into a thread.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import orjson

from service.domain.errors import HealthError, Rejected, TooLarge, Unauthorized, Unavailable

_CONNECT, _READ = 5.0, 30.0  # seconds; the client has no bound of its own
_TRIES = 4
_LONGEST_WAIT = 30.0  # seconds; the client would sleep however long the server says
_LONGEST_REASON = 300  # characters
_AGAIN = frozenset({429, 500, 502, 503, 504})


def client(url: str, api_key: str, app_key: str | None = None, *, tries: int = _TRIES) -> Any:
    """An ``ApiClient`` for the base address ``url``, reached as HTTP(S)_PROXY and NO_PROXY say. Close it.

    Answers come as raw responses: the models drop what they do not know, and a difference must not be lost.
    """
    from datadog_api_client import ApiClient, Configuration

    keys = {"apiKeyAuth": api_key} | ({"appKeyAuth": app_key} if app_key else {})
    configuration = Configuration(
        host=url.rstrip("/"),
        api_key=keys,
        request_timeout=(_CONNECT, _READ),
        retry_policy=_retries(tries),
        preload_content=False,
        is_iac=app_key is not None,
    )
    # Configuration takes keys and site from the environment, too; the settings have had their say on those.
    configuration.api_key = keys
    parts = urlsplit(url)
    if not proxy_bypass(parts.hostname or ""):
        configuration.proxy = getproxies().get(parts.scheme)
    made = ApiClient(configuration)
    made.user_agent = f"infra-health {made.user_agent}"
    return made


def _retries(tries: int) -> Any:
    from urllib3.util import Retry

    class Bounded(Retry):
        """Waits as X-RateLimit-Reset says, but not for ever; a POST is sent again only when it was not taken."""

        def get_retry_after(self, response: Any) -> float | None:
            asked = response.headers.get("X-RateLimit-Reset")
            return min(float(asked), _LONGEST_WAIT) if asked and asked.isdigit() else None

        def is_retry(self, method: str, status_code: int, has_retry_after: bool = False) -> bool:
            return status_code == 429 or (method != "POST" and status_code in _AGAIN)

    # ``other`` and ``redirect``: never follow to another address with the keys in hand.
    return Bounded(
        total=tries - 1, connect=tries - 1, read=tries - 1, redirect=0, backoff_factor=0.5, raise_on_status=False,
        raise_on_redirect=False, respect_retry_after_header=True, allowed_methods={"GET", "PUT", "PATCH", "DELETE"},
    )  # fmt: skip


def model(kind: type, content: Mapping[str, Any]) -> Any:
    """``content`` as the client's model. Raises ValueError where the client does not know what a part of it is.

    The client would send such a part as it is, and the refusal would come from Datadog or, worse, not at all.
    """
    from datadog_api_client import Configuration
    from datadog_api_client.exceptions import OpenApiException
    from datadog_api_client.model_utils import validate_and_convert_types

    try:
        made = validate_and_convert_types(
            dict(content), (kind,), [kind.__name__], True, True, configuration=Configuration()
        )
    except OpenApiException as error:
        raise ValueError(f"{kind.__name__}: {error}") from error
    if found := list(unparsed(made, kind.__name__)):
        raise ValueError(f"the client does not know {', '.join(found)}")
    return made


def unparsed(value: Any, path: str = "") -> Iterator[str]:
    """The innermost places of ``value`` (models, lists, dictionaries) that the client could not make a model of."""
    from datadog_api_client.model_utils import ModelNormal

    parts: Iterable[tuple[str, Any]] = ()
    if isinstance(value, ModelNormal):
        parts = ((f".{name}", part) for name, part in value._data_store.items())
    elif isinstance(value, Mapping):
        parts = ((f".{name}", part) for name, part in value.items())
    elif isinstance(value, list | tuple):
        parts = ((f"[{place}]", part) for place, part in enumerate(value))
    found = [place for name, part in parts for place in unparsed(part, path + name)]
    # The client marks what holds an unknown part, too, up to the whole.
    yield from found or ([path] if getattr(value, "_unparsed", False) is True else [])


def asked(call: Callable[..., Any], *args: Any, host: str, secrets: tuple[str, ...], **named: Any) -> Any:
    """The answer's JSON, None where it has no text. Raises HealthError."""
    with translated(host, secrets):
        response = call(*args, **named)
        text = response.data
    if not text:
        return None
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Unavailable(f"{host}: the answer is not JSON; is DD_URL the address of Datadog's API?") from error


class NotThere(Rejected):
    """Datadog does not have it."""


@contextmanager
def translated(host: str, secrets: tuple[str, ...]) -> Iterator[None]:
    """Turns the client's and urllib3's errors into ours, without keys."""
    from datadog_api_client.exceptions import ApiException, OpenApiException
    from urllib3.exceptions import HTTPError

    def told(text: str) -> str:
        for secret in filter(None, secrets):
            text = text.replace(secret, "***")
        line = " ".join(text.split())
        return line if len(line) <= _LONGEST_REASON else f"{line[:_LONGEST_REASON]}…"

    try:
        yield
    except ApiException as error:
        raise _error(error, host, told) from None
    except HTTPError as error:
        raise Unavailable(told(f"{host}: {type(error).__name__} {error}"), ambiguous=True) from None
    except OpenApiException as error:
        raise Rejected(told(f"{host}: {error}")) from None


def _error(error: Any, host: str, told: Callable[[str], str]) -> HealthError:
    body = error.body
    reasons = body.get("errors") if isinstance(body, dict) else None
    shown = [each if isinstance(each, str) else orjson.dumps(each).decode() for each in reasons or ()]
    reason = told(f"{host}: {error.status} {'; '.join(shown) or error.reason or ''}".rstrip())
    if error.status in (401, 403):
        # A proxy's page is no verdict on the keys.
        return Unauthorized(reason) if reasons is not None else Unavailable(f"{reason} (a proxy's answer?)")
    if error.status == 404:
        return NotThere(reason)
    if error.status == 413:
        return TooLarge(reason)
    if error.status in (408, 429) or error.status >= 500 or error.status < 400:
        wait = (error.headers or {}).get("X-RateLimit-Reset", "")
        return Unavailable(reason, retry_after=float(wait) if str(wait).isdigit() else None)
    return Rejected(reason)
