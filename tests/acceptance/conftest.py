"""Where the program runs in the tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.program import Place, place


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Place]:
    """A place of the test's own."""
    with place(tmp_path) as it:
        yield it
