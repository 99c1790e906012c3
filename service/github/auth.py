"""GitHub's credentials."""

from typing import Protocol


class TokenSource(Protocol):
    """Where a token comes from: the configuration's Secret, or an App's installation."""

    @property
    def title(self) -> str: ...
    @property
    def missing(self) -> str:
        """What to do where there is no token."""
        ...

    async def get(self) -> str | None: ...
    async def ask_again(self) -> bool:
        """Looks for another token in place of one that was refused; whether there is one."""
        ...
