"""Many questions to GitHub at once, each with its answer or its error."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import anyio

from service.domain.errors import Rejected, Unavailable

T = TypeVar("T")
Failure = Unavailable | Rejected

# The statuses of what was deleted, or is not for us to see.
GONE = (404, 410)


async def gathered(calls: Sequence[Callable[[], Awaitable[T]]]) -> list[T | Failure]:
    """The results of all calls, made at once and in their order; an error of GitHub's in place of a result."""
    results: list[T | Failure] = [Unavailable("not asked")] * len(calls)

    async def call(index: int) -> None:
        try:
            results[index] = await calls[index]()
        except (Unavailable, Rejected) as error:
            results[index] = error

    async with anyio.create_task_group() as tasks:
        for index in range(len(calls)):
            tasks.start_soon(call, index)
    return results
