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
    """The items of one lane: connections in turn, each with its items in order of arrival."""

    __slots__ = ("connections", "credit", "weight")

    def __init__(self, weight: int) -> None:
        self.weight = weight
        self.credit = 0
        # A dict is an ordered set here: a settled ticket leaves the middle of a long queue in constant time.
        self.connections: OrderedDict[Hashable, dict[Item, None]] = OrderedDict()


class LaneQueue(Generic[Item]):
    """Items waiting for a stage.

    ``pop`` takes from the lanes that have items by smooth weighted round-robin (the scheme of nginx's upstreams: every
    lane with work earns its weight, the richest is served and pays the sum), and within the lane from the connection
    that has waited longest for its turn.
    """

    def __init__(self) -> None:
        self._lanes: dict[Lane, _LaneItems[Item]] = {lane: _LaneItems(weight) for lane, weight in WEIGHTS.items()}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def depths(self) -> dict[str, int]:
        """Items waiting in each lane."""
        return {
            lane.value: sum(len(items) for items in state.connections.values()) for lane, state in self._lanes.items()
        }

    def push(self, item: Item, lane: Lane, connection: Hashable) -> None:
        """Queue ``item`` behind the others of its connection."""
        connections = self._lanes[lane].connections
        items = connections.get(connection)
        if items is None:
            connections[connection] = {item: None}
        else:
            items[item] = None
        self._size += 1

    def push_front(self, item: Item, lane: Lane, connection: Hashable) -> None:
        """Queue ``item`` before all others of its lane: it was taken once and has to be taken again."""
        connections = self._lanes[lane].connections
        connections[connection] = {item: None, **connections.get(connection, {})}
        connections.move_to_end(connection, last=False)
        self._size += 1

    def discard(self, item: Item, lane: Lane, connection: Hashable) -> None:
        """Take ``item`` out if it still waits."""
        connections = self._lanes[lane].connections
        items = connections.get(connection)
        if items is None or item not in items:
            return
        del items[item]
        if not items:
            del connections[connection]
        self._size -= 1

    def pop(self) -> Item | None:
        """Take the item whose turn it is; None when nothing waits."""
        waiting = [lane for lane in self._lanes.values() if lane.connections]
        if not waiting:
            return None
        if len(waiting) == 1:  # it would earn its weight and pay it back
            return self._take(waiting[0])
        for lane in waiting:
            lane.credit += lane.weight
        chosen = max(waiting, key=lambda lane: lane.credit)
        chosen.credit -= sum(lane.weight for lane in waiting)
        return self._take(chosen)

    def _take(self, lane: _LaneItems[Item]) -> Item:
        connection, items = next(iter(lane.connections.items()))
        item = next(iter(items))
        del items[item]
        if items:
            lane.connections.move_to_end(connection)
        else:
            del lane.connections[connection]
            if not lane.connections:
                lane.credit = 0  # an idle lane saves nothing up
        self._size -= 1
        return item
