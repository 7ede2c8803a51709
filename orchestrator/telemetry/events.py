"""Keep the last things that happened, repeats counted, for `orch events` and `orch describe`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

EventType = Literal["Normal", "Warning"]

MOST_EVENTS = 1000  # a few hundred bytes each; who needs more keeps them elsewhere


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to an object; `count` times since `first_time` if it was the same each time."""

    seq: int
    time: str
    """RFC 3339 in UTC, with milliseconds; of the last occurrence."""
    type: EventType
    reason: str
    """One CamelCase word, for programs."""
    object: str
    """What it happened to, such as `shop-vision/detector`."""
    message: str
    """For people: numbers, and what to do."""
    count: int = 1
    first_time: str = ""


class EventLog:
    """The last events in the order of their last occurrence, each with a higher `seq` than those before.

    A repeat (same type, reason, object and message) takes the place of its earlier occurrence, so that a loop cannot
    push out everything else. `clock` gives seconds since the epoch. Not thread-safe: its owner holds the lock.
    """

    def __init__(self, clock: Callable[[], float], limit: int = MOST_EVENTS) -> None:
        assert limit > 0, limit
        self._clock = clock
        self._limit = limit
        self._seq = 0
        self._events: OrderedDict[tuple[str, str, str, str], Event] = OrderedDict()

    def add(self, type: EventType, reason: str, object: str, message: str) -> Event:  # noqa: A002 - Event's own words
        """Record an event now and return it, with its count if it is a repeat."""
        key = (type, reason, object, message)
        earlier = self._events.pop(key, None)
        self._seq += 1
        time = rfc3339(self._clock())
        if earlier is None:
            event = Event(self._seq, time, type, reason, object, message, 1, time)
        else:
            event = replace(earlier, seq=self._seq, time=time, count=earlier.count + 1)
        self._events[key] = event
        if len(self._events) > self._limit:
            self._events.popitem(last=False)
        return event

    def since(self, seq: int = 0, object: str | None = None) -> tuple[Event, ...]:  # noqa: A002 - Event's own word
        """Return the events after `seq`, oldest first; of one object and what is inside it if `object` is given."""
        return tuple(
            event for event in self._events.values() if event.seq > seq and (object is None or _within(event, object))
        )


def rfc3339(epoch_s: float) -> str:
    """Return the time in UTC as RFC 3339 text with milliseconds, so that texts sort as times do."""
    return datetime.fromtimestamp(epoch_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _within(event: Event, object: str) -> bool:  # noqa: A002 - Event's own word
    return event.object == object or event.object.startswith(object + "/")
