"""A daemon's store traffic, to be killed: each line on stdout says what was committed before it was written.

Run as a script with a state directory. A line on stdin forks one more daemon (imports are paid once), whose process id
is the first word of its output; when it is dead, this process says so.
"""

import os
import select
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from random import Random

import anyio

from service.adapters.store import SqliteStore
from service.domain.points import Fate
from service.domain.samples import Kind
from tests.integration.store_cases import DISTRIBUTION, over, samples, started


def say(*words: object) -> None:
    """One line, short enough for the pipe to take it whole or not at all."""
    line = " ".join(map(str, words)) + "\n"
    assert len(line) <= select.PIPE_BUF
    os.write(1, line.encode())


def ranges(ids: Iterable[int]) -> list[str]:
    """``1-3 7-7`` for 1, 2, 3, 7."""
    runs = [[number for _, number in run] for _, run in groupby(enumerate(ids), lambda pair: pair[1] - pair[0])]
    return [f"{run[0]}-{run[-1]}" for run in runs]


def numbers(ranges: Iterable[str]) -> set[int]:
    """What ``ranges`` wrote."""
    ends = [each.split("-") for each in ranges]
    return {number for first, last in ends for number in range(int(first), int(last) + 1)}


async def work(directory: Path, generation: int) -> None:
    random = Random(generation)
    store = await SqliteStore.open(directory, now=datetime.now(UTC))
    for number in range(generation * 1_000, (generation + 1) * 1_000):
        count = random.choice((1, 30, 700))
        await store.begin(started(number))
        say("begun", started(number).id)
        brought = samples(count) + samples(count, DISTRIBUTION)
        await store.end(over(started(number), count=len(brought)), brought, [], {"last": started(number).id.encode()})
        say("ended", started(number).id, len(brought))
        points = await store.waiting(2_000)
        sending = [point.id for point in points if point.kind is Kind.DISTRIBUTION]
        await store.settle(sending, Fate.SENDING)
        say("sending", *ranges(sending))
        settled = [point.id for point in points]
        await store.settle(settled, Fate.DELIVERED)
        say("delivered", *ranges(settled))


def main() -> None:
    for generation, _ in enumerate(sys.stdin):
        child = os.fork()
        if child == 0:
            say("daemon", os.getpid())
            anyio.run(work, Path(sys.argv[1]), generation)
        os.waitpid(child, 0)
        say("dead")


if __name__ == "__main__":
    main()
