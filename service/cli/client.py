"""The daemon as the commands reach it: one HTTP client, its token, its errors for people."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from service.domain.errors import ConfigError, Rejected, Unavailable

if TYPE_CHECKING:
    import httpx

    from service.cli.options import Options

# What listens on all addresses listens there, too.
_LOOPBACK = {"*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing is bound here


def find_url(options: "Options") -> str:
    """Where the daemon of this configuration listens. Raises ConfigError.

    Of the settings only these two are read, by hand: to load all of them takes longer than the rest of such a command,
    and a fault elsewhere in the file does not keep a running daemon from answering.
    """
    named = options.config or os.environ.get("INFRA_HEALTH_CONFIG")
    path, http = Path(named or "config.yaml"), None
    if not options.demo and (named or path.exists()):
        from service.config.document import read_document

        try:
            http = read_document(path).values.get("http")
        except FileNotFoundError:
            raise ConfigError(f"{path}: there is no such file; --url says where the daemon is, too") from None
    settings = http if isinstance(http, Mapping) else {}
    host, port = (
        os.environ.get(f"INFRA_HEALTH_HTTP__{key.upper()}") or settings.get(key) or default
        for key, default in (("host", "*"), ("port", "8080"))
    )
    host = _LOOPBACK.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


@contextmanager
def connect(url: str, timeout: float = 15) -> "Iterator[Daemon]":
    """The daemon at ``url``. Raises Unavailable when it does not answer, ConfigError when the address is none."""
    # httpx imports rich where it is installed, for output of its own: a third of what a command costs.
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type]
    import httpx

    from service.config.clients import check_environment, suggest_variable, sync_http_client

    token = _read_token("INFRA_HEALTH_TOKEN") or _read_token("INFRA_HEALTH_READ_TOKEN")
    headers = {"X-Actor": os.environ.get("USER", "")} | ({"Authorization": f"Bearer {token}"} if token else {})
    try:
        with sync_http_client(os.environ, base_url=url, timeout=timeout, headers=headers) as http:
            yield Daemon(http)
    except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
        raise ConfigError(
            f"{url}: {error} The daemon's address comes from --url, INFRA_HEALTH_URL or http.host and http.port"
        ) from error
    except (httpx.TransportError, ValueError) as error:
        # What can't be used keeps a daemon of the same environment from its start.
        hint = suggest_variable(error, url) or "".join(f"; {problem}" for problem in check_environment(os.environ))
        raise Unavailable(f"no infra-health daemon answers at {url}: {error}{hint}; --url says where it is") from error


def _read_token(variable: str) -> str:
    """As the daemon has it, whose environment this is in its pod: the variable, or the file that NAME_FILE names."""
    if not (token := os.environ.get(variable, "")) and (path := os.environ.get(f"{variable}_FILE", "")):
        with suppress(OSError, ValueError):
            token = Path(path).read_text()
    return token.strip()


class _Body(dict[str, Any]):
    """What a daemon answers. Something else that answers with JSON at the address lacks what every daemon has."""

    def __missing__(self, key: str) -> Any:
        raise ValueError(f"what answers there says nothing of {key}")


@dataclass(frozen=True)
class Daemon:
    """Its API. Addresses are given by their parts: ``get("runs", run_id)``."""

    http: "httpx.Client"

    def get(self, *parts: str, **query: Any) -> dict[str, Any]:
        """The answer. Raises Rejected with what the daemon says, ValueError when no daemon says it."""
        return read_answer(self.http.get(_address(parts, query)))

    def post(self, *parts: str, reason: str | None) -> "httpx.Response":
        """Asks it to do something; ``reason`` is kept in its audit log."""
        return self.http.post(_address(parts), json={"reason": reason} if reason else {})

    def collectors(self) -> list[dict[str, Any]]:
        collectors: list[dict[str, Any]] = self.get("collectors")["collectors"]
        return collectors

    def check_collectors(self, names: Sequence[str]) -> None:
        """Raises Rejected with the known ones where one of ``names`` is no collector's."""
        known = [each["name"] for each in self.collectors()] if names else []
        if unknown := [name for name in names if name not in known]:
            raise Rejected(
                f"There is no collector {', '.join(map(repr, unknown))}. Known: {', '.join(known) or 'none'}."
            )

    def pages(self, *parts: str, key: str, most: int = 1_000_000, **query: Any) -> list[dict[str, Any]]:
        """The items of a list, over its pages, at most ``most``."""
        items: list[dict[str, Any]] = []
        following: str | None = _address(parts, query)
        # The address comes out of an answer: only this daemon's own API is asked.
        while following and following.startswith("/api/") and len(items) < most:
            page = read_answer(self.http.get(following))
            items += page[key]
            following = page["next"]
        return items[:most]


def _address(parts: Sequence[str], query: Mapping[str, Any] | None = None) -> str:
    given = {name: value for name, value in (query or {}).items() if value is not None}
    return "/".join(("/api/v1", *(quote(part, safe="") for part in parts))) + ("?" + urlencode(given) if given else "")


def read_answer(response: "httpx.Response") -> dict[str, Any]:
    """The body. Raises Rejected with what the daemon says, ValueError when no daemon says it."""
    body = response.json()
    if not isinstance(body, dict):
        raise ValueError(f"what answers there sent no object but {type(body).__name__}")
    if response.is_error:
        known = f" Known: {', '.join(body['known'])}." if body.get("known") else ""
        raise Rejected((body.get("detail") or body.get("title") or response.reason_phrase) + known)
    return _Body(body)
