"""The web against its own description: schemathesis asks what the document allows, and what it does not."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

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
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("openapi")
    stage = web.served(folder, token=TOKEN, read_token=READ_TOKEN, seconds=600, is_beating=True)
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(stage) as served:
        portal.call(served.run, "ci")
        yield f"http://127.0.0.1:{served.port}"


@pytest.mark.parametrize("token", [TOKEN, READ_TOKEN, "wrong"])
def test_no_answer_is_a_500_or_undocumented(base: str, tmp_path: Path, token: str) -> None:
    """Right and wrong values for every parameter and body, methods that are none, from each kind of caller."""
    document = tmp_path / "openapi.json"
    reader = {"authorization": f"Bearer {READ_TOKEN}"}
    document.write_text(httpx.get(f"{base}/openapi.json", headers=reader).text)
    (tmp_path / "schemathesis.toml").write_text(_CONFIG)
    # Who holds a lesser token is refused before anything else is looked at: no fault of the schema.
    lesser = ("--exclude-checks", "positive_data_acceptance,unsupported_method") if token != TOKEN else ()
    done = subprocess.run(
        [
            Path(sys.executable).with_name("schemathesis"),
            "run",
            document,
            *("--url", base),
            *("--header", f"Authorization: Bearer {token}"),
            *("--phases", "coverage,fuzzing"),
            *("--max-examples", "12"),
            # By chance most of what is drawn at first is nothing that HTTP could carry: its generator's matter.
            *("--suppress-health-check", "filter_too_much"),
            *lesser,
            "--no-color",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert httpx.get(f"{base}/livez").status_code == 200
