"""uvicorn as one task of the daemon among others: its socket, its bounds on connections, its end."""

import anyio
from anyio.abc import TaskStatus
from fastapi import FastAPI


async def serve(
    app: FastAPI, host: str, port: int, *, task_status: TaskStatus[int] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Serves until cancelled; then idle connections are closed at once and answers under way get two seconds.

    ``host``: an address, a name or ``*`` (both families on one socket). Reports the bound port as soon as callers are
    answered: ``port = await tasks.start(serve, app, host, port)``. Raises ConfigError, naming the setting.
    """
    raise NotImplementedError
