"""The daemon as the commands reach it: one HTTP client, its token, its errors for people."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    import httpx


@contextmanager
def connect(url: str) -> "Iterator[httpx.Client]":
    """A client for the daemon. Raises Unavailable when it does not answer, ConfigError when the address is none."""
    from service.cli.options import without_rich

    with without_rich():
        import httpx
    from service.config.clients import check_environment, suggest_variable, sync_http_client
    from service.domain.errors import ConfigError, Unavailable

    token = _read_token("INFRA_HEALTH_TOKEN") or _read_token("INFRA_HEALTH_READ_TOKEN")
    headers = {"X-Actor": os.environ.get("USER", "")} | ({"Authorization": f"Bearer {token}"} if token else {})
    try:
        with sync_http_client(os.environ, base_url=url, timeout=15, headers=headers) as http:
            yield http
    except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
        raise ConfigError(
            f"{url}: {error} The daemon's address comes from --url, else from INFRA_HEALTH_URL"
        ) from error
    except (httpx.TransportError, ValueError) as error:
        # What can't be used keeps a daemon of the same environment from its start.
        hint = suggest_variable(error, url) or "".join(f"; {problem}" for problem in check_environment(os.environ))
        raise Unavailable(f"no infra-health daemon answers at {url}: {error}{hint}; --url says where it is") from error


class _Body(dict[str, Any]):
    """What a daemon answers. Something else that answers with JSON at the address lacks what every daemon has."""

    def __missing__(self, key: str) -> Any:
        raise ValueError(f"what answers there says nothing of {key}")


def read_answer(response: "httpx.Response") -> dict[str, Any]:
    """The body. Raises Rejected with what the daemon says, ValueError when it is no daemon's."""
    from service.domain.errors import Rejected

    body = response.json()
    if not isinstance(body, dict):
        raise ValueError(f"what answers there sent no object but {type(body).__name__}")
    if response.is_error:
        raise Rejected(body.get("detail") or body.get("title") or response.reason_phrase)
    return _Body(body)


def read_pages(http: "httpx.Client", address: str, key: str, limit: int = 1_000_000) -> list[dict[str, Any]]:
    """The items of a list, over its pages, at most ``limit``."""
    items: list[dict[str, Any]] = []
    following: str | None = address
    # The address comes out of an answer: only this daemon's own API is asked.
    while following and following.startswith("/api/") and len(items) < limit:
        page = read_answer(http.get(following))
        items += page[key]
        following = page["next"]
    return items[:limit]


def quote_part(part: str) -> str:
    """``part`` as one part of an address."""
    return quote(part, safe="")


def _read_token(variable: str) -> str:
    """As the daemon has it, whose environment this is in its pod: the variable, or the file that NAME_FILE names."""
    if not (token := os.environ.get(variable, "")) and (path := os.environ.get(f"{variable}_FILE", "")):
        with suppress(OSError, ValueError):
            token = Path(path).read_text()
    return token.strip()
