"""A queue that is fair between lanes by weight, and within a lane between flows, which take turns level by level.

Pure: no clock, no task, no process. It knows nothing of what it queues.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

from nsfwd.protocol.messages import Lane

Item = TypeVar("Item", bound=Hashable)

FlowKey = tuple[Hashable, ...]
"""A flow, from its widest group to its narrowest: user or host, process, connection. Turns go round at each level, so
that more connections are not more turns. No flow's key is the beginning of another's."""

WEIGHTS: dict[Lane, int] = {Lane.INTERACTIVE: 8, Lane.NORMAL: 3, Lane.BACKGROUND: 1}
"""Share of each lane while all have work. Weights and not strict priority: a sweep never starves either, and gets a
tenth at least beside a saturated interactive lane."""


class _FlowNode(Generic[Item]):
    """A flow, or a group of flows whose members take turns.

    A flow that begins to ask has the first turn at once, before those that have been asking all along (the rule of
    FQ-CoDel, RFC 8290: a flow that asks rarely waits for no other's queue), and stays in the round until the next turn
    has come, also when nothing of it waits, so that asking little and often gains nothing.

    Attributes:
        above: the node it takes turns in.
        waiting: how many of its members have something that waits; of one without members, how many items wait.
        items: its own; only one without members has any.
        new, old: the members in the order of their turns; those that began to ask come first.
    """

    __slots__ = ("above", "items", "key", "members", "new", "old", "waiting")

    def __init__(self, key: Hashable = None, above: _FlowNode[Item] | None = None) -> None:
        self.key = key
        self.above = above
        self.waiting = 0
        # A dict is an ordered set here: a settled ticket leaves the middle of a long queue in constant time.
        self.items: dict[Item, None] = {}
        self.members: dict[Hashable, _FlowNode[Item]] = {}
        self.new: deque[_FlowNode[Item]] = deque()
        self.old: deque[_FlowNode[Item]] = deque()

    def push(self, item: Item, flow: FlowKey) -> None:
        """Queue behind the flow's other items."""
        node = self
        for key in flow:
            member = node.members.get(key)
            if member is None:
                member = node.members[key] = _FlowNode(key, node)
                node.new.append(member)
            node = member
        node.items[item] = None
        node.waiting += 1
        while node.waiting == 1 and node.above is not None:  # only the first waiting item counts further up
            node = node.above
            node.waiting += 1

    def discard(self, item: Item, flow: FlowKey) -> bool:
        """Take an item out; return whether it was there."""
        node: _FlowNode[Item] | None = self
        for key in flow:
            node = node.members.get(key) if node is not None else None
        if node is None or item not in node.items:
            return False
        del node.items[item]
        node._left()
        return True

    def take(self) -> Item:
        """Take the item whose turn it is; there is one."""
        node = self
        while node.members:
            lone = len(node.old) == 1 and not node.new
            node = node.old[0] if lone else node.next()
        item = next(iter(node.items))
        del node.items[item]
        node._left()
        return item

    def _left(self) -> None:
        """An item of its own waits no longer."""
        node = self
        node.waiting -= 1
        while not node.waiting and node.above is not None:
            node = node.above
            node.waiting -= 1

    def next(self) -> _FlowNode[Item]:
        """The member whose turn it is; those that have had no work for a round are forgotten on the way."""
        while True:
            member = self.new.popleft() if self.new else self.old.popleft()
            if member.waiting:
                self.old.append(member)
                return member
            del self.members[member.key]

    @property
    def fresh(self) -> bool:
        """Whether the next turn is that of a flow that has only begun to ask, or that waits for a single item."""
        node = self
        while node.members:
            if node.new:
                return True
            if len(node.members) > 1:
                return False
            node = node.old[0]
        return node.waiting == 1

    def clear(self) -> None:
        """Forget whose turn it is; nothing waits."""
        node = self
        while len(node.members) == 1:  # one alone has no turn to remember, and is mostly the next to ask again
            node = next(iter(node.members.values()))
        if node.members:
            for emptied in (self.members, self.new, self.old):
                emptied.clear()


class _LaneItems(Generic[Item]):
    """The items of one lane."""

    __slots__ = ("again", "credit", "size", "turns", "weight")

    def __init__(self, weight: int) -> None:
        self.weight = weight
        self.credit = 0
        self.size = 0
        self.again: dict[Item, None] = {}
        self.turns: _FlowNode[Item] = _FlowNode()

    def push(self, item: Item, flow: FlowKey) -> None:
        """Queue behind the flow's other items."""
        self.turns.push(item, flow)
        self.size += 1

    def push_front(self, item: Item) -> None:
        """Queue before all others."""
        self.again = {item: None, **self.again}
        self.size += 1

    def discard(self, item: Item, flow: FlowKey) -> bool:
        """Take an item out, wherever it waits."""
        if item in self.again:
            del self.again[item]
        elif not self.turns.discard(item, flow):
            return False
        self._left()
        return True

    def take(self) -> Item:
        """Take the item whose turn it is; there is one."""
        if self.again:
            item = next(iter(self.again))
            del self.again[item]
        else:
            item = self.turns.take()
        self._left()
        return item

    def _left(self) -> None:
        self.size -= 1
        if not self.size:  # an idle lane saves nothing up and remembers no flow
            self.credit = 0
            self.turns.clear()


class FairQueue(Generic[Item]):
    """Items waiting for a stage.

    ``pop`` takes from the lanes that have items by smooth weighted round-robin (the scheme of nginx's upstreams: every
    lane with work earns its weight, the richest is served and pays the sum), and within the lane from its flows in
    turn.
    """

    def __init__(self) -> None:
        self._lanes: dict[Lane, _LaneItems[Item]] = {lane: _LaneItems(weight) for lane, weight in WEIGHTS.items()}
        self._size = 0
        self._working: list[_LaneItems[Item]] = []

    def __len__(self) -> int:
        return self._size

    @property
    def fresh(self) -> bool:
        """Whether a flow waits, in any lane, that has not been asking all along."""
        return any(lane.turns.fresh for lane in self._working)

    def depths(self) -> dict[str, int]:
        """Items waiting in each lane."""
        return {lane.value: items.size for lane, items in self._lanes.items()}

    def push(self, item: Item, lane: Lane, flow: FlowKey) -> None:
        """Queue ``item`` behind the others of its flow."""
        self._lanes[lane].push(item, flow)
        self._count(self._lanes[lane], 1)

    def push_front(self, item: Item, lane: Lane) -> None:
        """Queue ``item`` before all others of its lane: it was taken once and has to be taken again."""
        self._lanes[lane].push_front(item)
        self._count(self._lanes[lane], 1)

    def discard(self, item: Item, lane: Lane, flow: FlowKey) -> None:
        """Take ``item`` out if it still waits."""
        if self._lanes[lane].discard(item, flow):
            self._count(self._lanes[lane], -1)

    def pop(self) -> Item | None:
        """Take the item whose turn it is; None when nothing waits."""
        working = self._working
        if not working:
            return None
        lane = working[0] if len(working) == 1 else self._richest()  # alone it would earn its weight and pay it back
        item = lane.take()
        self._count(lane, -1)
        return item

    def _richest(self) -> _LaneItems[Item]:
        for lane in self._working:
            lane.credit += lane.weight
        chosen = max(self._working, key=lambda lane: lane.credit)
        chosen.credit -= sum(lane.weight for lane in self._working)
        return chosen

    def _count(self, lane: _LaneItems[Item], more: int) -> None:
        """An item came or went; a lane that has begun or ceased to have any is not looked for at each turn."""
        self._size += more
        if lane.size <= 1:
            self._working = [lane for lane in self._lanes.values() if lane.size]
