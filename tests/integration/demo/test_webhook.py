"""The demo's webhook: what it delivers is a delivery of GitHub's, and its GitHub knows the run as well."""

import hashlib
import hmac
import json
from datetime import UTC, datetime
from threading import Event

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.collectors.github_ci.deliveries import read_run
from service.demo import recording
from service.demo.recording import deliver_runs, load_repositories
from service.demo.stage import serve


def test_runs_end_in_turn_and_are_delivered_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    end = Event()
    taken: list[tuple[str, str, bytes]] = []

    async def daemon(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        taken.append((scope["path"], request.headers["x-hub-signature-256"], await request.body()))
        if len(taken) == 2:
            end.set()
        await Response(status_code=202)(scope, receive, send)

    monkeypatch.setattr(recording, "_FIRST_DELIVERY", 0.0)
    monkeypatch.setattr(recording, "_INTERVAL", 0.0)
    repository = load_repositories(datetime.now(UTC))[0]
    with serve(daemon) as (url,):
        deliver_runs(repository, f"{url}/", "a-secret", end)
    conclusions = []
    for path, signature, body in taken:
        assert path == "/api/v1/webhooks/github"
        assert signature == f"sha256={hmac.new(b'a-secret', body, hashlib.sha256).hexdigest()}"
        run = read_run(body)
        assert run
        conclusions.append(run.conclusion)
        known = repository.run(run.id, datetime.now(UTC))
        assert known
        assert json.loads(body)["workflow_run"] == repository.run_json(known, datetime.now(UTC))
    assert conclusions == ["success", "failure"]
