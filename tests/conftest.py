"""What every test begins with."""

import os
from collections.abc import Iterator

import pytest

from service.config import masking
from tests.postgres import postgres_server, postgres_url

__all__ = ["postgres_server", "postgres_url"]


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: tests of whole programs wait for them as long as they work themselves."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture(autouse=True)
def no_secrets_of_other_tests() -> Iterator[None]:
    """What one test masks, as a process does for its life, must not change what another reads."""
    forms, pattern = set(masking._forms), masking._pattern
    yield
    masking._forms.clear()
    masking._forms.update(forms)
    masking._pattern = pattern
