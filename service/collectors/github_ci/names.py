"""Whether the branch and the labels that the settings name are there: a name that means nothing must not read as 0.

GraphQL tells with the pull requests; where it does not, each name has an address of its own, asked for once an hour.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from urllib.parse import quote

from service.collectors.github_ci.models import Named
from service.collectors.github_ci.state import State
from service.github.client import Github, NotFound

_THERE, _ABSENT = timedelta(hours=1), timedelta(minutes=15)  # how long an answer holds


async def is_branch(github: Github, repo: str, branch: str) -> bool:
    """A renamed branch is redirected to its new name. Raises what ``Github.get`` does, but NotFound."""
    return await _is_there(github, f"/repos/{repo}/branches/{quote(branch)}", branch)


async def is_label(github: Github, repo: str, label: str) -> bool:
    """GitHub's labels have no case. Raises what ``Github.get`` does, but NotFound."""
    return await _is_there(github, f"/repos/{repo}/labels/{quote(label, safe='')}", label)


async def _is_there(github: Github, path: str, name: str) -> bool:
    try:
        found = await github.get(path, Named, cached=True, question="names")
    except NotFound:
        return False
    return (found.name or "").lower() == name.lower()


class Names:
    """What is known of the names of one repository, ``refs/heads/BRANCH`` or a label; ``state.names`` keeps it."""

    def __init__(self, github: Github, state: State, now: datetime) -> None:
        self._github = github
        self._state = state
        self._now = now

    def note(self, told: Mapping[str, bool]) -> None:
        """What GraphQL told. An absent name is looked up by itself before that is believed."""
        for name, is_there in told.items():
            if is_there:
                self._state.names[name] = True, self._now
            elif self._state.names.get(name, (False, self._now))[0]:
                del self._state.names[name]

    async def has(self, name: str) -> bool:
        """Raises what ``Github.get`` does, but NotFound."""
        is_there, at = self._state.names.get(name, (False, None))
        if at is None or self._now - at > (_THERE if is_there else _ABSENT):
            branch = name.removeprefix("refs/heads/")
            is_there = await (is_label if branch == name else is_branch)(self._github, self._state.repo, branch)
            self._state.names[name] = is_there, self._now
        return is_there
