"""Queue of images and their retries, independent of Ray and of the network."""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

_LARGEST = 16  # batches in a packet: few, so that little is lost with a worker
_PIECES = 4  # packets per worker of the remaining images: they become smaller, so that all workers end together
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0  # seconds before the second attempt, doubled for each further one


@dataclass
class Packet:
    """Batches for one worker.

    Args:
        batches: batches of image numbers, in order.
        open: images without a result; the others only fill their batches.
    """

    batches: list[tuple[int, ...]]
    open: set[int] = field(default_factory=set)

    @property
    def numbers(self) -> list[int]:
        """Return all image numbers, in order."""
        return [number for batch in self.batches for number in batch]


class Packets:
    """Queue of images; each gets one final result after any number of attempts.

    Args:
        batches: batches of image numbers; a batch is never split, because its bytes depend on it.
        wanted: images to restore.
        retries: number of further attempts for an image.
    """

    def __init__(self, batches: Sequence[tuple[int, ...]], wanted: Collection[int], retries: int) -> None:
        self.retries = retries
        self.given_again = 0  # number of repeated attempts
        self.open = set(wanted)  # images without a final result
        self._batch_of = {number: batch for batch in batches for number in batch}
        self._fresh = deque(batch for batch in batches if any(number in self.open for number in batch))
        self._tries: Counter[int] = Counter()  # failed attempts by image
        self._again: list[tuple[float, int, Packet]] = []  # (not before, order of arrival, what), a heap
        self._arrivals = 0

    def take(self, workers: int, now: float) -> Packet | None:
        """Return the next packet for one of ``workers`` workers; None if there is none at ``now``."""
        if self._again and self._again[0][0] <= now:
            return heapq.heappop(self._again)[2]
        if not self._fresh:
            return None
        count = min(_LARGEST, max(1, len(self._fresh) // (_PIECES * workers)))
        batches = [self._fresh.popleft() for _ in range(count)]
        return Packet(batches, {number for batch in batches for number in batch if number in self.open})

    def answered(self, packet: Packet, number: int) -> bool:
        """Record a final result for ``number``; False if there was one before."""
        packet.open.discard(number)
        first = number in self.open
        self.open.discard(number)
        return first

    def failed(self, packet: Packet, number: int, now: float) -> bool:
        """Record a failure of a store; return whether the image is retried after a pause."""
        packet.open.discard(number)
        pause = min(_FIRST_PAUSE * 2 ** self._tries[number], _LONGEST_PAUSE)
        if not self._may_retry(number):
            return False
        self._push(Packet([self._batch_of[number]], {number}), now + pause)
        return True

    def lost(self, packets: Sequence[Packet], now: float) -> list[int]:
        """Record the loss of a worker with these packets, in its order; return images that are not retried.

        The worker failed in the first unfinished packet, but the image is unknown. Open batches of that packet are
        retried one at a time, so that an image that kills its workers does not affect others again.
        """
        unfinished = [packet for packet in packets if packet.open]
        given_up = []
        for batch in unfinished[0].batches if unfinished else ():
            remaining = [number for number in batch if number in unfinished[0].open]
            again = {number for number in remaining if self._may_retry(number)}
            given_up += [number for number in remaining if number not in again]
            if again:
                self._push(Packet([batch], again), now)
        for packet in unfinished[1:]:  # Packets that were not begun do not count as attempts.
            self._push(Packet(packet.batches, set(packet.open)), now)
        for packet in unfinished:
            packet.open.clear()
        return given_up

    def tries(self, number: int) -> int:
        """Return the number of failed attempts for an image."""
        return self._tries[number]

    def pause(self, now: float) -> float | None:
        """Return the seconds until the next packet is available; None if none is waiting."""
        return max(0.0, self._again[0][0] - now) if self._again else None

    def _may_retry(self, number: int) -> bool:
        self._tries[number] += 1
        allowed = self._tries[number] <= self.retries
        self.given_again += allowed
        return allowed

    def _push(self, packet: Packet, when: float) -> None:
        self._arrivals += 1
        heapq.heappush(self._again, (when, self._arrivals, packet))
