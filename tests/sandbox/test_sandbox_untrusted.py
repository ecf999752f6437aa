"""Whatever a child writes is a value or a FrameError: nothing else leaves the parsers."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.tensors import Signature, TensorSpec
from harness.sandbox.answers import Answers, BatchFault
from harness.sandbox.child import columns, frames
from harness.sandbox.child.frames import Frame, FrameError, Prefix
from harness.sandbox.graph_values import graph_from_description, pairs_from
from harness.sandbox.hello import Hello, LoadFailure, hello_from_header
from harness.sandbox.starting import isolation_from_header
from harness.sandbox.tracing import keys_from

ROWS = 3
HELLO = Hello(
    signature=Signature(
        inputs=(TensorSpec(name="x", datatype="FP32", shape=()),),
        outputs=(
            TensorSpec(name="y", datatype="FP32", shape=(None,)),
            TensorSpec(name="m", datatype="MAP:seq(map(string,tensor(float)))", shape=()),
            TensorSpec(name="t", datatype="BYTES", shape=()),
            TensorSpec(name="s", datatype="NESTED:seq(tensor(float))", shape=()),
        ),
    ),
    loose=frozenset({"t"}),
    trace_missing=(),
    trace_error="",
)
NUMBERS = st.sampled_from([0, 1, 2, 3, 8, -1, 2**31, 2**47, 2**48, 2**63, 10**40, 1.5, True, None])
NAMES = st.sampled_from(["", "y", "m", "t", "x", "a", "\ud800", "\x00", "y" * 20_000])
ANYTHING = st.recursive(
    NUMBERS | NAMES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=8,
)
ENTRY = st.fixed_dictionaries(
    {
        "name": NAMES | ANYTHING,
        "dtype": st.sampled_from([*columns.DTYPES, "object", "\ud800"]) | ANYTHING,
        "shape": st.lists(NUMBERS, max_size=5) | ANYTHING,
        "size": st.integers(0, 200) | ANYTHING,
    }
)
ENTRIES = st.lists(ENTRY, max_size=3) | ANYTHING
FORMS = st.dictionaries(NAMES, st.sampled_from(["[t]", "[tt]", "t", "-", "[[t]]", "]"])) | ANYTHING
BODIES = st.binary(max_size=256)


def text(value):
    return json.dumps(value).encode()


def fitting(data):
    """A tensor that could be true, so that what lies behind the first checks is reached, too."""
    dtype = data.draw(st.sampled_from([*columns.NUMBERS, "str", "words"]))
    shape = data.draw(st.lists(st.sampled_from([0, 1, 2, 3, 2**40]), max_size=4))
    count = int(np.prod([float(d) for d in shape]))
    item = columns.NUMBERS[dtype].itemsize if dtype in columns.NUMBERS else 8
    size = count * item if dtype in columns.NUMBERS else data.draw(st.integers(0, 120))
    return {
        "name": data.draw(st.sampled_from("ymta")),
        "dtype": dtype,
        "shape": shape,
        "size": size,
    }


@settings(deadline=None, max_examples=400)
@given(st.data())
def test_tensors(data):
    described = data.draw(ENTRIES | st.builds(lambda: [fitting(data)]))
    try:
        entries, end = columns.layout(described)
        if end > 1 << 12:
            return
        small = st.sampled_from([0, 0, 0, 1, 2, 3, 8, 255])
        body = bytearray(data.draw(st.lists(small, min_size=end, max_size=end)))
        for name, array in columns.values(entries, memoryview(body)).items():
            assert array.shape == next(e.shape for e in entries if e.name == name)
            name.encode()
    except FrameError:
        return


@settings(deadline=None, max_examples=300)
@given(st.data(), BODIES)
def test_answers(data, body):
    header = {
        "kind": "answer",
        "ok": data.draw(st.just(True) | ANYTHING),
        "error": data.draw(ANYTHING),
        "outputs": data.draw(ENTRIES),
        "features": data.draw(ENTRIES),
        "keys": data.draw(ANYTHING),
        "forms": data.draw(FORMS),
        "leaves": data.draw(ENTRIES),
        "left_out": data.draw(ANYTHING),
        "trace_error": data.draw(NAMES),
    }
    frame = Frame(text(header), memoryview(bytearray(body)), Prefix(0, len(body), 1, 0))
    try:
        found = Answers(HELLO, 1 << 30).read(frame, seq=1, rows=ROWS, service_s=0.0)
    except FrameError:
        return
    if isinstance(found, BatchFault):
        found.message.encode()


@settings(deadline=None, max_examples=300)
@given(
    ANYTHING,
    st.lists(
        st.fixed_dictionaries({"name": NAMES, "type": NAMES | ANYTHING, "shape": st.lists(NUMBERS)})
    ),
    ANYTHING,
    ANYTHING,
)
def test_hellos(ok, outputs, missing, error):
    header = {"kind": "hello", "ok": ok, "error": error, "inputs": [], "outputs": outputs,
              "trace_missing": missing, "trace_error": error}  # fmt: skip
    try:
        found = hello_from_header(frames.header_from_bytes(text(header)))
    except FrameError:
        return
    if isinstance(found, LoadFailure):
        found.message.encode()
    else:
        for spec in found.signature.outputs:
            spec.shown().encode()


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=60) | ANYTHING.map(text))
def test_header_texts(given_text):
    try:
        assert isinstance(frames.header_from_bytes(given_text), dict)
    except FrameError:
        return


@settings(deadline=None, max_examples=200)
@given(st.binary(min_size=frames.PREFIX.size, max_size=frames.PREFIX.size), st.booleans())
def test_prefixes(given_bytes, honest):
    begun = frames.MAGIC + given_bytes[4:] if honest else given_bytes
    try:
        found = frames.prefix_from_bytes(begun, 1 << 20)
    except FrameError:
        return
    assert found.body <= 1 << 20


@settings(deadline=None, max_examples=300)
@given(ANYTHING, ANYTHING, ANYTHING, ANYTHING)
def test_graphs(inputs, attributes, constants, pairs):
    node = ["Op", "n", ["a"], ["b"], [], attributes, "13"]
    described = {"inputs": inputs, "outputs": [], "nodes": [node], "constants": constants}
    for parse, value in (
        (graph_from_description, text(described)),
        (graph_from_description, text(pairs)),
        (pairs_from, pairs),
        (lambda v: keys_from(v, {"y": np.zeros((3, 2))}), pairs),
        (lambda v: isolation_from_header(v, 1), {"layers": inputs, "self_tests": pairs}),
    ):
        try:
            parse(value)
        except FrameError:
            continue


@pytest.mark.parametrize("given_text", [b'{"a": ' + b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"])
def test_headers_that_json_gives_up_on(given_text):
    with pytest.raises(FrameError, match="no JSON"):
        frames.header_from_bytes(given_text)
