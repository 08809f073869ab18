"""The self-test of one generation: goldens prove each engine before it scores an image of a request, and while it does.

Images give their slots back only once an engine has scored them, and no engine scores before it is proved. So a proof
must never wait for what images hold: the goldens are decoded once, when the generation starts, and their pixels kept;
slots, tickets and the one descriptor that stays open are the self-test's own. What fails for lack of something that
comes back (descriptors, memory, a decoder that was killed) is tried again: only a golden that is scored wrongly, or
cannot be scored at all, breaks the generation.

Once an engine is proved, a golden goes through decoder and engine every few seconds, the canary, so that ``ready`` says
what is true. It goes the way of every image, but waits behind none. Without goldens there is neither proof nor canary.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nsfwd.bundles.verdict import View
from nsfwd.errors import BundleError, CodedError, NsfwdError
from nsfwd.ipc.child_messages import Decoded
from nsfwd.pipeline.queueing.scored import Scored
from nsfwd.pipeline.queueing.tickets import Claim
from nsfwd.protocol.messages import Image, Lane

if TYPE_CHECKING:
    from pathlib import Path

    from nsfwd.bundles.manifest import Golden
    from nsfwd.pipeline.generation import Generation
    from nsfwd.pipeline.infer.served_model import ServedModel
    from nsfwd.pipeline.queueing.tickets import Ticket
    from nsfwd.protocol.messages import Judgement

RETRY = 0.5
"""Seconds before a step that failed for lack of something is tried again."""

TRIES = 6
"""How often decoders, or engines, may fail on a golden for another reason than the golden."""

INTERVAL = 10.0
"""Seconds from one canary to the next: nothing beside the work of any engine."""

PATIENCE = 45.0
"""Seconds that a canary may take: several decode timeouts, for it may have to wait behind slow images."""

_SCARCE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR, errno.ENOBUFS})
"""Errors of the system that say that something is used up at present."""

_BY_CHANCE = frozenset({"decoder_died", "decode_timeout", "decoder_memory", "unreadable", "internal"})
"""What decoding our own picture can come to without its being at fault."""

_log = logging.getLogger("nsfwd.pipeline")


@dataclass(eq=False, slots=True)
class _Specimen:
    """A golden, ready to be scored by its model.

    Attributes:
        slot: which of the self-test's slots it uses.
        views: its views as decoded, each with the pixels.
    """

    model: ServedModel
    golden: Golden
    slot: int
    image: Image
    views: list[tuple[Decoded, bytes]] = field(default_factory=list)


class SelfTest:
    """The goldens of one generation, and what they prove.

    Args:
        generation: whose decoders and engine are tested.
        own_ticket: makes a ticket for one of the self-test's slots (``Admission.own_ticket``).

    Attributes:
        canary: goes on testing while the generation serves.
    """

    def __init__(self, generation: Generation, own_ticket: Callable[[Claim], Ticket]) -> None:
        self._loop = asyncio.get_running_loop()
        self._generation = generation
        self._own_ticket = own_ticket
        self.canary = Canary(self._loop, self)
        self._specimens: dict[ServedModel, list[_Specimen]] = {}
        self._prepared: asyncio.Event = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures: Counter[ServedModel] = Counter()

    @property
    def provable(self) -> list[ServedModel]:
        """The models with goldens to prove their engine by."""
        return [model for model in self._generation.models if model.goldens]

    def start(self) -> None:
        """Decode the goldens, before any image and while the engine loads."""
        self._spawn(self._prepare())
        self.canary.start()

    def stop(self) -> None:
        """Prove nothing more."""
        self.canary.stop()
        for task in self._tasks:
            task.cancel()
        for specimens in self._specimens.values():
            self._close(specimens)

    def warm(self, model: ServedModel) -> None:
        """The engine of this model has warmed: prove it before it is trusted."""
        self._spawn(self._prove(model))

    def doubt(self) -> str:
        """Why it is not certain that images are scored; empty when it is."""
        return self.canary.doubt()

    async def send_canary(self, model: ServedModel) -> None:
        """Send one of a model's goldens through decoder and engine, as if it were an image that was asked for.

        Raises:
            CodedError: it did not come through.
            BundleError: it was scored wrongly: the engine is not to be trusted any more.
        """
        specimen = self._specimens[model][0]
        with self._ticket(model, model.first_slot + len(model.goldens)) as ticket:
            timer = self._loop.call_later(PATIENCE, ticket.expire)
            try:
                decoded = await self._first(specimen, ticket)
                scored = await self._generation.infer(specimen.image, ticket, decoded)
            finally:
                timer.cancel()
        judgement, _ = self._generation.judge(scored)
        self._check(specimen, judgement)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @contextmanager
    def _ticket(self, model: ServedModel, slot: int) -> Iterator[Ticket]:
        claim = Claim(("self-test",), Lane.INTERACTIVE, models=(model.name,), reserved_slot=slot)
        ticket = self._own_ticket(claim)
        try:
            yield ticket
        finally:
            ticket.fail(CodedError("cancelled"))  # a child that still holds its slot gives it back by itself
            self._generation.leave(ticket)

    # -- once --------------------------------------------------------------------------------------------------------

    async def _prepare(self) -> None:
        try:
            await self._open()
            specimens = (one for specimens in self._specimens.values() for one in specimens)
            await asyncio.gather(*(self._decode(specimen) for specimen in specimens))
        except NsfwdError as error:
            self._generation.broken(error)
            return
        for model in self._specimens.values():
            self._close(model[1:])  # the first is the canary
        self._prepared.set()

    async def _open(self) -> None:
        """Read the pictures now: by the time another engine starts the directory may hold another version."""
        for model in self._generation.models:
            specimens = self._specimens[model] = []
            for slot, (golden, file) in enumerate(model.goldens, model.first_slot):
                image = Image(descriptor=await self._open_one(file))
                specimens.append(_Specimen(model, golden, slot, image))

    async def _open_one(self, file: Path) -> int:
        complained = False
        while True:
            try:
                return _in_memory(file.read_bytes())
            except OSError as error:
                if error.errno not in _SCARCE:
                    raise BundleError(f"{file}: {error.strerror}") from error
                if not complained:
                    _log.warning("%s: %s; the self-test waits", file, error.strerror)
                complained = True
            await asyncio.sleep(RETRY)

    async def _decode(self, specimen: _Specimen) -> None:
        for left in reversed(range(TRIES)):
            try:
                specimen.views = await self._views(specimen)
            except CodedError as error:
                if error.code not in _BY_CHANCE or not left:
                    raise self._failed(specimen, error) from error
                _log.warning("golden %s could not be decoded, trying again: %s", specimen.golden.file, error)
            else:
                return
            await asyncio.sleep(RETRY)

    async def _views(self, specimen: _Specimen) -> list[tuple[Decoded, bytes]]:
        found: list[tuple[Decoded, bytes]] = []
        generation = self._generation
        with self._ticket(specimen.model, specimen.slot) as ticket:
            decoded = await self._first(specimen, ticket)
            while True:
                assert ticket.lease is not None
                found.append((decoded, bytes(generation.arena.slot(ticket.lease.slot))))
                generation.slots.release(ticket.lease)
                ticket.lease = None
                if not decoded.next:
                    return found
                decoded = await generation.decoding.decode_next(specimen.image, ticket, decoded, specimen.model.recipe)

    async def _first(self, specimen: _Specimen, ticket: Ticket) -> Decoded:
        """The first view; it never shares the decode of a request."""
        decoded = await self._generation.decoding.decode(specimen.image, ticket, recipe=specimen.model.recipe)
        assert isinstance(decoded, Decoded)
        return decoded

    # -- each engine -------------------------------------------------------------------------------------------------

    async def _prove(self, model: ServedModel) -> None:
        supervisor = model.scoring.supervisor
        engine = supervisor.starts
        await self._prepared.wait()
        try:
            for specimen in self._specimens[model]:
                if supervisor.starts != engine or supervisor.engine is None:
                    return  # it has died; the next one is proved anew
                self._check(specimen, await self._judge(specimen))
        except CodedError as error:
            self._unproved(model, error)
        except NsfwdError as error:
            self._generation.broken(error)
        else:
            if supervisor.starts == engine and supervisor.engine is not None:
                del self._failures[model]
                model.scoring.trust()
                self.canary.proven()
                self._generation.proven()

    async def _judge(self, specimen: _Specimen) -> Judgement:
        """Have the kept pixels scored.

        Raises:
            CodedError: the engine died or failed.
            BundleError: its scores are no probabilities.
        """
        generation, model, seen = self._generation, specimen.model, []
        with self._ticket(specimen.model, specimen.slot) as ticket:
            for decoded, pixels in specimen.views:
                ticket.lease = generation.slots.lease_own(specimen.slot)
                assert ticket.lease is not None, "an engine that has ended holds no slot"
                generation.arena.slot(ticket.lease.slot)[:] = pixels
                output = await model.scoring.score(ticket)
                seen.append(View(decoded.frame, decoded.background, {model.name: output}))
        first = specimen.views[0][0]
        plain = first.frames == 1 and not first.background
        try:
            return generation.judge(Scored(tuple(seen), first.frames, first.sampled, plain))[0]
        except CodedError as error:
            raise self._failed(specimen, error) from error

    def _unproved(self, model: ServedModel, error: CodedError) -> None:
        """The engine died, and the next one is proved; or it failed, and another may do better, but not for ever."""
        if error.code != "engine_failed":
            return
        self._failures[model] += 1
        if self._failures[model] >= TRIES:
            self._generation.broken(BundleError(f"{model.name}: the goldens cannot be scored: {error.message}"))
            return
        _log.error("the goldens could not be scored; the engine is restarted: %s", error.message)
        model.scoring.restart()

    def _check(self, specimen: _Specimen, judgement: Judgement) -> None:
        """Compare the scores of a golden with those it must have.

        Raises:
            BundleError: they differ by more than the bundle's tolerance for the precision served.
        """
        golden, bundle = specimen.golden, specimen.model.bundle
        for label, score in judgement.scores[bundle.name].items():
            if not abs(golden.scores[label] - score) <= bundle.tolerance:
                raise BundleError(
                    f"{bundle.model_identity}: golden {golden.file} scored {score:.4f} for {label}, "
                    f"not {golden.scores[label]:.4f} +- {bundle.tolerance:g}; "
                    f"look with: nsfwd models verify {bundle.manifest.name}"
                )

    def _failed(self, specimen: _Specimen, error: CodedError) -> BundleError:
        return BundleError(f"golden {specimen.golden.file} of {specimen.model.name} failed: {error.message}")

    @staticmethod
    def _close(specimens: list[_Specimen]) -> None:
        for specimen in specimens:
            if specimen.image.descriptor is not None:
                os.close(specimen.image.descriptor)
                specimen.image = Image()


class Canary:
    """Sends a golden every ``INTERVAL`` seconds; without one that came through for ``PATIENCE`` seconds there is doubt.

    Args:
        loop: its clock says how long ago the last one came through.
        test: of the generation.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, test: SelfTest) -> None:
        self._loop = loop
        self._test = test
        self._task: asyncio.Task[None] | None = None
        self._proven = loop.time()
        self._why = ""

    def start(self) -> None:
        """Begin to send."""
        self._task = self._loop.create_task(self._run())

    def stop(self) -> None:
        """Send no more."""
        if self._task is not None:
            self._task.cancel()

    def proven(self) -> None:
        """Goldens agreed just now."""
        self._proven = self._loop.time()

    def doubt(self) -> str:
        """Why it is not certain that images are scored; empty when it is."""
        seconds = self._loop.time() - self._proven
        if not self._test.provable or seconds <= PATIENCE:
            return ""
        return f"no canary came through decoder and engine for {seconds:.0f} s" + (
            f": {self._why}" if self._why else ""
        )

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            await self.send()

    async def send(self) -> None:
        """Send one to each model; an engine that scores it wrongly is restarted, and the next one is proved anew."""
        models = [model for model in self._test.provable if model.scoring.trusted]
        whys = [await self._send(model) for model in models]
        self._why = "; ".join(filter(None, whys))
        if models and not self._why:
            self.proven()

    async def _send(self, model: ServedModel) -> str:
        """Send one; return why it did not come through, or an empty string."""
        try:
            await self._test.send_canary(model)
        except CodedError as error:
            return error.message
        except BundleError as error:
            _log.error("the canary was scored wrongly; the engine is restarted: %s", error)
            model.scoring.restart()
            return str(error)
        return ""


def _in_memory(encoded: bytes) -> int:
    """A descriptor with these bytes and no name."""
    descriptor = os.memfd_create("nsfwd-golden", os.MFD_CLOEXEC)
    try:
        view = memoryview(encoded)
        while view:
            view = view[os.write(descriptor, view) :]
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
