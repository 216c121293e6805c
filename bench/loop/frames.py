"""Messages through a pipe between a run and a worker: each is its length, then its bytes."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

__all__ = ["FrameBuffer", "read_frame", "write_frame"]

LENGTH = struct.Struct(">Q")


def write_frame(pipe: int, content: bytes) -> None:
    """Write one message. Raises OSError if nobody reads the pipe."""
    left = memoryview(LENGTH.pack(len(content)) + content)
    while left:
        left = left[os.write(pipe, left) :]


def read_frame(pipe: int) -> bytes | None:
    """Read one message; None if the pipe was closed before its end."""
    head = _read(pipe, LENGTH.size)
    return None if head is None else _read(pipe, LENGTH.unpack(head)[0])


def _read(pipe: int, size: int) -> bytes | None:
    content = bytearray()
    while len(content) < size:
        part = os.read(pipe, min(size - len(content), 1 << 20))
        if not part:
            return None
        content += part
    return bytes(content)


class FrameBuffer:
    """The messages in bytes that arrive in pieces."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def frames(self, piece: bytes) -> Iterator[bytes]:
        """Add a piece. Yields the messages that are complete now."""
        self._bytes += piece
        while len(self._bytes) >= LENGTH.size:
            end = LENGTH.size + LENGTH.unpack_from(self._bytes)[0]
            if len(self._bytes) < end:
                return
            content = bytes(self._bytes[LENGTH.size : end])
            del self._bytes[:end]
            yield content
