"""From SQLite to a PostgreSQL that replicas share: what goes along, and what is refused."""

from pathlib import Path

import pytest

from service.domain.errors import ConfigError
from service.domain.runs import Actor, Mode, Pause
from service.store.directory import copy_store
from tests.integration.store.cases import DISTRIBUTION, NOW, check, claim, claim_slot, keep, opened, samples, started


async def test_what_the_next_process_needs_goes_along(tmp_path: Path, postgres_url: str) -> None:
    async with opened(tmp_path) as store:
        await store.runs.pause(Pause("evals", NOW, Actor("here", "ada", "a quiet night")))
        await keep(store, started(), samples(1500), checks=[check()], state={"k": b"1"})
        assert await claim_slot(store, started(1), None, forbids=True)
        await keep(store, started(2, "evals"), samples(3, DISTRIBUTION))
        with pytest.raises(ConfigError, match="in use by process"):
            copy_store(tmp_path, postgres_url)
    counts = copy_store(tmp_path, postgres_url)
    assert counts["outbox"] == 3
    async with opened(tmp_path / "none", url=postgres_url) as shared:
        assert await shared.runs.slots(Mode.LIVE) == {"ci": started(1).slot}
        assert (await shared.runs.pauses())["evals"].actor.reason == "a quiet night"
        assert await shared.checks.read("ci") == [check()]
        assert await shared.states.read("ci", "k") == (b"1", 1)
        sent = [point for _ in range(2) for chunk in await claim(shared) for point in chunk.points]
        assert len(sent) == 1503
    with pytest.raises(ConfigError, match="only an empty store"):
        copy_store(tmp_path, postgres_url)


async def test_a_target_that_refuses_is_a_matter_of_configuration(tmp_path: Path, postgres_url: str) -> None:
    with pytest.raises(ConfigError, match="nothing to copy"):
        copy_store(tmp_path, postgres_url)
    async with opened(tmp_path):
        pass
    with pytest.raises(ConfigError, match="does not exist"):
        copy_store(tmp_path, postgres_url.replace("/postgres", "/nowhere"))
