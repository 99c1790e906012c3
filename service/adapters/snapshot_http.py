"""Snapshots over HTTP: asked for conditionally, published with PUT or POST."""

from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import blake2b

import httpx
import orjson

from service.adapters.retry_after import http_date, retry_after
from service.adapters.secrets import Secret
from service.adapters.snapshot_source import Content, nothing_there, too_large
from service.config_values import shown
from service.domain.errors import ConfigError, HealthError, Rejected, TooLarge, Unauthorized, Unavailable

_REDIRECTS = 5
_LONGEST_ANSWER = 256 * 1024  # bytes
_LONGEST_REMARK = 2000  # characters
# gzip is told by the content, where the bounds are.
_ENCODINGS = ("", "identity", "gzip", "x-gzip")


async def read(
    source: str, http: httpx.AsyncClient, longest: int, token: Secret | None = None, unless: str = ""
) -> Content | None:
    """What the address holds, None while it still has the validator ``unless``."""
    try:
        return await _get(source, http, longest, token, unless)
    except Unauthorized:
        # The token may have been replaced: then once more with the new one.
        if token is None or not await token.ask_again():
            raise
        return await _get(source, http, longest, token, unless)


async def _get(source: str, http: httpx.AsyncClient, longest: int, token: Secret | None, unless: str) -> Content | None:
    name = shown(source)
    headers = {"Accept": "application/json", "Accept-Encoding": "identity", **_condition(unless)}
    headers |= await _authorization(token)
    try:
        url = _address(source)
        for _ in range(_REDIRECTS + 1):
            async with http.stream("GET", url, headers=headers, follow_redirects=False) as answer:
                if answer.status_code == httpx.codes.NOT_MODIFIED and unless:
                    return None
                if not answer.has_redirect_location:
                    return await _content(answer, source, longest)
                url = _redirected(answer, name)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise ConfigError(f"source {name} is no valid address") from error
    except httpx.HTTPError as error:
        raise Unavailable(f"{name}: no answer ({type(error).__name__})") from error
    raise Rejected(f"{name} redirects more than {_REDIRECTS} times")


async def send(
    http: httpx.AsyncClient, method: str, url: str, body: bytes, headers: Mapping[str, str], token: Secret | None
) -> httpx.Response:
    """One request that publishes ``body``; its answer when it was taken (2xx).

    Raises Rejected (422 and others, with what the answer says of it), TooLarge, Unauthorized, Unavailable, ConfigError.
    """
    name = shown(url)
    try:
        request = http.build_request(
            method, _address(url), content=body, headers={**headers, **await _authorization(token)}
        )
        answer = await http.send(request, stream=True, follow_redirects=False)
        try:
            said = await _remark(answer)
        finally:
            await answer.aclose()
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise ConfigError(f"{name} is no valid address") from error
    except httpx.HTTPError as error:
        raise Unavailable(f"{name}: no answer ({type(error).__name__})") from error
    status = answer.status_code
    if answer.is_success:
        return answer
    if answer.has_redirect_location:
        raise Rejected(f"{name} redirects to {shown(answer.headers['Location'])}; publish to where it leads")
    told = f"{name}: answered {status}" + (f": {said}" if said else "")
    if status == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
        raise TooLarge(told)
    if status in (401, 403):
        raise Unauthorized(told if said or token else f"{told}; does it need a token (--token-env)?")
    if status in (408, 429) or status >= 500:
        raise Unavailable(told, retry_after=retry_after(answer.headers, datetime.now(UTC)))
    raise Rejected(told)


async def _authorization(token: Secret | None) -> dict[str, str]:
    if token is None:
        return {}
    value = await token.get()
    if not value:
        raise Unauthorized(token.missing)
    if not (value.isascii() and value.isprintable()):
        raise Unauthorized(f"the {token.title} holds characters that no token has: {token.remedy}")
    return {"Authorization": f"Bearer {value}"}


def _address(text: str) -> httpx.URL:
    url = httpx.URL(text)
    try:
        is_valid = bool(url.host) and (url.port is None or 0 < url.port < 65536)
    except UnicodeError as error:
        raise httpx.InvalidURL("no such host name") from error
    if not is_valid:
        raise httpx.InvalidURL("no such host or port")
    return url


def _condition(validator: str) -> dict[str, str]:
    """ETag before date, because the date has seconds only (RFC 9110, 13.1)."""
    if not validator:
        return {}
    etag, _, date = validator.partition("\n")
    return {"If-None-Match": etag} if etag else {"If-Modified-Since": date}


async def _content(answer: httpx.Response, source: str, longest: int) -> Content:
    name = shown(source)
    if answer.status_code != httpx.codes.OK:
        raise _refusal(answer, source)
    encoding = answer.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in _ENCODINGS:
        raise Rejected(f"{name}: answered in encoding {encoding}, which was not asked for")
    length = answer.headers.get("Content-Length", "")
    if length.isascii() and length.isdigit() and int(length[:20]) > longest:
        raise too_large(name, longest)
    chunks, size = [], 0
    async for chunk in answer.aiter_raw():
        size += len(chunk)
        if size > longest:
            raise too_large(name, longest)
        chunks.append(chunk)
    body = b"".join(chunks)
    etag, date = answer.headers.get("ETag", ""), answer.headers.get("Last-Modified", "")
    # Not by the ETag where there is a date: several servers behind one address may each have their own.
    version = f"{date or etag} {blake2b(body, digest_size=16).hexdigest()}"
    published, asked = http_date(date), http_date(answer.headers.get("Date", ""))
    # A date has whole seconds: within its own second the content can change under it (RFC 9110, 8.8.2.2).
    is_settled = published is not None and asked is not None and asked > published
    validator = f"{etag}\n{date}" if etag or is_settled else ""
    return Content(name, body, version, published, validator)


def _redirected(answer: httpx.Response, name: str) -> httpx.URL:
    """Where to ask next: only on the same host, since the address comes from an answer."""
    here, there = answer.url, answer.url.join(answer.headers["Location"])
    same_port = here.port == there.port
    if there.host != here.host or not same_port or (here.scheme, there.scheme) == ("https", "http"):
        raise Rejected(f"{name} redirects to another host ({there.host}); set the source to where it leads")
    return there


def _refusal(answer: httpx.Response, source: str) -> HealthError:
    status, name = answer.status_code, shown(source)
    if status in (401, 403):
        return Unauthorized(f"{name}: access refused ({status}); does it need a token_env?")
    if status in (404, 410):
        return nothing_there(source, reason=str(status))
    if status in (408, 429) or status >= 500:
        return Unavailable(f"{name}: answered {status}", retry_after=retry_after(answer.headers, datetime.now(UTC)))
    return Rejected(f"{name}: answered {status}")


async def _remark(answer: httpx.Response) -> str:
    """What an answer says of itself: the detail and the errors of problem details (RFC 9457), else its first line."""
    text = bytearray()
    async for chunk in answer.aiter_bytes():
        text += chunk
        if len(text) > _LONGEST_ANSWER:
            break
    try:
        problem = orjson.loads(text)
    except orjson.JSONDecodeError:
        lines = text.decode(errors="replace").strip().splitlines()
        return "" if "html" in answer.headers.get("Content-Type", "") or not lines else _one_line(lines[0])
    if not isinstance(problem, dict):
        return ""
    said = [_one_line(str(problem.get("detail") or problem.get("title") or ""))]
    errors = problem.get("errors")
    for each in errors if isinstance(errors, list) else ():
        if isinstance(each, dict):
            said.append(_one_line(f"  {each.get('where', '')}: {each.get('what', '')}"))
    return "\n".join(said)


def _one_line(text: str) -> str:
    return "".join(char for char in text[:_LONGEST_REMARK] if char.isprintable())
