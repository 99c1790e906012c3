"""GitHub's deliveries over real HTTP: what is answered, before and after the signature is known to be right."""

import hmac
import json
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from click.testing import CliRunner
from starlette.responses import HTMLResponse

from service.cli.main import main
from service.config import logging
from service.config.secrets import Secret, mounted_file
from service.demo.stage import serve
from service.web import webhooks
from service.web.auth import MAX_IN_FLIGHT
from tests.integration.web.stage import Stage, in_chunks, problem_of, received, secret, served

WEBHOOK = "/api/v1/webhooks/github"
SECRET = "it is a secret"  # GitHub takes any text
MIB = 1024 * 1024


@pytest.fixture
def options() -> dict[str, Any]:
    return {"webhook_secret": secret(SECRET)}


def a_delivery(**changes: Any) -> bytes:
    repository = {"full_name": "octo/hello"}
    run = {"id": 7, "workflow_id": 1, "run_attempt": 1, "event": "push", "status": "completed", "conclusion": "success"}
    run |= {f"{each}_at": "2026-03-04T05:00:00Z" for each in ("created", "run_started", "updated")}
    run |= {"head_branch": "main", "head_repository": repository, "repository": repository, **changes}
    return json.dumps({"action": "completed", "workflow_run": run, "repository": run["repository"]}).encode()


def signed(body: bytes, secret: str = SECRET, event: str = "workflow_run") -> dict[str, str]:
    signature = "sha256=" + hmac.new(secret.encode(), body, "sha256").hexdigest()
    # GitHub names itself by a host that nobody allowed, and comes without a token.
    return {"X-GitHub-Event": event, "X-Hub-Signature-256": signature, "Host": "hooks.example"}


async def post(stage: Stage, body: bytes, headers: dict[str, str] | None = None) -> httpx.Response:
    return await stage.client.post(WEBHOOK, content=body, headers=signed(body) if headers is None else headers)


async def begin(stage: Stage, body: bytes, size: int, headers: dict[str, str]) -> anyio.abc.SocketStream:
    """A delivery of which so many bytes have come."""
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST {WEBHOOK} HTTP/1.1\r\n{head}Content-Length: {len(body)}\r\n\r\n"
    return await stage.connect(head.encode() + body[:size])


@pytest.mark.parametrize("options", [{"webhook_secret": secret(SECRET), "token": secret("t"), "in_cluster": True}])
async def test_what_is_taken_is_answered_before_any_work_and_what_has_not_the_events_shape_is_a_400(
    stage: Stage,
) -> None:
    for status, body, event in (
        (202, a_delivery(id=1), "workflow_run"),
        (202, a_delivery(id=2, head_repository={"full_name": "evil/hello"}), "workflow_run"),
        (202, a_delivery(id=3, head_repository=None), "workflow_run"),  # a fork that is gone
        (204, a_delivery(repository={"full_name": "octo/other"}), "workflow_run"),
        (204, a_delivery(conclusion=None, status="in_progress"), "workflow_run"),
        (200, b"{}", "ping"),
        (204, b"{}", "check_run"),
    ):
        answer = await post(stage, body, signed(body, event=event))
        assert (answer.status_code, answer.content) == (status, b"")
    taken = stage.context.deliveries.facts("ci", "octo/hello")
    assert [(run.id, run.conclusion) for run in taken] == [(1, "success"), (2, "success"), (3, "success")]
    shapeless = (b"", b"{", b"[]", b"null", b'{"action": "completed"}', b"\xff", b"[" * 100_000)
    for body in shapeless:
        assert "application/json" in problem_of(await post(stage, body), 400)["detail"]
    numbers: list[dict[str, Any]] = [{"id": 2**64}, {"id": -5}, {"run_attempt": 0}]
    for number in numbers:
        assert "64 bits" in problem_of(await post(stage, a_delivery(**number)), 400)["detail"]
    form = signed(b"payload=%7B%7D", event="ping") | {"Content-Type": "application/x-www-form-urlencoded"}
    assert "application/json" in problem_of(await post(stage, b"payload=%7B%7D", form), 400)["detail"]
    of_runs = {"taken": 3, "ignored": 2, "invalid": len(shapeless) + len(numbers)}
    counts = {("workflow_run", result): count for result, count in of_runs.items()}
    counts |= {("ping", "ping"): 1, ("ping", "invalid"): 1, ("other", "ignored"): 1}
    assert stage.context.deliveries.summary().by_result == counts
    assert not stage.context.scheduler.active.runs()


async def test_a_signature_that_is_wrong_missing_or_of_sha1_alone_is_a_401(stage: Stage) -> None:
    body = a_delivery()
    right = signed(body)["X-Hub-Signature-256"]
    of_sha1 = {"X-Hub-Signature": "sha1=" + hmac.new(SECRET.encode(), body, "sha1").hexdigest()}
    wrong = [{}, of_sha1, signed(body, "another secret"), signed(body, ""), signed(body + b" ")]
    for shown in ("", "sha256=", right[7:], right.upper(), right[:-1], "\xe9" * 71):
        wrong.append({"X-Hub-Signature-256": shown})
    for headers in wrong:
        sent = {name.encode(): value.encode("latin-1") for name, value in headers.items()}
        answer = await stage.client.post(WEBHOOK, content=body, headers=sent)
        assert "X-Hub-Signature-256" in problem_of(answer, 401)["detail"]
        assert right not in answer.text
    assert {result for _, result in stage.context.deliveries.summary().by_result} == {"unsigned"}
    assert not stage.context.deliveries.facts("ci", "octo/hello")
    assert (await post(stage, body)).status_code == 202


async def test_without_a_secret_there_is_nothing_here_either_of_two_opens_and_a_new_one_is_looked_up(
    tmp_path: Path,
) -> None:
    file, body = tmp_path / "secret", a_delivery()
    held = Secret("webhook secret", "set it", sources=[mounted_file(file, "GITHUB_WEBHOOK_SECRET_FILE")])
    async with served(tmp_path, webhook_secret=held) as stage:
        for content, key, status in (
            ("", "", 404),
            ("first-secret", "first-secret", 202),
            ("first-secret, second-secret\n", "second-secret", 202),
            ("first-secret, second-secret\n", "first-secret", 202),
            ("second-secret", "third-secret", 401),  # and within five seconds nobody makes it look again
        ):
            file.write_text(content)
            assert (await post(stage, body, signed(body, key))).status_code == status


async def test_bodies_are_bounded_as_they_come(stage: Stage) -> None:
    largest = a_delivery(title="x" * (25 * MIB - len(a_delivery(title=""))))
    for content, status in ((largest, 202), (largest + b" ", 413)):
        headers = signed(content)
        assert (await stage.client.post(WEBHOOK, content=content, headers=headers)).status_code == status
        assert (await stage.client.post(WEBHOOK, content=in_chunks(content), headers=headers)).status_code == status


async def test_two_large_bodies_have_a_place_and_a_small_one_needs_none(stage: Stage) -> None:
    body = a_delivery(title="x" * MIB)
    slow = [await begin(stage, body, MIB + 1, signed(body)) for _ in range(2)]
    while (answer := await post(stage, body)).status_code == 202:
        pass
    problem_of(answer, 503)
    assert (await post(stage, a_delivery())).status_code == 202
    for stream in slow:
        await stream.send(body[MIB + 1 :])
        assert (await stream.receive()).startswith(b"HTTP/1.1 202 ")
    assert (await post(stage, body)).status_code == 202


async def test_bodies_of_strangers_that_drip_leave_places_for_the_page_and_never_ending_ones_are_a_408(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = {"Host": "a", "X-Hub-Signature-256": "sha256=00"}
    slow = [await begin(stage, b"{}", 1, stranger) for _ in range(MAX_IN_FLIGHT)]
    while (await post(stage, a_delivery())).status_code != 503:
        pass
    assert (await stage.client.get("/")).status_code == 200
    for stream in slow:
        await stream.aclose()
    monkeypatch.setattr(webhooks, "ARRIVAL_TIME", 0.1)
    assert (await received(await begin(stage, b"{}", 1, stranger))).startswith(b"HTTP/1.1 408 ")
    assert (await post(stage, a_delivery())).status_code == 202


async def test_the_command_says_what_is_wrong_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "configure", lambda *arguments, **settings: None)  # those of this process stay
    config = tmp_path / "config.yaml"

    async def ping(url: str, key: str, code: int, words: str) -> None:
        config.write_text(f"collectors: {{}}\nhttp: {{public_url: '{url}'}}\n")
        invoke = partial(CliRunner().invoke, main, ["--config", str(config), "webhook", "test"])
        result = await anyio.to_thread.run_sync(partial(invoke, env={"GITHUB_WEBHOOK_SECRET": key}))
        assert (result.exit_code, words in result.output) == (code, True), result.output
        assert "a-third-secret" not in result.output

    async with served(tmp_path / "on", webhook_secret=secret(f"{SECRET},other-secret")) as stage:
        url = f"http://127.0.0.1:{stage.port}"
        await ping(url, SECRET, 0, f"{url}{WEBHOOK}: the ping was taken")
        await ping(url, f"other-secret,{SECRET}", 0, "with either secret")
        await ping(url, "a-third-secret", 1, "another secret")
        await ping(url, "", 78, "GITHUB_WEBHOOK_SECRET")
    async with served(tmp_path / "off") as stage:
        await ping(f"http://127.0.0.1:{stage.port}", SECRET, 1, "has no secret")
    await ping("http://127.0.0.1:9", SECRET, 1, "no connection")
    with serve(HTMLResponse("<html>Log in")) as (url,):
        await ping(url, SECRET, 1, "200 by something before the daemon")


async def test_page_and_state_show_deliveries_and_what_may_be_wrong_and_no_header(stage: Stage) -> None:
    state = await stage.json("/api/v1/state")
    assert state["webhooks"] == {"last": None, "today": 0, "missed_today": 0, "hint": None}
    wrong = signed(b"{}", "wrong") | {"X-GitHub-Delivery": "a-delivery-id", "User-Agent": "GitHub-Hookshot/044aadd"}
    await post(stage, b"{}", wrong)
    stage.clock.ahead += 5
    assert "another secret" in (await stage.json("/api/v1/state"))["webhooks"]["hint"]
    await post(stage, b"{}", signed(b"{}", event="ping"))
    stage.clock.ahead += 5
    page, metrics, log = [(await stage.client.get(path)).text for path in ("/", "/metrics", "/api/v1/log")]
    assert ("1 today, 0 missed" in page, "no delivery for a day" in page) == (True, False)
    assert 'infra_health_webhook_deliveries_total{event="ping",result="ping"} 1.0' in metrics
    for header in ("a-delivery-id", "Hookshot", wrong["X-Hub-Signature-256"], SECRET):
        assert header not in page + metrics + log
    stage.clock.ahead += 24 * 3600
    assert "no delivery for a day" in (await stage.client.get("/")).text
