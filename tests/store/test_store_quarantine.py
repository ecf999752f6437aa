"""Poison requests in a run folder come back through the reader of `--inputs`."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.core.observations import Cause, Outcome
from harness.core.quarantine import Quarantined
from harness.core.tensors import Signature, TensorSpec
from harness.store.quarantine import read_notes, write_quarantined
from harness.store.runs import RunFolder
from harness.store.table_files import pieces
from harness.store.tables import open_traffic


def item(request_id="r-1", leg="candidate", **inputs):
    rows = len(next(iter(inputs.values())))
    return Quarantined(
        leg=leg, request_id=request_id, kind=Outcome.CRASH, cause=Cause.UNKNOWN, message="SIGFPE",
        rows=rows, last_words="what(): no", inputs=inputs,
    )  # fmt: skip


def read_back(folder):
    (note,) = read_notes(folder)
    (piece,) = pieces(folder / note.file, None)
    return note, piece


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    request_id=st.text(min_size=1, max_size=80),
    text=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    number=st.floats(width=32),
    values=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=3, max_size=3),
)
def test_what_is_saved_is_read_as_inputs(tmp_path_factory, request_id, text, number, values):
    folder = tmp_path_factory.mktemp("run")
    strings, floats = np.array([text], object), np.array([number], np.float32)
    write_quarantined(folder, item(request_id, s=strings, f=floats, v=np.array([values])))
    note, piece = read_back(folder)
    assert (note.request_id, note.kind, note.message) == (request_id, "crash", "SIGFPE")
    assert note.last_words == "what(): no"
    assert piece.inputs["s"].tolist() == [text]
    assert piece.inputs["f"].tobytes() == floats.tobytes()
    assert piece.inputs["v"].tolist() == [values]


@pytest.mark.parametrize("rows", [1, 3, 2000])
def test_a_request_stays_one_request(tmp_path, rows):
    x, words = np.arange(2.0 * rows).reshape(rows, 2), np.array(["a", "bc"] * rows, object)[:rows]
    write_quarantined(tmp_path, item("r", x=x, w=words))
    (note,) = read_notes(tmp_path)
    specs = (
        TensorSpec(name="x", datatype="FP64", shape=(2,)),
        TensorSpec(name="w", datatype="BYTES", shape=()),
    )
    taken = Signature(inputs=specs, outputs=(), rows=(("x", 4),))
    window = open_traffic([tmp_path / note.file], tmp_path / "cache", taken)
    batch = window.read(np.arange(window.info.count))
    assert (batch.request_id.tolist(), batch.rows.tolist()) == (["r"], [rows])
    assert batch.inputs["x"].tolist() == x.tolist()
    assert batch.inputs["w"].tolist() == words.tolist()


@pytest.mark.parametrize(
    "values",
    [
        np.array(["a\0"], object),
        np.array(["a", b"b"], object),
        np.array(["x" * 100_000, *["a"] * 999], object),
        np.empty(0, object),
    ],
)
def test_what_no_table_can_hold_is_noted_without_a_file(tmp_path, values):
    write_quarantined(tmp_path, item(s=values))
    (note,) = read_notes(tmp_path)
    assert note.file == ""
    assert list((tmp_path / "quarantine").glob("*.npz")) == []


def test_ids_that_look_like_paths_stay_in_the_folder(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for request_id in ("../../x", "a/b", "a b", "..", "é" * 500):
        write_quarantined(folder, item(request_id, x=np.zeros(1)))
    assert len(list((tmp_path / "run" / "quarantine").glob("*.npz"))) == 5
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_a_note_from_before_last_words_were_kept_is_read(tmp_path):
    write_quarantined(tmp_path, item(x=np.zeros(1)))
    (file,) = (tmp_path / "quarantine").glob("*.json")
    content = json.loads(file.read_text())
    del content["last_words"]
    file.write_text(json.dumps(content))
    assert [note.last_words for note in read_notes(tmp_path)] == [""]


def test_the_same_request_is_kept_once_a_version(tmp_path):
    with RunFolder.create(tmp_path / "run") as run:
        for leg in ("candidate", "baseline", "candidate"):
            run.quarantine(item(leg=leg, x=np.zeros(1)))
        assert [n.leg for n in run.quarantined()] == ["baseline", "candidate"]
