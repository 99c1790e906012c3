"""The bytes of a snapshot before they are JSON: gzip told by its content, bounds that hold before memory is spent."""

import zlib
from dataclasses import dataclass

from service.domain.errors import Rejected, TooLarge, Unfinished

_MAGIC = b"\x1f\x8b"  # RFC 1952, 2.3.1
_GZIP = 31  # zlib's wbits for data with a gzip header
_SLICE = 64 * 1024  # bytes a call; zlib lets go of the interpreter meanwhile
_LAYERS = 2  # a .gz file that its server sends with Content-Encoding: gzip
_MEMBERS = 10_000  # parts of one file; a bomb can be made of empty ones, too


@dataclass(frozen=True, slots=True)
class Limits:
    """What a snapshot may hold at most: bytes once inflated, records, and levels of one record's nesting."""

    size: int = 64 * 1024 * 1024
    records: int = 200_000
    depth: int = 32


def inflated(body: bytes, name: str, longest: int) -> bytes:
    """``body``, unpacked where it is gzip. Raises TooLarge beyond ``longest`` bytes, Unfinished where it breaks off."""
    for _ in range(_LAYERS):
        if not body.startswith(_MAGIC):
            break
        body = _unpacked(body, name, longest)
    if body.startswith(_MAGIC):
        raise Rejected(f"{name} is packed with gzip more than {_LAYERS} times; pack it once")
    if len(body) > longest:
        raise TooLarge(f"{name} holds more than {longest:,} bytes; publish less, or in several snapshots")
    return body


def _unpacked(body: bytes, name: str, longest: int) -> bytes:
    parts: list[bytes] = []
    left, at, members = longest, 0, 1  # at: the next byte to read
    member = zlib.decompressobj(_GZIP)
    while at < len(body):
        if member.eof:
            if body[at:].strip(b"\0") == b"":  # tar and tapes pad with zeros
                break
            member, members = zlib.decompressobj(_GZIP), members + 1
            if members > _MEMBERS:
                raise TooLarge(f"{name} is made of more than {_MEMBERS:,} gzip members")
        data = body[at : at + _SLICE]
        at += len(data)
        while data:
            try:
                part = member.decompress(data, left + 1)
            except zlib.error as error:
                raise Unfinished(f"{name}: no valid gzip before byte {at}: {error}") from error
            left -= len(part)
            if left < 0:
                raise TooLarge(f"{name} inflates to more than {longest:,} bytes; publish less, or in several snapshots")
            parts.append(part)
            data = member.unconsumed_tail
        at -= len(member.unused_data)
    if not member.eof:
        raise Unfinished(f"{name}: the gzip data breaks off at byte {len(body)}; is it half-written?")
    return b"".join(parts)
