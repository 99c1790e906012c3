"""A daemon's store traffic, to be killed: each line on stdout says what was committed before it was written.

Run as a script with a state directory. A line on stdin forks one more daemon (imports are paid once), whose process id
is the first word of its output; when it is dead, this process says so.
"""

import os
import select
import sys
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import anyio

from service.config.settings import StoreSettings
from service.domain.delivery import DeliveryStatus
from service.domain.samples import Kind
from service.store import Store
from tests.integration.store.cases import DISTRIBUTION, claim_slot, ended, samples, started


def say(*words: object) -> None:
    """One line, short enough for the pipe to take it whole or not at all."""
    line = " ".join(map(str, words)) + "\n"
    assert len(line) <= select.PIPE_BUF
    os.write(1, line.encode())


async def work(directory: Path, generation: int) -> None:
    random = Random(generation)
    store = await Store.open(directory, StoreSettings(keep_failed=100_000, keep_ended=100_000))
    known = (await store.runs.slots(started().mode)).get("ci")
    for number in range(generation * 1_000, (generation + 1) * 1_000):
        count = random.choice((1, 30, 700))
        run = started(number)
        assert await claim_slot(store, run, known, forbids=True)
        known = run.slot
        say("begun", run.id)
        brought = samples(count) + samples(count, DISTRIBUTION)
        await store.runs.end(ended(run, count=len(brought)), brought, [], {"last": run.id.encode()})
        say("ended", run.id, len(brought))
        while chunks := await store.outbox.claim(datetime.now(UTC), 4_000_000, 10_000):
            of_kind = chunks[0].kind is Kind.DISTRIBUTION
            say("sending", of_kind, *(chunk.id for chunk in chunks))
            await store.outbox.settle(chunks, DeliveryStatus.DELIVERED)
            say("delivered", of_kind, *(chunk.id for chunk in chunks))


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
