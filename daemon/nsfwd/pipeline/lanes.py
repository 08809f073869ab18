"""A queue that is fair between lanes by weight and between connections in turn.

Pure: no clock, no task, no process. It knows nothing of what it queues.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

from nsfwd.protocol.messages import Lane

Item = TypeVar("Item", bound=Hashable)

WEIGHTS: dict[Lane, int] = {Lane.INTERACTIVE: 16, Lane.NORMAL: 4, Lane.BACKGROUND: 1}
"""Share of each lane while all have work. Weights and not strict priority: a sweep never starves either."""


class _LaneItems(Generic[Item]):
    """The items of one lane: connections in turn, each with its items in order of arrival.

    A connection that begins to ask has its first turn at once, before those that have been asking all along (the rule
    of FQ-CoDel, RFC 8290: one who asks rarely waits for nobody's queue). It stays in the round until its next turn has
    come, also when nothing of it waits, so that asking little and often gains nothing.
    """

    __slots__ = ("again", "credit", "new", "old", "size", "weight")

    def __init__(self, weight: int) -> None:
        self.weight = weight
        self.credit = 0
        self.size = 0
        # A dict is an ordered set here: a settled ticket leaves the middle of a long queue in constant time.
        self.again: dict[Item, None] = {}
        self.new: OrderedDict[Hashable, dict[Item, None]] = OrderedDict()
        self.old: OrderedDict[Hashable, dict[Item, None]] = OrderedDict()

    def push(self, item: Item, connection: Hashable) -> None:
        """Queue behind the connection's other items."""
        items = self.new.get(connection)
        if items is None:
            items = self.old.get(connection)
        if items is None:
            items = self.new[connection] = {}
        items[item] = None
        self.size += 1

    def discard(self, item: Item, connection: Hashable) -> bool:
        """Take an item out, wherever it waits."""
        for items in (self.again, self.new.get(connection), self.old.get(connection)):
            if items is not None and item in items:
                del items[item]
                self._left()
                return True
        return False

    def take(self) -> Item:
        """Take the item whose turn it is; there is one."""
        if self.again:
            item = next(iter(self.again))
            del self.again[item]
        else:
            item = self._take_in_turn()
        self._left()
        return item

    def _take_in_turn(self) -> Item:
        while True:
            connection, items = (self.new or self.old).popitem(last=False)
            if items:
                item = next(iter(items))
                del items[item]
                self.old[connection] = items
                return item

    def _left(self) -> None:
        self.size -= 1
        if not self.size:  # an idle lane saves nothing up and remembers nobody
            self.credit = 0
            self.new.clear()
            self.old.clear()


class LaneQueue(Generic[Item]):
    """Items waiting for a stage.

    ``pop`` takes from the lanes that have items by smooth weighted round-robin (the scheme of nginx's upstreams: every
    lane with work earns its weight, the richest is served and pays the sum), and within the lane from the connections
    in turn.
    """

    def __init__(self) -> None:
        self._lanes: dict[Lane, _LaneItems[Item]] = {lane: _LaneItems(weight) for lane, weight in WEIGHTS.items()}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def depths(self) -> dict[str, int]:
        """Items waiting in each lane."""
        return {lane.value: items.size for lane, items in self._lanes.items()}

    def push(self, item: Item, lane: Lane, connection: Hashable) -> None:
        """Queue ``item`` behind the others of its connection."""
        self._lanes[lane].push(item, connection)
        self._size += 1

    def push_front(self, item: Item, lane: Lane) -> None:
        """Queue ``item`` before all others of its lane: it was taken once and has to be taken again."""
        items = self._lanes[lane]
        items.again = {item: None, **items.again}
        items.size += 1
        self._size += 1

    def discard(self, item: Item, lane: Lane, connection: Hashable) -> None:
        """Take ``item`` out if it still waits."""
        if self._lanes[lane].discard(item, connection):
            self._size -= 1

    def pop(self) -> Item | None:
        """Take the item whose turn it is; None when nothing waits."""
        waiting = [lane for lane in self._lanes.values() if lane.size]
        if not waiting:
            return None
        chosen = waiting[0]
        if len(waiting) > 1:  # a lane that is alone would earn its weight and pay it back
            for lane in waiting:
                lane.credit += lane.weight
            chosen = max(waiting, key=lambda lane: lane.credit)
            chosen.credit -= sum(lane.weight for lane in waiting)
        self._size -= 1
        return chosen.take()
