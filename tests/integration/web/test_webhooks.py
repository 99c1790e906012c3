"""GitHub's deliveries over real HTTP: what is answered, before and after the signature is known to be right."""

import hmac
import json
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from click.testing import CliRunner
from starlette.responses import HTMLResponse
from starlette.types import Receive, Scope, Send

from service.cli.main import main
from service.clock import SystemClock
from service.collectors.github_ci.deliveries import Deliveries
from service.collectors.github_ci.models import Named, Run
from service.config import logging
from service.config.secrets import Secret, mounted_file
from service.demo.stage import serve
from service.domain.runs import Actor, Cause
from service.web import webhooks
from service.web.auth import MAX_IN_FLIGHT
from tests.integration.web.stage import Stage, a_check, problem_of, received, served

WEBHOOK = "/api/v1/webhooks/github"
SECRET = "it is a secret"  # GitHub takes any text
MIB = 1024 * 1024


class Noted(Deliveries):
    """Takes the runs of one repository, and notes what was answered."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.runs: list[Run] = []
        self.answers: Counter[tuple[str, str]] = Counter()

    def count(self, event: str, result: str) -> None:
        self.answers[event, result] += 1

    def add(self, run: Run) -> bool:
        is_ours = run.repository is not None and run.repository.full_name == "octo/hello"
        self.runs += [run] * is_ours
        return is_ours


@pytest.fixture
def noted() -> Noted:
    return Noted()


def a_delivery(**changes: Any) -> bytes:
    repository = {"full_name": "octo/hello"}
    run = {
        **{
            "id": 7,
            "workflow_id": 1,
            "run_attempt": 1,
            "event": "push",
            "status": "completed",
            "conclusion": "success",
        },
        **{f"{each}_at": "2026-03-04T05:00:00Z" for each in ("created", "run_started", "updated")},
        **{"head_branch": "main", "head_repository": repository, "repository": repository, **changes},
    }
    return json.dumps({"action": "completed", "workflow_run": run, "repository": run["repository"]}).encode()


def signed(body: bytes, secret: str = SECRET, algorithm: str = "sha256", event: str = "workflow_run") -> dict[str, str]:
    name = {"sha256": "X-Hub-Signature-256", "sha1": "X-Hub-Signature"}[algorithm]
    signature = hmac.new(secret.encode(), body, algorithm).hexdigest()
    # GitHub names itself by a host that nobody allowed, and comes without a token.
    return {"X-GitHub-Event": event, name: f"{algorithm}={signature}", "Host": "hooks.example"}


async def post(stage: Stage, body: bytes, headers: dict[str, str] | None = None) -> httpx.Response:
    return await stage.client.post(WEBHOOK, content=body, headers=signed(body) if headers is None else headers)


async def test_what_is_taken_is_answered_before_any_work(tmp_path: Path, noted: Noted) -> None:
    async with served(tmp_path, webhook_secret=SECRET, deliveries=noted, token="t", in_cluster=True) as stage:
        answers = {
            "ours": await post(stage, a_delivery()),
            "a fork's": await post(stage, a_delivery(head_repository={"full_name": "evil/hello"})),
            "a fork that is gone": await post(stage, a_delivery(head_repository=None)),
            "another repository's": await post(stage, a_delivery(repository={"full_name": "octo/other"})),
            "null": await post(stage, a_delivery(conclusion=None, status="in_progress")),
            "ping": await post(stage, b"{}", signed(b"{}", event="ping")),
            "another event": await post(stage, b"{}", signed(b"{}", event="check_run")),
        }
        assert {name: answer.status_code for name, answer in answers.items()} == {
            **{"ours": 202, "a fork's": 202, "a fork that is gone": 202, "another repository's": 204, "null": 204},
            **{"ping": 200, "another event": 204},
        }
        assert [answer.content for answer in answers.values()] == [b""] * 7
        assert [(run.id, run.conclusion) for run in noted.runs] == [(7, "success")] * 3
        assert noted.answers == {
            ("workflow_run", "taken"): 3,
            ("workflow_run", "ignored"): 2,
            ("ping", "ping"): 1,
            ("other", "ignored"): 1,
        }
        assert not stage.context.scheduler.active.runs()


async def test_a_signature_that_is_wrong_missing_or_of_sha1_alone_is_a_401(tmp_path: Path, noted: Noted) -> None:
    body = a_delivery()
    right = signed(body)["X-Hub-Signature-256"]
    async with served(tmp_path, webhook_secret=SECRET, deliveries=noted) as stage:
        for headers in (
            {},
            signed(body, algorithm="sha1"),
            signed(body, "another secret"),
            signed(body, ""),
            *(
                {"X-Hub-Signature-256": shown}
                for shown in ("", "sha256=", right[7:], right.upper(), right[:-1], "\xe9" * 71)
            ),
        ):
            sent = {name.encode(): value.encode("latin-1") for name, value in headers.items()}
            answer = await stage.client.post(WEBHOOK, content=body, headers=sent)
            assert "X-Hub-Signature-256" in problem_of(answer, 401)["detail"]
            assert right not in answer.text
        assert noted.runs == []
        assert (
            sum(noted.answers.values())
            == noted.answers["other", "unsigned"] + noted.answers["workflow_run", "unsigned"]
        )
        # What is signed is the body, to the last byte.
        problem_of(await post(stage, body + b" ", signed(body)), 401)
        assert (await post(stage, body)).status_code == 202


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"action": "completed"}', b"\xff", b"[" * 100_000])
async def test_what_is_not_of_the_events_shape_is_a_400(body: bytes, tmp_path: Path, noted: Noted) -> None:
    async with served(tmp_path, webhook_secret=SECRET, deliveries=noted) as stage:
        assert "application/json" in problem_of(await post(stage, body), 400)["detail"]
        assert noted.answers == {("workflow_run", "invalid"): 1}


@pytest.mark.parametrize("number", [{"id": 2**64}, {"id": -5}, {"workflow_id": 10**30}, {"run_attempt": 0}])
async def test_a_number_that_no_state_can_keep_is_a_400(number: Any, tmp_path: Path, noted: Noted) -> None:
    async with served(tmp_path, webhook_secret=SECRET, deliveries=noted) as stage:
        assert "64 bits" in problem_of(await post(stage, a_delivery(**number)), 400)["detail"]
        assert noted.runs == []


async def test_a_form_is_refused_by_the_ping_already(tmp_path: Path, noted: Noted) -> None:
    form = b"payload=%7B%7D"
    async with served(tmp_path, webhook_secret=SECRET, deliveries=noted) as stage:
        headers = signed(form, event="ping") | {"Content-Type": "application/x-www-form-urlencoded"}
        assert "application/json" in problem_of(await post(stage, form, headers), 400)["detail"]


async def test_without_a_secret_there_is_nothing_here(tmp_path: Path, noted: Noted) -> None:
    for value in (None, " , "):
        async with served(tmp_path, webhook_secret=value, deliveries=noted) as stage:
            assert "GITHUB_WEBHOOK_SECRET" in problem_of(await post(stage, a_delivery()), 404)["detail"]
            problem_of(await post(stage, a_delivery(), signed(a_delivery(), "")), 404)
            problem_of(await stage.client.get(WEBHOOK), 405)


async def test_either_of_two_secrets_opens_and_a_new_one_is_looked_up(tmp_path: Path, noted: Noted) -> None:
    file, body = tmp_path / "secret", a_delivery()
    secret = Secret("webhook secret", "set it", sources=[mounted_file(file, "GITHUB_WEBHOOK_SECRET_FILE")])
    async with served(tmp_path, webhook_secret=secret, deliveries=noted) as stage:

        async def status(signed_with: str) -> int:
            return (await post(stage, body, signed(body, signed_with))).status_code

        assert await status("first-secret") == 404
        file.write_text("first-secret")
        assert await status("first-secret") == 202
        file.write_text("first-secret, second-secret\n")
        assert [await status("second-secret"), await status("first-secret")] == [202, 202]
        file.write_text("second-secret")
        assert await status("third-secret") == 401, "and within five seconds nobody makes it look again"


async def in_chunks(body: bytes, size: int = 64 * 1024) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


async def test_bodies_in_chunks_are_bounded_as_they_come(
    tmp_path: Path, noted: Noted, monkeypatch: pytest.MonkeyPatch
) -> None:
    large, too_large = a_delivery(title="x" * 25 * MIB)[: 25 * MIB], b"x" * 26 * MIB
    parsed: list[int] = []

    def read_run(body: bytes) -> Run:
        parsed.append(len(body))
        return Run(id=7, workflow_id=1, repository=Named(full_name="octo/hello"))

    monkeypatch.setattr(webhooks, "read_run", read_run)
    async with served(tmp_path, webhook_secret=SECRET, deliveries=noted) as stage:
        for body, status in ((a_delivery(), 202), (large, 202), (too_large, 413)):
            answer = await stage.client.post(WEBHOOK, content=in_chunks(body), headers=signed(body))
            assert answer.status_code == status
        problem_of(await post(stage, too_large), 413)
        problem_of(await stage.client.post("/api/v1/runs", content=b" " * MIB), 413)
        assert parsed == [len(a_delivery()), len(large)]


async def test_two_large_bodies_have_a_place_and_a_small_one_needs_none(
    tmp_path: Path, noted: Noted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "ARRIVAL_TIME", 2)
    body = a_delivery(title="x" * MIB)
    head = "".join(f"{name}: {value}\r\n" for name, value in signed(body).items())
    begun = f"POST {WEBHOOK} HTTP/1.1\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[: MIB + 1]
    async with served(tmp_path, webhook_secret=SECRET, deliveries=noted) as stage:
        slow = [await stage.connect() for _ in range(2)]
        for stream in slow:
            await stream.send(begun)
        with anyio.fail_after(5):
            while (answer := await post(stage, body)).status_code == 202:
                pass
        problem_of(answer, 503)
        assert int(answer.headers["retry-after"]) >= 1
        assert (await post(stage, a_delivery())).status_code == 202
        for stream in slow:
            assert (await received(stream)).startswith(b"HTTP/1.1 408 ")
        assert (await post(stage, body)).status_code == 202


async def test_bodies_of_strangers_that_drip_leave_places_for_the_page(
    tmp_path: Path, noted: Noted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "ARRIVAL_TIME", 4)
    head = f"POST {WEBHOOK} HTTP/1.1\r\nHost: a\r\nX-Hub-Signature-256: sha256=00\r\nContent-Length: 9\r\n\r\n{{"
    async with served(tmp_path, webhook_secret=SECRET, deliveries=noted) as stage:
        slow = [await stage.connect() for _ in range(MAX_IN_FLIGHT)]
        for stream in slow:
            await stream.send(head.encode())
        with anyio.fail_after(2):
            while (await post(stage, a_delivery())).status_code != 503:
                pass
        assert (await stage.client.get("/")).status_code == 200


async def test_a_body_that_never_ends_is_a_408_or_cut_off(
    tmp_path: Path, noted: Noted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "ARRIVAL_TIME", 0.1)
    async with served(tmp_path, webhook_secret=SECRET, deliveries=noted) as stage:
        head = "".join(f"{name}: {value}\r\n" for name, value in signed(b"{}").items())
        stream = await stage.connect()
        await stream.send(f"POST {WEBHOOK} HTTP/1.1\r\n{head}Content-Length: 9\r\n\r\n{{".encode())
        assert (await received(stream)).startswith(b"HTTP/1.1 408 ")
        gone = await stage.connect()
        await gone.send(f"POST {WEBHOOK} HTTP/1.1\r\n{head}Content-Length: 9\r\n\r\n{{".encode())
        await gone.aclose()
        assert (await post(stage, a_delivery())).status_code == 202


async def test_no_header_of_a_delivery_is_told(tmp_path: Path, noted: Noted) -> None:
    async with served(tmp_path, webhook_secret=SECRET, deliveries=noted) as stage:
        wrong = signed(b"{}", "wrong") | {"X-GitHub-Delivery": "a-delivery-id", "User-Agent": "GitHub-Hookshot/044aadd"}
        await post(stage, b"{}", wrong)
        await post(stage, b"", signed(b"") | {"X-GitHub-Delivery": "a-delivery-id"})
        told = "".join(
            [(await stage.client.get(path)).text for path in ("/", "/metrics", "/api/v1/state", "/api/v1/log")]
        )
        for secret in ("a-delivery-id", "Hookshot", wrong["X-Hub-Signature-256"], SECRET):
            assert secret not in told


async def test_the_command_says_what_is_wrong_on_the_way(
    tmp_path: Path, noted: Noted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "configure", lambda *arguments, **settings: None)  # those of this process stay
    config = tmp_path / "config.yaml"

    async def ping(stage: Stage, here: str = SECRET, port: int | None = None) -> tuple[int, str]:
        config.write_text(f"collectors: {{}}\nhttp: {{public_url: 'http://127.0.0.1:{port or stage.port}'}}\n")
        invoke = partial(CliRunner().invoke, main, ["--config", str(config), "webhook", "test"])
        result = await anyio.to_thread.run_sync(partial(invoke, env={"GITHUB_WEBHOOK_SECRET": here}))
        return result.exit_code, result.output

    async with served(tmp_path / "on", webhook_secret=f"{SECRET},other-secret", deliveries=noted) as stage:
        assert await ping(stage) == (0, f"http://127.0.0.1:{stage.port}{WEBHOOK}: the ping was taken\n")
        assert "with either secret" in (await ping(stage, f"other-secret,{SECRET}"))[1]
        code, said = await ping(stage, "a-third-secret")
        assert (code, "another secret" in said, "a-third-secret" in said) == (1, True, False)
        code, said = await ping(stage, "")
        assert (code, "GITHUB_WEBHOOK_SECRET" in said) == (78, True)
        code, said = await ping(stage, port=9)
        assert (code, "no connection" in said) == (1, True)
        assert noted.answers["ping", "ping"] == 3
    async with served(tmp_path / "off") as stage:
        code, said = await ping(stage)
        assert (code, "has no secret" in said) == (1, True)


async def test_the_command_takes_no_login_page_for_the_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "configure", lambda *arguments, **settings: None)  # those of this process stay

    async def log_in(scope: Scope, receive: Receive, send: Send) -> None:
        await HTMLResponse("<html>Log in")(scope, receive, send)

    with serve(log_in) as (url,):
        config = tmp_path / "config.yaml"
        config.write_text(f"collectors: {{}}\nhttp: {{public_url: '{url}'}}\n")
        invoke = partial(CliRunner().invoke, main, ["--config", str(config), "webhook", "test"])
        result = await anyio.to_thread.run_sync(partial(invoke, env={"GITHUB_WEBHOOK_SECRET": SECRET}))
    assert (result.exit_code, "200 by something before the daemon" in result.output) == (1, True)


async def test_page_state_and_metrics_show_deliveries_and_what_may_be_wrong(tmp_path: Path) -> None:
    async with served(tmp_path / "on", webhook_secret=SECRET) as stage:
        state = await stage.json("/api/v1/state")
        assert state["webhooks"] == {"last": None, "today": 0, "missed_today": 0, "hint": None}
        await post(stage, b"{}", signed(b"{}", "wrong"))
        stage.clock.pass_time(5)
        assert "another secret" in (await stage.json("/api/v1/state"))["webhooks"]["hint"]
        await post(stage, b"{}", signed(b"{}", event="ping"))
        stage.clock.pass_time(5)
        page = (await stage.client.get("/")).text
        assert "1 today, 0 missed" in page
        assert "no delivery for a day" not in page
        metrics = (await stage.client.get("/metrics")).text
        for line in (
            'infra_health_webhook_deliveries_total{event="ping",result="ping"} 1.0',
            'infra_health_webhook_deliveries_total{event="workflow_run",result="unsigned"} 1.0',
            "infra_health_webhook_missed_total 0.0",
        ):
            assert line in metrics
        stage.clock.pass_time(24 * 3600)
        assert "no delivery for a day" in (await stage.client.get("/")).text
    async with served(tmp_path / "off") as stage:
        assert (await stage.json("/api/v1/state"))["webhooks"] is None


async def test_a_run_by_webhook_turns_a_tile_and_draws_no_bar(tmp_path: Path) -> None:
    async with served(tmp_path) as stage:
        await stage.run()
        before = (await stage.client.get("/")).text
        stage.collectors["ci"].samples = [a_check(value=3.0, status="pass")]
        run = await stage.context.scheduler.trigger("ci", Cause.WEBHOOK, Actor("webhook"))
        assert await stage.context.scheduler.active.wait(run.id, 10)
        stage.clock.pass_time(5)
        after = (await stage.client.get("/")).text
        assert ('class="tile fail"' in before, 'class="tile pass"' in after) == (True, True)
        assert before.count('class="hit"') == after.count('class="hit"')
        revisions = {text.partition('data-revision="')[2][:16] for text in (before, after)}
        assert len(revisions) == 2, "open pages show it without being loaded anew"
