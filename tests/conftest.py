"""What every test begins with."""

from collections.abc import Iterator

import pytest

from service.config import masking


@pytest.fixture(autouse=True)
def no_secrets_of_other_tests() -> Iterator[None]:
    """What one test masks, as a process does for its life, must not change what another reads."""
    forms, pattern = set(masking._forms), masking._pattern
    yield
    masking._forms.clear()
    masking._forms.update(forms)
    masking._pattern = pattern
