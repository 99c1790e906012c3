"""The web against its own description: schemathesis asks what the document allows, and what it does not."""

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from anyio.from_thread import start_blocking_portal

from tests.integration.web.stage import secret, served

TOKEN = "t0ken-of-the-operators"
READ_TOKEN = "t0ken-of-the-readers"

# To this description any body is a snapshot, and most are rightly refused; unknown ids and collectors are, too.
_CONFIG = """
[[operations]]
include-path-regex = "/snapshots$"
checks.positive_data_acceptance.enabled = false
"""


@pytest.fixture
def http(tmp_path: Path) -> Iterator[httpx.Client]:
    manager = served(tmp_path / "store", token=secret(TOKEN), read_token=secret(READ_TOKEN))
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(manager) as stage:
        portal.call(stage.run)
        stage.context.scheduler.beat = math.inf  # by this clock, which stands, its timer would never rest
        with httpx.Client(base_url=f"http://127.0.0.1:{stage.port}", verify=False, trust_env=False) as client:
            yield client


def test_no_answer_is_a_500_or_undocumented(http: httpx.Client, tmp_path: Path) -> None:
    """Right and wrong values for every parameter and body, and methods that are none; always the same ones."""
    readers, strangers = ({"authorization": f"Bearer {token}"} for token in (READ_TOKEN, "wrong"))
    document = http.get("/openapi.json", headers=readers).raise_for_status().json()
    (tmp_path / "openapi.json").write_text(json.dumps(document))
    (tmp_path / "schemathesis.toml").write_text(_CONFIG)
    program = str(Path(sys.executable).with_name("schemathesis"))
    options = ["--url", str(http.base_url), "--header", f"Authorization: Bearer {TOKEN}", "--no-color"]
    command = [program, "run", "openapi.json", *options, "--phases", "coverage", "--seed", "1"]
    # Where the tables of letters are that Hypothesis makes at the first use.
    environ = os.environ | {"HYPOTHESIS_STORAGE_DIRECTORY": str(Path(".hypothesis").absolute())}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert http.get("/livez").status_code == 200
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for headers in (readers, strangers):
                answer = http.request(method, re.sub(r"{\w+}", "ci", path), headers=headers)
                assert str(answer.status_code) in operation["responses"], (method, path)
                assert answer.status_code < 500
