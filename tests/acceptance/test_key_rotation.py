"""The Datadog key is revoked and rotated while the daemon runs: it holds everything, and goes on with the new key."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3  # type: ignore[import-untyped] # it ships no types
import pytest

from service.demo.intake import intake_app
from tests.acceptance.load import add_load
from tests.acceptance.program import Place, place, wait_for
from tests.aws import moto

OLD, NEW = "a" * 32, "b" * 32
AWS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "eu-central-1"}

Rotate = Callable[[str], object]


@pytest.fixture(scope="module")
def aws() -> Iterator[str]:
    with moto() as address:
        yield address


def in_secrets_manager(here: Place, aws: str) -> Rotate:
    here.environ.update(AWS, AWS_ENDPOINT_URL=aws)
    client = boto3.client(
        "secretsmanager",
        endpoint_url=aws,
        region_name=AWS["AWS_DEFAULT_REGION"],
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    client.create_secret(Name="datadog/api-key", SecretString=json.dumps({"api_key": OLD}))
    return lambda key: client.put_secret_value(SecretId="datadog/api-key", SecretString=json.dumps({"api_key": key}))


def in_a_mounted_file(here: Place, aws: str) -> Rotate:
    file = here.folder / "api-key"
    here.environ["DD_API_KEY_FILE"] = str(file)

    def rotate(key: str) -> None:
        # As Kubernetes does it: a new file takes the place of the old one.
        fresh = file.with_name("fresh")
        fresh.write_text(f"{key}\n")
        fresh.replace(file)

    rotate(OLD)
    return rotate


@pytest.mark.parametrize("kept", [in_secrets_manager, in_a_mounted_file])
def test_a_key_that_is_rotated_after_it_was_revoked_costs_no_point(
    kept: Callable[[Place, str], Rotate], aws: str, tmp_path: Path
) -> None:
    good = {OLD}
    with place(tmp_path, intake=intake_app(keys=good)) as here:
        del here.environ["DD_API_KEY"]
        rotate = kept(here, aws)
        add_load(here, schedule="0 0 1 1 *", gauges=300, distributions=50)
        with here.daemon() as daemon:
            daemon.wait_until_quiet()
            good.clear()
            started = daemon.http.post("/api/v1/collectors/load/runs?wait=10").raise_for_status().json()
            assert started["outcome"] == "Complete"

            def is_refused() -> bool:
                answer = daemon.http.get("/readyz")
                assert answer.status_code == 200
                details = {check["name"]: check for check in answer.json()["checks"]}
                return details["datadog"]["status"] == "warn" and "refused" in details["datadog"]["detail"]

            wait_for(is_refused, daemon)
            good.add(NEW)
            rotate(NEW)
            runs = daemon.wait_until_quiet()
            assert {run["delivery"]["delivered"] == run["samples"] >= 350 for run in runs} == {True}
            assert {check["name"]: check["status"] for check in daemon.get("/readyz")["checks"]}["datadog"] == "ok"
            assert daemon.end() == 0
            said = daemon.text
        arrived = Counter(
            (point.metric, point.at, point.value) for point in here.intake.points if point.metric.startswith("acme.")
        )
        assert len(arrived) == 2 * 350
        assert set(arrived.values()) == {1}
        kept_on_disk = b"".join(path.read_bytes() for path in here.state_dir.iterdir())
        for key in (OLD, NEW):
            assert key not in said
            assert key.encode() not in kept_on_disk
