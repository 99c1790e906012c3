"""The token that GitHub is asked with: a missing or refused one is looked for again soon, then ever less often."""

from pathlib import Path

import pytest

from service.adapters.github_token import Token, fingerprint
from service.adapters.secrets import MountedFile, Secret
from service.domain.errors import Unauthorized
from tests.integration.github_server import FakeClock


class CountingFile(MountedFile):
    """Counts its readings."""

    readings = 0

    async def read(self) -> str | None:
        CountingFile.readings += 1
        return await super().read()


def token_in(folder: Path, clock: FakeClock) -> Token:
    secret = Secret(
        "GitHub token", "set it", sources=[CountingFile(folder / "token", "GITHUB_TOKEN_FILE")], clock=clock.monotonic
    )
    return Token(secret, clock)


async def test_a_token_that_is_missing_at_the_start_is_taken_once_it_comes(tmp_path: Path) -> None:
    clock = FakeClock()
    token = token_in(tmp_path, clock)
    assert await token.usable() is None
    (tmp_path / "token").write_text("ghp_1")
    clock.passed += 6
    assert await token.usable() == "ghp_1"
    assert token.trouble is None


async def test_a_token_that_stays_away_is_looked_for_ever_less_often(tmp_path: Path) -> None:
    clock = FakeClock()
    token = token_in(tmp_path, clock)
    CountingFile.readings = 0
    for _ in range(3600):
        assert await token.usable() is None
        clock.passed += 1
    assert 10 < CountingFile.readings < 25


async def test_a_refused_token_is_not_used_again_until_it_was_replaced(tmp_path: Path) -> None:
    clock = FakeClock()
    token = token_in(tmp_path, clock)
    (tmp_path / "token").write_text("ghp_1")
    assert await token.usable() == "ghp_1"
    assert not await token.is_renewed("ghp_1")
    with pytest.raises(Unauthorized, match="GitHub refused the GitHub token, nothing is asked"):
        await token.usable()
    (tmp_path / "token").write_text("ghp_2")
    clock.passed += 6
    assert await token.usable() == "ghp_2"
    assert fingerprint("ghp_1") != fingerprint("ghp_2")
