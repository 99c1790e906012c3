"""The daemon's process: its store and listener, the signals, the tasks' owners, and the exit code."""

import signal
from collections.abc import Callable, Mapping

import anyio
import structlog

from service import __version__
from service.config_sources import Loaded
from service.daemon import Daemon, Loader
from service.ending import leave_within
from service.parts import edges, open_store
from service.pipeline.clock import SystemClock
from service.series import collisions
from service.web.server import bind

log = structlog.get_logger(__name__)

_STUBBORN = 1.0  # seconds for a cancelled collector to stop before the process ends without it

Announce = Callable[[str], None]


async def run_daemon(load: Loader, loaded: Loaded, environ: Mapping[str, str], announce: Announce) -> int:
    """Runs until SIGTERM or SIGINT; gives the exit code. ``load`` reads the configuration anew for SIGHUP.

    Raises ConfigError when the port is taken, the state directory can't be used or another daemon holds it.
    """
    settings, clock = loaded.settings, SystemClock()
    for note in (*loaded.notes, *collisions(settings)):
        log.warning(note)
    listener = bind(settings.http.host, settings.http.port)
    code = 0
    # Ours before uvicorn's, which would raise SIGTERM anew so that nothing drains; and open to the very end.
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1) as signals:
        async with anyio.create_task_group() as attempts:
            store = await open_store(settings, clock)
            try:
                async with edges(settings, environ) as parts, anyio.create_task_group() as tasks:
                    daemon = Daemon(load, loaded, environ, clock, store, parts, tasks, attempts)
                    await daemon.start(listener)
                    host, port = listener.getsockname()[:2]
                    log.info("ready", version=__version__, host=host, port=port, state_dir=str(settings.state_dir))
                    announce(f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{port}/")  # noqa: S104
                    async for each in signals:
                        if each == signal.SIGHUP:
                            await daemon.reload()
                        elif each == signal.SIGUSR1:
                            await daemon.trigger_all()
                        else:
                            break
                    tasks.start_soon(daemon.hurry, signals)
                    await daemon.drain(signal.Signals(each).name)
                    tasks.cancel_scope.cancel()
            finally:
                with anyio.CancelScope(shield=True):
                    await store.close()
            code = 1 if daemon.hurried else 0
            log.info("ended")
            attempts.cancel_scope.cancel()
            leave_within(_STUBBORN, code)
    # The receiver's end brings back the default handlers: a signal that comes now would spoil the exit code.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return code
