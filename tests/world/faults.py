"""What GitHub, or something between it and us, gives in place of the true answer."""

import random
from collections.abc import Callable
from dataclasses import replace

import msgspec

from service.demo.github import Asked, Reply

Fault = Callable[[Asked, Reply], Reply]


def constant(reply: Reply) -> Fault:
    return lambda asked, true: replace(reply, headers=dict(reply.headers))


not_found = constant(Reply.of({"message": "Not Found", "documentation_url": "https://docs.github.com/rest"}, 404))
forbidden = constant(Reply.of({"message": "Resource not accessible by integration"}, 403))
bad_credentials = constant(Reply.of({"message": "Bad credentials"}, 401))
server_error = constant(Reply.of({"message": "Server Error"}, 500))
bad_gateway = constant(Reply(502, b"<html>Bad gateway</html>", {"content-type": "text/html"}))
html = constant(Reply(200, b"<!DOCTYPE html><html>One moment</html>", {"content-type": "text/html"}))
too_many = constant(Reply.of({"message": "Too many requests"}, 429, retry_after="60"))
secondary = constant(Reply.of({"message": "You have exceeded a secondary rate limit."}, 403))
other_shape = constant(Reply.of({"message": "nothing that you know"}))
other_type = constant(Reply.of([1, "2", None]))
no_body = constant(Reply(200, b"", {"content-type": "application/json"}))


def exhausted(asked: Asked, true: Reply) -> Reply:
    """The primary limit is used up; the headers say until when."""
    message = {"message": "API rate limit exceeded for user ID 1."}
    if "graphql" in asked.target:
        return Reply.of({"errors": [{"type": "RATE_LIMITED", **message}]}, x_ratelimit_remaining="0")
    return Reply.of(message, 403, x_ratelimit_remaining="0")


def empty_list(asked: Asked, true: Reply) -> Reply:
    """No rows, though total_count says that there are some; other answers stay as they are."""
    return _changed(true, lambda row: {key: [] if isinstance(value, list) else value for key, value in row.items()})


def nothing_found(asked: Asked, true: Reply) -> Reply:
    """No rows, and total_count agrees: an index that has lost them for a while."""
    return _changed(true, lambda row: {key: [] if isinstance(value, list) else 0 for key, value in row.items()})


HUNG = Reply()


def hang(asked: Asked, true: Reply) -> Reply:
    return HUNG


def cut_off(asked: Asked, true: Reply) -> Reply:
    """The connection ends in the middle of the body."""
    whole = {"content-length": str(len(true.body) + 1)}
    return replace(true, body=true.body[: len(true.body) // 2], headers=true.headers | whole)


def half_json(asked: Asked, true: Reply) -> Reply:
    """Half of the JSON, as if that were all."""
    return replace(true, body=true.body[: len(true.body) // 2])


def wrong_total(seed: int = 1) -> Fault:
    """total_count is off by up to three, differently from answer to answer."""
    rng = random.Random(seed)

    def shift(row: dict[str, object]) -> dict[str, object]:
        total = row.get("total_count")
        return {**row, "total_count": max(0, total + rng.randint(-3, 3))} if isinstance(total, int) else row

    return lambda asked, true: _changed(true, shift)


def redirect(location: str, status: int = 301) -> Fault:
    return constant(Reply(status, b"", {"location": location}))


def _changed(true: Reply, change: Callable[[dict[str, object]], dict[str, object]]) -> Reply:
    if true.status != 200:
        return true
    body = msgspec.json.decode(true.body)
    headers = {name: value for name, value in true.headers.items() if name != "etag"}
    return replace(true, body=msgspec.json.encode(change(body)), headers=headers) if isinstance(body, dict) else true
