"""Columns that are text only when somebody asks for it, and where Arrow takes its memory from."""

import numpy as np
import pytest

from harness.core.jsonable import jsonable
from harness.core.tensors import CodedText, Decoded, PackedText
from harness.store.pairs import TableWriter, read_table


def packed(values):
    blobs = [v.encode() for v in values]
    ends = np.cumsum([0, *map(len, blobs)]).astype(np.int32)
    return PackedText(offsets=ends, data=np.frombuffer(b"".join(blobs), np.uint8))


VALUES = ["a", "", "é€", "end"]


def test_packed_text_is_indexed_as_an_array_of_it():
    text, array = packed(VALUES), np.array(VALUES, object)
    assert [text[i] for i in (0, -1, np.int64(2))] == ["a", "end", "é€"]
    for at in (
        slice(1, 3),
        slice(None, -9, -2),
        np.array([3, 0]),
        array == "",
        np.array([], np.int64),
    ):
        assert text[at].tolist() == array[at].tolist()
        assert text[at].dtype == object
    with pytest.raises(IndexError):
        text[4]


def test_packed_text_is_a_list_for_numpy_and_json():
    text = packed(VALUES)
    assert np.repeat(text, [1, 0, 2, 1]).tolist() == ["a", "é€", "é€", "end"]
    assert (jsonable(text), list(text), text.shape) == (VALUES, VALUES, (4,))


@pytest.mark.parametrize("first", [0, 2])
def test_packed_text_is_written_as_text(tmp_path, first):
    whole = packed(VALUES)
    part = PackedText(offsets=whole.offsets[first:], data=whole.data)
    writer = TableWriter(tmp_path / "t.parquet")
    writer.add({"request_id": part, "n": np.arange(len(part))})
    writer.add({"request_id": packed([]), "n": np.arange(0)})
    writer.add({"request_id": np.array(["x"], object), "n": np.arange(1)})
    writer.close()
    assert read_table(tmp_path / "t.parquet")["request_id"].tolist() == [*VALUES[first:], "x"]


def test_codes_become_text_once_and_only_when_asked_for(monkeypatch):
    made = []
    text = CodedText.text
    monkeypatch.setattr(CodedText, "text", lambda coded: made.append(1) or text(coded))
    words = CodedText(codes=np.array([1, 0, 1], np.int32), words=np.array(["x", "y"], object))
    columns = Decoded({"a": words, "n": np.arange(3)})
    assert (list(columns), len(columns), "a" in columns, "b" in columns) == (
        ["a", "n"],
        2,
        True,
        False,
    )
    assert columns["n"].tolist() == [0, 1, 2]
    assert made == []
    assert [columns["a"].tolist(), columns["a"].tolist()] == [["y", "x", "y"]] * 2
    assert made == [1]
