"""Stand-ins for child processes and the arena: a test plays the child's part by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import msgspec

from nsfwd.ipc import child_messages
from nsfwd.ipc.child import Exit

_TO_CHILD = msgspec.msgpack.Decoder(
    child_messages.DecoderSetup
    | child_messages.Decode
    | child_messages.Poison
    | child_messages.ListerSetup
    | child_messages.List
    | child_messages.More
    | child_messages.Forget
    | child_messages.EngineSetup
    | child_messages.Batch
)


class FakeChild:
    """Records what the server sends; ``say`` and ``die`` are the child's side."""

    born: ClassVar[list[FakeChild]] = []
    refusals: ClassVar[int] = 0

    def __init__(
        self,
        module: str,
        *,
        name: str,
        fds: Sequence[int] = (),
        on_message: Callable[[bytes], None],
        on_exit: Callable[[Exit], None],
        **_: Any,
    ) -> None:
        self.module = module
        self.name = name
        self.on_message = on_message
        self.on_exit = on_exit
        self.received: list[Any] = []
        self.descriptors: list[int] = []
        self.alive = False
        self.killed = False
        self.scarce = False
        self.pid = 4242
        self.last_words = "its last words"

    def start(self) -> None:
        if FakeChild.refusals:
            FakeChild.refusals -= 1
            raise OSError(11, "Resource temporarily unavailable")
        self.alive = True
        FakeChild.born.append(self)

    def send(self, packet: bytes, descriptors: Sequence[int] = ()) -> bool:
        assert self.alive
        if descriptors and self.scarce:
            return False
        self.received.append(_TO_CHILD.decode(packet))
        self.descriptors.extend(descriptors)
        return True

    def kill(self) -> None:
        self.killed = True

    async def stop(self, timeout: float) -> None:
        self.alive = False

    def say(self, message: child_messages.Wire) -> None:
        self.on_message(child_messages.encode(message))

    def die(self, signal: int = 9) -> None:
        self.alive = False
        self.on_exit(Exit(code=None, signal=signal, last_words="gone"))

    def jobs(self) -> list[child_messages.Job]:
        """Every job sent so far, in order."""
        return [job for message in self.received if isinstance(message, child_messages.Decode) for job in message.jobs]

    def batches(self) -> list[child_messages.Batch]:
        """Every batch sent so far, in order."""
        return [message for message in self.received if isinstance(message, child_messages.Batch)]


@dataclass
class FakeArena:
    """Notes without memory."""

    fd: int = 0
    notes: dict[int, tuple[int, float]] = field(default_factory=dict)

    def note(self, worker: int) -> tuple[int, float] | None:
        return self.notes.get(worker)

    def clear_note(self, worker: int) -> None:
        self.notes.pop(worker, None)
