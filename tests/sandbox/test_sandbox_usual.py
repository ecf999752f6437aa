"""The short way of an answer: the parent cannot tell it from the long one."""

import os

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness.sandbox.child import columns, frames, ring, usual
from harness.sandbox.memory_files import shared_of_size

SLOT = 1 << 16
KINDS = ("float32", "float64", "float16", "int64", "uint8", "bool")


class Wire:
    """A ring and an answer pipe, both ends."""

    def __init__(self):
        fd = shared_of_size("usual", ring.ring_bytes(SLOT))
        self.parent, self.child = ring.Ring(fd, SLOT), ring.Ring(fd, SLOT)
        os.close(fd)
        self.read_fd, self.write_fd = os.pipe()
        self.reader = frames.Reader(self.read_fd)
        self.answers = usual.UsualAnswers(self.child, self.write_fd)

    def close(self):
        for fd in (self.read_fd, self.write_fd):
            os.close(fd)
        del self.answers
        self.parent.close()
        self.child.close()

    def received(self):
        """Header, number and tensors of the next answer, as the parent reads them."""
        frame = frames.read_frame(self.reader, 1 << 20)
        assert frame.prefix.flags == frames.IN_SLOT
        body = bytearray(self.parent.answer(frame.prefix.number, frame.prefix.body))
        entries, end = columns.layout(frame.header["outputs"])
        assert end == frame.prefix.body
        return frame.text, frame.prefix.number, columns.values(entries, memoryview(body))


@pytest.fixture
def wire():
    made = Wire()
    yield made
    made.close()


def asked(number, text=b'{"rows":2}', flags=frames.SLOT_FREE | frames.IN_SLOT):
    return frames.Frame(text, memoryview(b""), frames.Prefix(len(text), 8, number, flags))


def described(outputs):
    text, buffers = columns.encoded(outputs)
    return frames.header_text({"kind": "answer", "ok": True}, {"outputs": text}), buffers


arrays = st.tuples(
    st.sampled_from(KINDS), st.lists(st.integers(0, 9), min_size=1, max_size=3), st.integers(0, 99)
).map(lambda k: (np.random.default_rng(k[2]).integers(0, 2, k[1]) * (k[2] % 2 or 1)).astype(k[0]))


@example([{"a": np.ones(1)}, {"b": np.ones(1)}])
@settings(max_examples=60, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from("abc"), arrays, min_size=1), max_size=8))
def test_answers_arrive_as_they_were_whichever_way_they_went(answers):
    wire = Wire()
    try:
        for number, outputs in enumerate(answers):
            for again in range(2):
                at = 2 * number + again
                if not wire.answers.sent(asked(at), [*outputs], outputs.values()):
                    text, buffers = described(outputs)
                    wire.answers.learn(b'{"rows":2}', [*outputs], outputs.values(), text, buffers)
                    continue
                text, got, tensors = wire.received()
                assert got == at
                assert text == described(outputs)[0]
                assert tensors.keys() == outputs.keys()
                for name, array in outputs.items():
                    assert tensors[name].dtype == array.dtype
                    assert tensors[name].shape == array.shape
                    assert tensors[name].tobytes() == array.tobytes()
    finally:
        wire.close()


def learnt(wire, outputs):
    text, buffers = described(outputs)
    wire.answers.learn(b'{"rows":2}', [*outputs], outputs.values(), text, buffers)


def test_the_second_answer_goes_the_short_way_and_zeros_keep_their_sign(wire):
    outputs = {"y": np.float32([[-0.0, np.nan], [1, 2]])}
    assert not wire.answers.sent(asked(1), [*outputs], outputs.values())
    learnt(wire, outputs)
    assert wire.answers.sent(asked(2), [*outputs], outputs.values())
    assert wire.received()[2]["y"].tobytes() == outputs["y"].tobytes()


@pytest.mark.parametrize(
    "other",
    [
        {"y": np.zeros((3, 2), np.float32)},
        {"y": np.zeros((2, 2), np.float64)},
        {"y": np.zeros((2, 2), np.float32), "z": np.zeros(2, np.float32)},
        {"y": np.zeros((2, 2), ">f4")},
    ],
)
def test_an_answer_that_looks_otherwise_goes_the_long_way(wire, other):
    learnt(wire, {"y": np.zeros((2, 2), np.float32)})
    assert not wire.answers.sent(asked(1), [*other], other.values())


def test_requests_with_another_header_or_without_a_slot_go_the_long_way(wire):
    outputs = {"y": np.zeros((2, 2), np.float32)}
    learnt(wire, outputs)
    assert not wire.answers.sent(asked(1, text=b'{"rows":3}'), [*outputs], outputs.values())
    assert not wire.answers.sent(asked(1, flags=frames.IN_SLOT), [*outputs], outputs.values())


@pytest.mark.parametrize(
    "outputs",
    [
        {"y": np.array(["a", "b"], object)},
        {"y": np.zeros((0, 2), np.float32)},
        {"y": np.zeros(SLOT, np.float32)},
        {f"output {i:04d} of a model with a long name": np.zeros(2, np.int8) for i in range(60)},
    ],
)
def test_text_empty_large_and_many_outputs_are_never_usual(wire, outputs):
    learnt(wire, outputs)
    assert not wire.answers.sent(asked(1), [*outputs], outputs.values())
