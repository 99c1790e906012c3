"""Two hundred requests a second and browsers that never rest, for a test's time (bench/http.py: a minute)."""

import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest

from service.web import pages
from tests.integration.web.stage import served

RATE, SECONDS = 200, 1
ASKED = ("/livez", "/api/v1/collectors", "/readyz", "/metrics", "/livez", "/api/v1/runs", "/collectors/ci", "/")


async def test_each_page_is_rendered_once_a_second_and_nothing_fails_but_by_503(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rendered: Counter[str] = Counter()
    render = pages._render

    def counted(template: str, values: Mapping[str, Any]) -> bytes:
        rendered[template] += 1
        return render(template, values)

    monkeypatch.setattr(pages, "_render", counted)
    async with served(tmp_path, is_beating=True) as stage, anyio.create_task_group() as tasks:
        answers: Counter[tuple[str, int]] = Counter()

        async def ask(path: str) -> None:
            answers[path, (await stage.client.get(path)).status_code] += 1

        async def browse() -> None:
            while True:
                for path in ("/", "/api/v1/state"):
                    await ask(path)

        async def work() -> None:
            while True:
                await stage.client.post("/api/v1/collectors/ci/runs?wait=30")

        await stage.run()
        for _ in range(5):
            tasks.start_soon(browse)
        tasks.start_soon(work)
        began = time.monotonic()
        async with anyio.create_task_group() as asking:
            for number in range(RATE * SECONDS):
                asking.start_soon(ask, ASKED[number % len(ASKED)])
                await anyio.sleep(max(0.0, began + number / RATE - time.monotonic()))
        took = time.monotonic() - began
        tasks.cancel_scope.cancel()
    assert {status for _, status in answers} <= {200, 503}
    assert {status for path, status in answers if path in ("/livez", "/readyz")} == {200}
    assert answers["/", 200] > 20
    assert max(rendered.values()) <= took + 2
