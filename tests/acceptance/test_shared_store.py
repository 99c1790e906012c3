"""The program with a PostgreSQL that replicas share: what commands say of it, and how a wrong one is named."""

import signal
from datetime import UTC, datetime

import anyio

from service.config.settings import StoreSettings
from service.store import Store
from tests.acceptance.program import Place, wait_for
from tests.postgres import running_postgres


def test_commands_ask_the_server_and_a_push_at_any_replica_is_seen(here: Place, postgres_url: str) -> None:
    here.environ["INFRA_HEALTH_STORE__URL"] = postgres_url
    here.config["collectors"] = {"training": {"type": "snapshot", "category": "training", "schedule": "@hourly"}}
    here.write_config()

    async def push() -> None:
        settings = StoreSettings.model_validate({"url": postgres_url})
        store = await Store.open(here.folder, settings, lambda: datetime.now(UTC))
        await store.states.add_push("training", "key", b"", datetime.now(UTC), max_bytes=100)
        await store.close()

    with here.daemon(environ={"HOSTNAME": "pod-1"}) as daemon:
        assert daemon.get("/api/v1/collectors/training")["note"] == "waiting for a first push"
        anyio.run(push)
        wait_for(lambda: not daemon.get("/api/v1/collectors/training")["note"], daemon, 20)
        diagnosis = here.run("diagnose").stdout.splitlines()[-1]
    assert diagnosis.split()[:2] == ["store", "ok"]
    assert "tools of PostgreSQL" in here.run("backup", "copy.db").stderr
    lost = here.run("diagnose", environ={"INFRA_HEALTH_STORE__URL": postgres_url.replace("/postgres", "/nowhere")})
    assert 'database "nowhere" does not exist' in lost.stdout.splitlines()[-1]
    assert "Remedy: correct store.url" in lost.stdout.splitlines()[-1]


def test_a_reload_and_a_trigger_while_the_server_is_away_do_not_end_the_daemon(here: Place) -> None:
    with running_postgres() as server:
        here.environ["INFRA_HEALTH_STORE__URL"] = server.url
        here.config["collectors"] = {"early": {"type": "exec", "command": ["true"], "schedule": "@hourly"}}
        here.write_config()
        server.stop()
        with here.daemon() as daemon:
            here.config["collectors"] = {"late": here.config["collectors"]["early"]}
            here.write_config()
            daemon.send(signal.SIGHUP)
            changes = '"changed": {"collectors.early": "removed", "collectors.late": "added"}'
            wait_for(lambda: changes in daemon.text, daemon, 20)
            server.start()
            wait_for(lambda: "run failed" in daemon.text, daemon, 20)
            assert {run["collector"] for run in daemon.get("/api/v1/runs")["runs"]} == {"late"}
            server.stop()
            daemon.send(signal.SIGUSR1)
            wait_for(lambda: "SIGUSR1 starts no runs" in daemon.text, daemon, 20)
            daemon.send(signal.SIGHUP)
            wait_for(lambda: "the audit log can't be written" in daemon.text, daemon, 20)
            assert daemon.get("/livez")["ok"]
            server.start()
            wait_for(lambda: daemon.http.get("/api/v1/runs").is_success, daemon, 20)
