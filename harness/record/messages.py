"""gRPC messages out of the bytes of a stream: five bytes of head, then the message, cut anywhere."""

from __future__ import annotations

from dataclasses import dataclass

from harness.core.calls import Unkept
from harness.core.recording import Recorded
from harness.record.packing import BEGINNING_BYTES, ENCODINGS, beginning
from harness.wire.scan import REQUEST_ID, bytes_field

_HEAD_BYTES = 5
_ID_WITHIN_BYTES = 512
"""Kept of a request that waits without its content."""
_PART_BYTES = 64
"""What a part costs beside its own bytes: a peer may send single ones."""


class Room:
    """Bytes that all calls under way may hold together.

    Args:
      most: of them; None = any number.
    """

    __slots__ = ("most", "used")

    def __init__(self, most: int | None) -> None:
        self.most = most
        self.used = 0

    def take(self, count: int) -> bool:
        """Takes bytes, or none of them where there is no room."""
        if self.most is not None and self.used + count > self.most:
            return False
        self.used += count
        return True

    def give(self, count: int) -> None:
        """Gives bytes back."""
        self.used -= count


@dataclass(frozen=True, slots=True)
class Message:
    """One message as it passed."""

    content: bytes
    """As it passed; where it is not kept, what it began with, decompressed."""
    size: int
    """In bytes, as it passed."""
    why: Recorded | None = None
    """Why it is not kept."""
    packing: str = ""
    """How the content is compressed; "" = it is not."""

    def field(self, number: int, within: int = BEGINNING_BYTES) -> bytes | None:
        """A field, or what is at hand of it, where the message is not kept whole or is compressed.

        Args:
          number: of the field.
          within: of a compressed message, bytes that are looked at.
        """
        if self.packing:
            return bytes_field(beginning(self.content, self.packing, within), number, cut=True)
        return bytes_field(self.content, number, cut=self.why is not None)

    @property
    def request_id(self) -> bytes:
        """Of a request: the id that it carries."""
        return self.field(REQUEST_ID) or b""

    def not_kept(self, why: Recorded) -> Message:
        """The same without its content."""
        begins = beginning(self.content, self.packing)[:_ID_WITHIN_BYTES]
        return Message(begins, self.size, self.why or why)


class Messages:
    """Finds the messages of one direction of a stream.

    Args:
      most: a message of more bytes is not kept.
      room: shared by all streams. What messages took of it is given back by `released` and `ended`.
    """

    __slots__ = (
        "_compressed", "_head", "_held", "_held_by_part", "_left", "_most", "_parts", "_room", "_size",
        "_why", "encoding",
    )  # fmt: skip

    def __init__(self, most: int, room: Room) -> None:
        self._most = most
        self._room = room
        self._head = b""
        self._left = -1
        """Bytes of the message that are still to come; -1 = its head is."""
        self._size = 0
        self._compressed = False
        self._why: Recorded | None = None
        self._parts: list[bytes] = []
        self.encoding = ""
        """The stream's grpc-encoding."""
        self._held = self._held_by_part = 0
        """Bytes of the room that are taken; of these, by a message that is not whole."""

    def feed(self, chunk: bytes, at: int, end: int) -> list[Message]:
        """The messages that are whole now.

        Args:
          chunk: holds what came next,
          at: from here
          end: to before here.
        """
        found = []
        while at < end:
            if self._left < 0:
                take = min(_HEAD_BYTES - len(self._head), end - at)
                self._head += chunk[at : at + take]
                at += take
                if len(self._head) < _HEAD_BYTES:
                    break
                self._begin()
            take = min(self._left, end - at)
            if take:
                self._keep(chunk[at : at + take])
                at += take
                self._left -= take
            if not self._left:
                found.append(self._whole())
        return found

    @property
    def begun(self) -> bool:
        """Whether a message has begun and is not whole."""
        return self._left >= 0 or bool(self._head)

    def unfinished(self) -> Message:
        """What has come of a message that is not whole."""
        if self._left < 0:
            return Message(b"", 0, Recorded.CUT_SHORT)
        return Message(self._beginning(), self._size, self._why or Recorded.CUT_SHORT)

    def released(self) -> None:
        """Gives back the room of every message found up to now."""
        self._room.give(self._held - self._held_by_part)
        self._held = self._held_by_part

    def ended(self) -> None:
        """Gives back all room: nothing more comes."""
        self._parts = []
        self._room.give(self._held)
        self._held = self._held_by_part = 0

    def _begin(self) -> None:
        head, self._head = self._head, b""
        self._compressed = bool(head[0] & 1)
        self._size = self._left = int.from_bytes(head[1:], "big")
        self._why = Recorded.TOO_LARGE if self._size > self._most else None

    def _keep(self, part: bytes) -> None:
        cost = len(part) + _PART_BYTES
        if self._why is None and self._room.take(cost):
            self._held += cost
            self._held_by_part += cost
            self._parts.append(part)
            return
        if self._why is None:
            self._why = Recorded.NO_ROOM
        if not self._parts:
            self._parts.append(part[:BEGINNING_BYTES])

    def _whole(self) -> Message:
        self._left, self._held_by_part = -1, 0
        if self._compressed and self.encoding not in ENCODINGS:
            found = Message(b"", self._size, Recorded.NOT_DECODED)
        elif self._why is not None:
            found = Message(self._beginning(), self._size, self._why)
        else:
            packing = self.encoding if self._compressed else ""
            found = Message(b"".join(self._parts), self._size, packing=packing)
        self._parts = []
        return found

    def _beginning(self) -> bytes:
        """Of the present message, decompressed."""
        if not self._compressed:
            return b"".join(self._parts[:1])[:BEGINNING_BYTES]
        known = self.encoding in ENCODINGS
        return beginning(b"".join(self._parts[:1]), self.encoding) if known else b""


def unkept(request: Message, answer: Message) -> Unkept | None:
    """Why the messages of a call are not kept; None = they are."""
    why = request.why or answer.why
    if why is None:
        return None
    return Unkept(
        why=why, request_bytes=request.size, response_bytes=answer.size,
        request_id=request.request_id,
    )  # fmt: skip
