"""Connections made by hand: frames of both directions, with hpack's encoder."""

import struct

import hpack

from harness.core.calls import Call
from harness.record.followed import Observer
from harness.record.following import Following
from harness.record.h2frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    frame,
)
from harness.record.messages import Room
from harness.record.pairs import PairTeller
from harness.wire import MODEL_INFER

SETTINGS_FRAME = frame(SETTINGS, 0, 0, b"")


class Heard:
    """Taps, counts and what they share."""

    def __init__(self, message_bytes=1 << 20, room=None):
        self.calls = []
        self.counts = {}
        self.room = Room(room)
        self.teller = PairTeller([self], self.room, self.count)
        self.observer = Observer(
            taps=[self], teller=self.teller, room=self.room, message_bytes=message_bytes,
            upstream="up", count=self.count,
        )  # fmt: skip

    def offer(self, call):
        assert isinstance(call, Call)
        self.calls.append(call)

    def count(self, counter, by):
        self.counts[counter] = self.counts.get(counter, 0) + by

    def follow(self):
        return Following(self.observer)


class Side:
    """One direction's frames."""

    def __init__(self, *, preface=b""):
        self._encoder = hpack.Encoder()
        self.bytes = preface + SETTINGS_FRAME

    def table(self, size):
        """The encoder's table gets another size, as after the peer's settings."""
        self._encoder.header_table_size = size

    def headers(self, stream, fields, *, last=False, pad=None, priority=False, cuts=()):
        block = self._encoder.encode(fields)
        parts = [block[a:b] for a, b in zip((0, *cuts), (*cuts, None), strict=True)]
        payload, flags = parts[0], END_STREAM * last
        if priority:
            payload, flags = b"\0\0\0\0\x10" + payload, flags | PRIORITY
        if pad is not None:
            payload, flags = bytes([pad]) + payload + bytes(pad), flags | PADDED
        for i, part in enumerate([payload, *parts[1:]]):
            ends = END_HEADERS * (i == len(parts) - 1)
            self.bytes += frame(CONTINUATION if i else HEADERS, flags | ends, stream, part)
            flags = 0
        return self

    def data(self, stream, data, *, last=False, pad=None):
        flags = END_STREAM * last
        if pad is not None:
            data, flags = bytes([pad]) + data + bytes(pad), flags | PADDED
        self.bytes += frame(DATA, flags, stream, data)
        return self

    def reset(self, stream, code):
        self.bytes += frame(RST_STREAM, 0, stream, struct.pack(">I", code))
        return self

    def goaway(self, last):
        self.bytes += frame(GOAWAY, 0, 0, struct.pack(">II", last, 0))
        return self

    def take(self):
        """What was added since the last time."""
        found, self.bytes = self.bytes, b""
        return found


def client():
    return Side(preface=PREFACE)


def message(content, *, compressed=False):
    return struct.pack(">?I", compressed, len(content)) + content


def request_fields(path=MODEL_INFER, *more):
    return [
        (":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "here"),
        ("te", "trailers"), ("content-type", "application/grpc"), ("user-agent", "me/1"), *more,
    ]  # fmt: skip


BEGIN = [(":status", "200"), ("content-type", "application/grpc")]


def end(code=0, text="", *more):
    said = [("grpc-message", text)] if text else []
    return [("grpc-status", str(code)), *said, *more]
