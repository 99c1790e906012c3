"""The web against its own description: schemathesis asks what the document allows, and what it does not."""

import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from anyio.from_thread import start_blocking_portal

from tests.integration.web import stage as web

TOKEN = "t0ken-of-the-operators"
READ_TOKEN = "t0ken-of-the-readers"

# To this description any body is a snapshot, and most are rightly refused; unknown ids and collectors are, too.
_CONFIG = """
[[operations]]
include-path-regex = "/snapshots$"
checks.positive_data_acceptance.enabled = false
"""


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("openapi")
    stage = web.served(folder, token=web.secret(TOKEN), read_token=web.secret(READ_TOKEN))
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(stage) as served:
        portal.call(served.run, "ci")
        served.context.scheduler.beat = math.inf  # by this clock, which stands, its timer would never rest
        with httpx.Client(base_url=f"http://127.0.0.1:{served.port}", verify=False, trust_env=False) as client:
            yield client


@pytest.fixture(scope="module")
def document(http: httpx.Client) -> Any:
    return http.get("/openapi.json", headers={"authorization": f"Bearer {READ_TOKEN}"}).raise_for_status().json()


def test_no_answer_is_a_500_or_undocumented(http: httpx.Client, document: Any, tmp_path: Path) -> None:
    """Right and wrong values for every parameter and body, and methods that are none; always the same ones."""
    (tmp_path / "openapi.json").write_text(json.dumps(document))
    (tmp_path / "schemathesis.toml").write_text(_CONFIG)
    program = Path(sys.executable).with_name("schemathesis")
    options = ["--url", str(http.base_url), "--header", f"Authorization: Bearer {TOKEN}", "--no-color"]
    command = [str(program), "run", "openapi.json", *options, "--phases", "coverage", "--seed", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert http.get("/livez").status_code == 200


@pytest.mark.parametrize("token", [READ_TOKEN, "wrong"])
def test_the_refusal_of_who_may_less_is_documented(http: httpx.Client, document: Any, token: str) -> None:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            answer = http.request(method, re.sub(r"{\w+}", "ci", path), headers={"authorization": f"Bearer {token}"})
            assert str(answer.status_code) in operation["responses"], (method, path)
            assert answer.status_code < 500
