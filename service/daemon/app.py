"""The daemon's process: its store and listener, the signals, the tasks' owners, and the exit code."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping

import anyio
import structlog

from service import __version__
from service.config.loader import Loaded
from service.daemon.daemon import Daemon, Loader
from service.daemon.series import find_collisions
from service.daemon.wiring import open_clients, open_store
from service.pipeline.clock import SystemClock

log = structlog.get_logger(__name__)

_STOP_TIMEOUT = 1.0  # seconds for a cancelled collector to stop before the process ends without it


async def run_daemon(load: Loader, loaded: Loaded, environ: Mapping[str, str], announce: Callable[[str], None]) -> int:
    """Runs until SIGTERM or SIGINT; returns the exit code. ``load`` reads the configuration anew for SIGHUP.

    Raises ConfigError when the port is taken, the state directory can't be used or another daemon holds it.
    """
    settings, clock = loaded.settings, SystemClock()
    for warning in (*loaded.warnings, *find_collisions(settings)):
        log.warning(warning)
    # Ours before uvicorn's, which would raise SIGTERM anew so that nothing drains; and open to the very end.
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1) as signals:
        async with anyio.create_task_group() as attempts:
            store = await open_store(settings, environ, clock)
            try:
                async with open_clients(settings, environ) as clients, anyio.create_task_group() as tasks:
                    daemon = Daemon(load, loaded, environ, clock, store, clients, tasks, attempts)
                    port = await daemon.start()
                    url = f"http://{_reachable(settings.http.host)}:{port}/"
                    log.info("ready", version=__version__, url=url, port=port, state_dir=str(settings.state_dir))
                    announce(url)
                    async for each in signals:
                        if each == signal.SIGHUP:
                            await daemon.reload()
                        elif each == signal.SIGUSR1:
                            await daemon.trigger_all()
                        else:
                            break
                    tasks.start_soon(daemon.watch_second_signal, signals)
                    await daemon.drain(signal.Signals(each).name)
                    tasks.cancel_scope.cancel()
            finally:
                with anyio.CancelScope(shield=True):
                    await store.close()
            code = 1 if daemon.is_hurried else 0
            log.info("ended")
            attempts.cancel_scope.cancel()
            force_exit_after(_STOP_TIMEOUT, code)
    # The receiver's end brings back the default handlers: a signal that comes now would spoil the exit code.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return code


def _reachable(host: str) -> str:
    """The host of an address that a person on this machine can open."""
    if host in ("*", "0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        return "localhost"
    return f"[{host}]" if ":" in host else host


def force_exit_after(seconds: float, code: int) -> None:
    """Ends the process with ``code`` after ``seconds`` at the latest; call it when nothing is left to be stored.

    A task that swallows its cancellation can't be stopped from within the loop, nor a thread from anywhere.
    """

    def force_exit() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    timer = threading.Timer(seconds, force_exit)
    timer.daemon = True
    timer.start()
