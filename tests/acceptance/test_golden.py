"""What users see is what the files beside the generator say: a difference is a decision (CHANGELOG.md)."""

import difflib

import pytest

from tests.golden.generate import FOLDER, generate


@pytest.mark.timeout(400)
def test_what_users_see_is_as_it_was_frozen() -> None:
    for name, content in generate().items():
        before = (FOLDER / name).read_text()
        lines = difflib.unified_diff(before.splitlines(), content.splitlines(), f"frozen/{name}", "now", lineterm="")
        assert content == before, "\n".join(lines)
