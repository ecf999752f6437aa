import json
import os
import threading
import tracemalloc

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.tensors import CodedText
from harness.sandbox.child import columns, frames, sessions

NUMBERS = st.sampled_from(sorted(columns.NUMBERS)).flatmap(
    lambda name: arrays.arrays(columns.NUMBERS[name], arrays.array_shapes(min_dims=0, min_side=0))
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
STRINGS = arrays.arrays(object, arrays.array_shapes(min_side=0), elements=TEXT)


def carried(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Through a real pipe."""
    described, buffers = columns.encoded(tensors)
    read, write = os.pipe()
    text = frames.header_text({"kind": "test"}, {"tensors": described})
    parts = frames.packed(text, buffers)
    writer = threading.Thread(target=frames.write_all, args=(write, parts))
    writer.start()
    frame = frames.read_frame(frames.Reader(read), 1 << 30)
    writer.join()
    os.close(read)
    os.close(write)
    entries, end = columns.layout(frame.header["tensors"])
    assert end == frame.body.nbytes
    return columns.values(entries, frame.body)


def encoded(tensors: dict[str, np.ndarray]) -> tuple[list[dict], list[memoryview]]:
    described, buffers = columns.encoded(tensors)
    return json.loads(described), buffers


@settings(deadline=None)
@given(st.lists(TEXT, min_size=1, max_size=12, unique=True), st.data())
def test_text_that_came_as_codes_is_the_text(words, data):
    """Few words go whole, many only where they occur."""
    shape = data.draw(arrays.array_shapes(max_dims=2, min_side=0, max_side=20))
    codes = data.draw(arrays.arrays(np.int32, shape, elements=st.integers(0, len(words) - 1)))
    text = CodedText(codes=codes, words=np.array(words, object))
    found = carried({"x": text, "after": np.arange(3)})
    assert found["x"].tolist() == text.text().tolist()
    assert (found["x"].dtype, found["x"].shape) == (object, shape)
    assert found["after"].tolist() == [0, 1, 2]


def decoded(described: list[dict], body: bytes) -> dict[str, np.ndarray]:
    return columns.values(columns.layout(described)[0], memoryview(bytearray(body)))


@settings(deadline=None)
@given(st.dictionaries(TEXT, NUMBERS | STRINGS, max_size=4))
def test_what_is_decoded_is_what_was_encoded(tensors):
    found = carried(tensors)
    assert list(found) == list(tensors)
    for name, array in tensors.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        if array.dtype == object:
            assert found[name].tolist() == array.tolist()
        else:
            assert found[name].tobytes() == array.tobytes()


def test_arrays_that_are_no_plain_blocks_are_carried():
    base = np.arange(24, dtype=np.int32).reshape(4, 6)
    given = {"strided": base[::2, ::-1], "transposed": base.T, "swapped": base.astype(">i4")}
    found = carried(given)
    assert {n: a.tolist() for n, a in found.items()} == {n: a.tolist() for n, a in given.items()}


def test_both_c_types_of_64_bits_are_carried():
    given = {"long": np.arange(3, dtype=np.int64), "long long": np.arange(3, dtype=np.longlong)}
    assert [a.tolist() for a in carried(given).values()] == [[0, 1, 2]] * 2


REPEATED = st.lists(TEXT, min_size=1, max_size=5).flatmap(
    lambda words: st.lists(st.sampled_from(words), min_size=columns._SAMPLE, max_size=200)
)


@settings(deadline=None)
@given(REPEATED)
def test_text_that_repeats_is_sent_as_words_and_codes(values):
    described, buffers = encoded({"x": np.array(values, object)})
    assert described[0]["dtype"] == columns.CODED
    found = decoded(described, b"".join(buffers))
    assert found["x"].tolist() == values


def test_text_that_does_not_repeat_is_sent_as_it_is():
    values = [f"request {i}" for i in range(1000)]
    described, buffers = encoded({"x": np.array(values, object)})
    assert described[0]["dtype"] == columns.STRING
    found = decoded(described, b"".join(buffers))
    assert found["x"].tolist() == values


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(-(2**63), 2**63 - 1))
def test_a_wrong_number_in_words_and_codes_is_refused(at, number):
    described, buffers = encoded({"x": np.array(["a", "b"] * 64, object)})
    body = bytearray(b"".join(buffers))
    at = 4 * (at % (described[0]["size"] // 4 - 1))
    if at + 8 <= described[0]["size"]:
        body[at : at + 8] = number.to_bytes(8, "little", signed=True)
    try:
        found = decoded(described, body)
    except frames.FrameError:
        return
    assert found["x"].shape == (128,)
    assert all(type(v) is str for v in found["x"])


def test_every_buffer_begins_aligned():
    tensors = {str(i): np.zeros(i, np.int8) for i in range(1, 5)}
    described, buffers = encoded(tensors)
    assert sum(b.nbytes for b in buffers) == 4 * columns.ALIGNMENT
    assert [d["size"] for d in described] == [1, 2, 3, 4]


@pytest.mark.parametrize("dtype", ["S3", "complex64", "datetime64[ns]"])
def test_a_dtype_without_a_place_is_refused_by_name(dtype):
    with pytest.raises(TypeError, match="x: dtype"):
        encoded({"x": np.zeros(2, dtype)})


def test_a_boolean_that_is_neither_is_refused():
    described = [{"name": "x", "dtype": "bool", "shape": [2], "size": 2}]
    with pytest.raises(frames.FrameError, match="neither 0 nor 1"):
        decoded(described, bytearray(b"\x01\x02") + bytearray(62))


def test_text_that_is_no_utf8_is_refused():
    described, buffers = encoded({"x": np.array(["é"], object)})
    body = bytearray(b"".join(buffers)).replace(b"\xc3\xa9", b"\xc3\xc3")
    with pytest.raises(frames.FrameError, match="no UTF-8"):
        decoded(described, body)


@given(st.binary(min_size=frames.PREFIX.size, max_size=frames.PREFIX.size))
def test_any_prefix_is_within_the_limits_or_refused(prefix):
    try:
        found = frames.prefix_from_bytes(prefix, 1000)
    except frames.FrameError:
        return
    assert prefix[:4] == frames.MAGIC
    assert found.header <= frames.MAX_HEADER_BYTES
    assert found.body <= 1000


SHORT = st.text(st.characters(min_codepoint=0, max_codepoint=127), min_size=3, max_size=3)


@given(st.lists(SHORT, min_size=1, max_size=5), st.lists(st.integers(0, 4), min_size=1))
def test_words_of_one_length_come_as_bytes_where_these_are_taken(words, picked):
    text = np.array([words[i % len(words)] for i in picked], object)
    known, codes = np.unique(text.astype(object), return_inverse=True)
    coded = CodedText(codes=codes.astype(np.int32), words=known)
    described, buffers = encoded({"x": coded})
    body = memoryview(bytearray(b"".join(buffers)))
    found = columns.values(columns.layout(described)[0], body, as_bytes=True)["x"]
    assert found.dtype == np.dtype("V3")
    assert [bytes(v).decode() for v in found] == text.tolist()


@pytest.mark.parametrize(
    "words", [["a", "bc"], ["é", "ab"], ["", ""], ["x" * 33, "y" * 33], ["ab", "c", "def"]]
)
def test_words_that_are_not_short_ascii_of_one_length_come_as_text(words):
    known = np.array(words, object)
    coded = CodedText(codes=np.arange(len(words), dtype=np.int32).repeat(4), words=known)
    described, buffers = encoded({"x": coded})
    body = memoryview(bytearray(b"".join(buffers)))
    found = columns.values(columns.layout(described)[0], body, as_bytes=True)["x"]
    assert found.tolist() == known.repeat(4).tolist()


@given(st.lists(TEXT, min_size=1, max_size=5, unique=True), st.integers(0, 4))
def test_one_coded_value_is_sent_as_its_word_alone(words, picked):
    code = picked % len(words)
    coded = CodedText(codes=np.array([[code]], np.int32), words=np.array(words, object))
    described, buffers = encoded({"x": coded})
    found = columns.values(columns.layout(described)[0], memoryview(bytearray(b"".join(buffers))))
    assert found["x"].tolist() == [[words[code]]]
    # The bytes that a longer column is made of: the number of words, two offsets, one code, the word.
    blob = words[code].encode()
    head = np.array([1, 0, len(blob)], "<i8").tobytes() + np.zeros(1, "<i4").tobytes()
    assert b"".join(buffers)[: described[0]["size"]] == head + blob


def test_tensors_of_few_bytes_are_one_piece_and_begin_at_borders():
    tensors = {
        "a": np.float32([1]),
        "b": np.int64([[2, 3]]),
        "none": np.zeros((0, 3)),
        "c": np.bool_([1]),
    }
    described, buffers = encoded(tensors)
    assert [b.nbytes for b in buffers] == [3 * columns.ALIGNMENT]
    found = columns.values(columns.layout(described)[0], memoryview(bytearray(buffers[0])))
    for name, tensor in tensors.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert found[name].tobytes() == tensor.tobytes()


def test_this_runtime_makes_the_same_text_of_bytes():
    assert sessions.takes_bytes()


def long_texts(*odd):
    return np.array([f"{i:09}" * 2000 for i in range(40)] + [text * 9000 for text in odd], object)


def test_long_texts_are_read_without_a_copy_of_them_all():
    texts = long_texts()
    described, buffers = encoded({"x": texts})
    body = b"".join(buffers)
    tracemalloc.start()
    found = decoded(described, body)["x"]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.tolist() == texts.tolist()
    assert peak < 2.3 * len(body)  # what is read, and the texts


def test_long_texts_of_any_script_are_the_texts():
    texts = long_texts("é", "字", "")
    assert carried({"x": texts})["x"].tolist() == texts.tolist()


def test_long_text_that_is_no_utf8_is_refused():
    described, buffers = encoded({"x": long_texts()})
    body = bytearray(b"".join(buffers))
    body[-100] = 0xFF
    with pytest.raises(frames.FrameError, match="no UTF-8"):
        decoded(described, body)
