"""The five secrets of a daemon: whatever fails, and whoever asks, none of them is told."""

import re
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import httpx

from tests.acceptance.load import add_queue
from tests.acceptance.program import KEY, TOKEN, place

SECRETS = {
    "INFRA_HEALTH_TOKEN": "t0ken-of-the-operators",
    "INFRA_HEALTH_READ_TOKEN": "t0ken-of-the-readers",
    "DD_API_KEY": KEY,
    "DD_APP_KEY": "fedcba9876543210fedcba9876543210fedcba98",
    "GITHUB_TOKEN": TOKEN,
}
WRONG = (b"", b"Bearer wrong", b"Basic OndPT05H", b"Bearer \xff")


def test_five_secrets_are_in_no_page_answer_error_header_or_log(tmp_path: Path) -> None:
    reader = {"authorization": f"Bearer {SECRETS['INFRA_HEALTH_READ_TOKEN']}"}
    operator = {"authorization": f"Bearer {SECRETS['INFRA_HEALTH_TOKEN']}"}
    with place(tmp_path) as here:
        here.environ |= SECRETS
        add_queue(here, "leak", backoff_limit=0)
        with here.daemon("-v") as daemon:
            daemon.http.headers.update(reader)
            runs = {run["collector"]: run for run in daemon.wait_until_quiet()}
            paths = daemon.get("/openapi.json")["paths"]
            del daemon.http.headers["authorization"]
            ended = runs["queue"]
            assert runs["ci"]["outcome"] == runs["training"]["outcome"] == "Complete", "one that fails harms no other"
            assert ended["outcome"] == "BackoffLimitExceeded"
            assert ended["errors"] == ["unexpected RuntimeError: refused: " + " ".join(["********"] * len(SECRETS))]

            def answers() -> Iterator[httpx.Response]:
                places = {"name": "queue", "id": ended["id"], "metric": "nothing", "check": "0"}
                known = [re.sub(r"{(\w+)}", lambda each: places[each[1]], path) for path in paths]
                pages = ("/", "/tv", "/docs", "/collectors/queue", f"/runs/{ended['id']}", "/checks/queue/0", "/nope")
                for path, wrong in zip((*known, *pages), cycle(WRONG), strict=False):
                    for accept in ("text/html", "application/json"):
                        yield daemon.http.get(path, headers={**reader, "accept": accept})
                    for method in ("GET", "POST"):
                        yield daemon.http.request(method, path, headers={b"authorization": wrong})
                    yield daemon.http.post(path, headers=operator, content=b"{")
                    yield daemon.http.get(path, headers={**operator, "host": "evil.example"})

            told = [f"{each.status_code} {each.url} {each.headers} {each.text}" for each in answers()]
            assert {text[:3] for text in told} >= {"200", "400", "401", "404", "405", "421"}
            assert daemon.end() == 0
            told.append(daemon.text)
    assert "error.stack" in told[-1], "the failure itself is told"
    for name, secret in SECRETS.items():
        assert not [text[:200] for text in told if secret in text], name
