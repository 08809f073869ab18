"""The bytes of an image that a client sends, kept outside the server process's own memory until a decoder has them."""

from __future__ import annotations

import fcntl
import os

from nsfwd.errors import CodedError

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
"""Nobody who holds the descriptor from then on can change or resize the image that is scored."""


class MemfdUpload:
    """A nameless file in memory (memfd) that grows as the bytes arrive. Its descriptor is given away or closed, once.

    A body without memory or descriptor drops its bytes; ``take`` then says why.

    Args:
        size: bytes announced; further ones count as well.

    Attributes:
        written: bytes that have come.
        opened: whether it has, or had, its descriptor.
    """

    __slots__ = ("_descriptor", "_reason", "opened", "size", "written")

    def __init__(self, size: int) -> None:
        self.size = size
        self.written = 0
        self.opened = False
        self._descriptor: int | None = None
        self._reason = ""

    def open(self) -> None:
        """Take a descriptor, before the first byte is written."""
        self.opened = True
        try:
            self._descriptor = os.memfd_create("nsfwd-image", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except OSError as error:
            self.refuse(error.strerror or "")

    @property
    def refused(self) -> bool:
        """Whether it drops its bytes."""
        return bool(self._reason)

    def write(self, data: bytes) -> None:
        """Append the next bytes."""
        self.written += len(data)
        self.size = max(self.size, self.written)
        if self._descriptor is None:
            return
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            self.refuse(error.strerror or "")

    def refuse(self, reason: str) -> None:
        """Drop the bytes that came and those that come."""
        self._reason = reason or "no memory"
        self.discard()

    def take(self) -> int:
        """Seal it and return the descriptor, at its first byte, for the caller to close.

        Raises:
            CodedError: ``busy``: the bytes could not be kept; the daemon's fault, a retry helps.
        """
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            raise CodedError("busy", f"no room for the image's bytes: {self._reason}", retry_after=1.0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
        return descriptor

    def discard(self) -> None:
        """Close it unless it was given away. Idempotent."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)
