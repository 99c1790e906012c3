"""Where snapshots are read from: files, HTTP and S3. The content is given as it is; what it means is not known here."""

import zlib

import anyio.to_thread
import httpx

from service.adapters import snapshot_files, snapshot_http, snapshot_s3
from service.adapters.secrets import Secret
from service.adapters.snapshot_source import FORMS, LONGEST, Content
from service.config_values import shown
from service.domain.errors import ConfigError

__all__ = ["FORMS", "LONGEST", "Content", "Reader", "read"]

# Packed; what takes more is asked for anew each time.
_KEPT_BYTES = 16 * 1024 * 1024


async def read(
    source: str, http: httpx.AsyncClient, *, longest: int = LONGEST, token: Secret | None = None, unless: str = ""
) -> Content | None:
    """The content of ``source`` (one of ``FORMS``); None while its validator is still ``unless``.

    Raises Unavailable, Unfinished (it changed while it was read), Rejected or ConfigError. The last two are not worth
    another try soon: nothing there, no access, more than ``longest`` bytes, no such form.
    ``token``: the bearer token of an http(s) source.
    """
    scheme, separator, _ = source.partition("://")
    match scheme.lower() if separator else "":
        case "" | "file":
            path = snapshot_files.path_of(source)
            # A file system that hangs (NFS, EFS) holds its thread, not the run beyond its deadline.
            return await anyio.to_thread.run_sync(snapshot_files.read, path, longest, abandon_on_cancel=True)
        case "http" | "https":
            return await snapshot_http.read(source, http, longest, token, unless)
        case "s3":
            # The client's models take a tenth of a second to load, so all of it happens in a thread with its own loop.
            return await anyio.to_thread.run_sync(
                anyio.run, snapshot_s3.read, source, longest, unless, abandon_on_cancel=True
            )
        case _:
            raise ConfigError(f"source {shown(source)}: {scheme}:// is not supported; it may be {FORMS}")


class Reader:
    """Reads one source again and again; what has not changed since is not transferred again."""

    def __init__(self, source: str, http: httpx.AsyncClient, *, longest: int, token: Secret | None) -> None:
        self._source = source
        self._http = http
        self._longest = longest
        self._token = token
        self._kept: Content | None = None  # its body is packed

    async def read(self) -> Content:
        """As ``read`` above."""
        kept = self._kept
        unless = kept.validator if kept else ""
        content = await read(self._source, self._http, longest=self._longest, token=self._token, unless=unless)
        if content is None:
            if kept is None:
                raise AssertionError("only what was validated can be unchanged")
            return kept.with_body(await anyio.to_thread.run_sync(zlib.decompress, kept.body))
        self._kept = None
        if content.validator:
            packed = await anyio.to_thread.run_sync(zlib.compress, content.body, 1)
            if len(packed) <= _KEPT_BYTES:
                self._kept = content.with_body(packed)
        return content

    def forget(self) -> None:
        """The next reading transfers the content again, whatever its validator."""
        self._kept = None
