"""The running program against its own description: schemathesis asks what the document allows, and what it does not."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.program import Daemon, Place, place

TOKEN = "t0ken-of-the-operators"
READ_TOKEN = "t0ken-of-the-readers"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(tmp_path_factory.mktemp("openapi")) as it:
        it.environ |= {"INFRA_HEALTH_TOKEN": TOKEN, "INFRA_HEALTH_READ_TOKEN": READ_TOKEN}
        yield it


@pytest.fixture(scope="module")
def daemon(here: Place) -> Iterator[Daemon]:
    with here.daemon() as it:
        it.http.headers["authorization"] = f"Bearer {READ_TOKEN}"
        it.wait_until_quiet()
        yield it


_CONFIG = """
[[operations]]
include-path-regex = "/snapshots$"
checks.positive_data_acceptance.enabled = false
"""


@pytest.mark.parametrize("token", [TOKEN, READ_TOKEN, "wrong"])
def test_no_answer_is_a_500_or_undocumented(daemon: Daemon, tmp_path: Path, token: str) -> None:
    """Right and wrong values for every parameter and body, methods that are none, from each kind of caller."""
    document = tmp_path / "openapi.json"
    document.write_text(daemon.http.get("/openapi.json").text)
    # `schema snapshot` says what a snapshot must be; to this description any body is one, and most are rightly refused.
    (tmp_path / "schemathesis.toml").write_text(_CONFIG)
    # Who holds a lesser token is refused before anything else is looked at: no fault of the schema.
    lesser = ("--exclude-checks", "positive_data_acceptance,unsupported_method") if token != TOKEN else ()
    done = subprocess.run(
        [
            Path(sys.executable).with_name("schemathesis"),
            "run",
            document,
            *("--url", str(daemon.http.base_url)),
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
    assert daemon.http.get("/livez").status_code == 200
