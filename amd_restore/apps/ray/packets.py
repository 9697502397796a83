"""Which pictures are still to be given out, and how often each was tried. Knows neither Ray nor the network."""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

_LARGEST = 16  # batches in a packet: few are lost with a worker, and the others are not asked for work all the time
_PIECES = 4  # packets that each worker gets of what is left: smaller towards the end, so that all end together
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0  # seconds before the second try; doubled for each further one


@dataclass
class Packet:
    """Batches that one worker restores, one after the other.

    Args:
        batches: of numbers of pictures, in order.
        open: pictures without an answer; the others only fill their batches.
    """

    batches: list[tuple[int, ...]]
    open: set[int] = field(default_factory=set)

    @property
    def numbers(self) -> list[int]:
        """All pictures, in order."""
        return [number for batch in self.batches for number in batch]


class Packets:
    """Pictures to give out: each is answered once, however often it is tried.

    Args:
        batches: of numbers of pictures; a batch stays together, since the bytes of its pictures depend on that.
        wanted: pictures to restore.
        retries: how often a picture is tried again.
    """

    def __init__(self, batches: Sequence[tuple[int, ...]], wanted: Collection[int], retries: int) -> None:
        self.retries = retries
        self.given_again = 0  # times that a picture was tried again
        self.open = set(wanted)  # without a final answer
        self._batch_of = {number: batch for batch in batches for number in batch}
        self._fresh = deque(batch for batch in batches if any(number in self.open for number in batch))
        self._tries: Counter[int] = Counter()  # that failed
        self._again: list[tuple[float, int, Packet]] = []  # (not before, order of arrival, what), a heap
        self._arrivals = 0

    def take(self, workers: int, now: float) -> Packet | None:
        """The next packet for one of ``workers`` workers; None if there is none at ``now``."""
        if self._again and self._again[0][0] <= now:
            return heapq.heappop(self._again)[2]
        if not self._fresh:
            return None
        count = min(_LARGEST, max(1, len(self._fresh) // (_PIECES * workers)))
        batches = [self._fresh.popleft() for _ in range(count)]
        return Packet(batches, {number for batch in batches for number in batch if number in self.open})

    def answered(self, packet: Packet, number: int) -> bool:
        """There is a final answer for ``number``; False if there was one before."""
        packet.open.discard(number)
        first = number in self.open
        self.open.discard(number)
        return first

    def failed(self, packet: Packet, number: int, now: float) -> bool:
        """A store failed; whether the picture is tried again, after a pause."""
        packet.open.discard(number)
        pause = min(_FIRST_PAUSE * 2 ** self._tries[number], _LONGEST_PAUSE)
        if not self._may_retry(number):
            return False
        self._push(Packet([self._batch_of[number]], {number}), now + pause)
        return True

    def lost(self, packets: Sequence[Packet], now: float) -> list[int]:
        """A worker was lost with these packets, in the order in which it had them; returns what is not tried again.

        It died of the first that is not done. Nobody knows of which picture: the batches that were open there are tried
        again one by one, so that one that kills its workers cannot take others along again.
        """
        unfinished = [packet for packet in packets if packet.open]
        given_up = []
        for batch in unfinished[0].batches if unfinished else ():
            remaining = [number for number in batch if number in unfinished[0].open]
            again = {number for number in remaining if self._may_retry(number)}
            given_up += [number for number in remaining if number not in again]
            if again:
                self._push(Packet([batch], again), now)
        for packet in unfinished[1:]:  # not begun: no try
            self._push(Packet(packet.batches, set(packet.open)), now)
        for packet in unfinished:
            packet.open.clear()
        return given_up

    def tries(self, number: int) -> int:
        """How often the picture was tried in vain."""
        return self._tries[number]

    def pause(self, now: float) -> float | None:
        """Seconds until there is something to give out again; None if nothing waits."""
        return max(0.0, self._again[0][0] - now) if self._again else None

    def _may_retry(self, number: int) -> bool:
        self._tries[number] += 1
        allowed = self._tries[number] <= self.retries
        self.given_again += allowed
        return allowed

    def _push(self, packet: Packet, when: float) -> None:
        self._arrivals += 1
        heapq.heappush(self._again, (when, self._arrivals, packet))
