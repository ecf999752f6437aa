"""gRPC messages out of the bytes of a stream: five bytes of head, then the message, cut anywhere."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

from harness.core.calls import Unkept
from harness.core.recording import Recorded
from harness.wire.scan import REQUEST_ID, bytes_field

_HEAD_BYTES = 5
_PART_BYTES = 64
"""What a part costs beside its own bytes: a peer may send single ones."""
_PREFIX_BYTES = 4096
"""Kept of a message that is not kept: the id of a request stands before its tensors."""
_WINDOW_BITS = {"gzip": 31, "deflate": 15}


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
    """Decompressed; where it is not kept, what it began with."""
    size: int
    """In bytes, as it passed."""
    why: Recorded | None = None
    """Why it is not kept."""

    @property
    def request_id(self) -> bytes:
        """Of a request, or of an answer: the id that it carries, also where it is not kept whole."""
        return bytes_field(self.content, REQUEST_ID, cut=self.why is not None) or b""

    def without_room(self) -> Message:
        """The same, not kept."""
        return Message(self.content[:_PREFIX_BYTES], self.size, self.why or Recorded.NO_ROOM)

    def holding(self, content: bytes) -> Message:
        """The same with a part of its content."""
        return replace(self, content=content)


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
        begun = b"" if self._compressed else b"".join(self._parts[:1])[:_PREFIX_BYTES]
        return Message(begun, self._size, self._why or Recorded.CUT_SHORT)

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
            self._parts.append(part[:_PREFIX_BYTES])

    def _whole(self) -> Message:
        parts, self._parts, self._left = self._parts, [], -1
        self._held_by_part = 0
        if self._why is not None:
            return Message(
                b"" if self._compressed else parts[0][:_PREFIX_BYTES], self._size, self._why
            )
        content = b"".join(parts)
        if not self._compressed:
            return Message(content, self._size)
        return _decompressed(content, self.encoding, self._most)


def _decompressed(content: bytes, encoding: str, most: int) -> Message:
    size = len(content)
    bits = _WINDOW_BITS.get(encoding)
    if bits is None:
        return Message(b"", size, Recorded.NOT_DECODED)
    inflating = zlib.decompressobj(bits)
    try:
        found = inflating.decompress(content, most + 1)
    except zlib.error:
        return Message(b"", size, Recorded.NOT_DECODED)
    if len(found) > most:
        return Message(b"", size, Recorded.TOO_LARGE)
    if not inflating.eof:
        return Message(b"", size, Recorded.NOT_DECODED)
    return Message(found, size)


def unkept(request: Message, answer: Message) -> Unkept | None:
    """Why the messages of a call are not kept; None = they are."""
    why = request.why or answer.why
    if why is None:
        return None
    return Unkept(
        why=why, request_bytes=request.size, response_bytes=answer.size,
        request_id=request.request_id,
    )  # fmt: skip
