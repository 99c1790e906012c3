"""The demo's webhook: now and then a recorded workflow ends once more, and the simulated GitHub tells the daemon."""

import hashlib
import hmac
import json
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import cycle
from threading import Event

import httpx

from service.demo.github_rows import Attempt, Repository

_FIRST, _INTERVAL = 30.0, 60.0  # seconds
_TOOK = timedelta(minutes=3)


def deliver_runs(repository: Repository, url: str, secret: str, end: Event) -> None:
    """Until ``end``: the newest workflow of the default branch succeeds and fails in turn, so that its tile turns."""
    newest = next(run for run in repository.newest_first(datetime.now(UTC)) if run.branch == repository.branch)
    interval = _FIRST
    with httpx.Client(trust_env=False) as http:
        for number, conclusion in enumerate(cycle(("success", "failure")), 1):
            if end.wait(interval):
                return
            interval, now = _INTERVAL, datetime.now(UTC).replace(microsecond=0)
            attempts = [Attempt(now - _TOOK, now, conclusion)]
            run = replace(newest, id=newest.id + number, created=now - _TOOK, attempts=attempts)
            repository.runs = [run, *repository.runs]  # the server's thread reads the list meanwhile
            row, whole = repository.run_json(run, now), repository.json()
            body = json.dumps({"action": "completed", "workflow_run": row, "repository": whole}).encode()
            signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
            headers = {"X-GitHub-Event": "workflow_run", "X-Hub-Signature-256": f"sha256={signature}"}
            with suppress(httpx.HTTPError):  # the daemon ends first
                http.post(f"{url}api/v1/webhooks/github", content=body, headers=headers)
