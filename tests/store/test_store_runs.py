"""The run folder: every float comes back, a kill loses no saved step, one writer at a time."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from harness.core.errors import GateError, TrafficError, UsageError
from harness.core.tensors import CodedText
from harness.store.runs import RunFolder, is_written


@pytest.fixture
def run(tmp_path):
    with RunFolder.create(tmp_path / "run") as created:
        yield created


def append(run, chunk, *parts):
    with run.pairs_writer(chunk) as writer:
        for part in parts:
            writer.add(part)


def test_json_comes_back_as_plain_values(run):
    run.write_json("decision.json", {"decision": "HOLD", "e": np.float64(1.5), "n": (1, 2)})
    assert run.read_json("decision.json") == {"decision": "HOLD", "e": 1.5, "n": [1, 2]}


def test_text_comes_back(run):
    run.write_text("summary.md", "old")
    run.write_text("summary.md", "né")
    assert (run.path / "summary.md").read_text() == "né"
    assert [p.name for p in run.path.glob("*.md")] == ["summary.md"]
    assert run.has("summary.md")
    assert not run.has("junit.xml")


def test_missing_and_changed_files_are_named(run):
    with pytest.raises(UsageError, match=r"no evidence\.json in this run"):
        run.read_json("evidence.json")
    run.write_text("evidence.json", "{")
    with pytest.raises(UsageError, match="is no JSON"):
        run.read_json("evidence.json")


@pytest.mark.parametrize("name", ["../x.json", "a/b.json", ".lock", ""])
def test_files_outside_the_folder_are_refused(run, name):
    with pytest.raises(GateError):
        run.write_json(name, 1)


@st.composite
def columns(draw):
    n = draw(st.integers(0, 5))
    return {
        # Any bits: -0.0 and every NaN payload must survive.
        "f8": draw(hnp.arrays(np.uint64, n)).view(np.float64),
        "f4": draw(hnp.arrays(np.uint32, n)).view(np.float32),
        "i": draw(hnp.arrays(np.int64, n)),
        "small": draw(hnp.arrays(np.int8, n)),
        "b": draw(hnp.arrays(np.bool_, n)),
        "s": draw(hnp.arrays(object, n, elements=st.text(max_size=3), fill=st.nothing())),
    }


@settings(deadline=None, max_examples=50)
@given(columns())
def test_pairs_come_back_bit_for_bit(tmp_path_factory, table):
    with RunFolder.create(tmp_path_factory.mktemp("p") / "run") as run:
        append(run, 0, table)
        back = run.read_pairs(0)
    assert list(back) == list(table)
    for name, values in table.items():
        assert back[name].dtype == values.dtype
        if name == "s":
            assert back[name].tolist() == values.tolist()
        else:
            assert back[name].tobytes() == values.tobytes()


def test_zeros_and_nans_keep_their_bits_in_long_columns(run):
    bits = np.array([0, 1 << 63, 0x7FF8000000000001, 0xFFF8000000000123] * 500, np.uint64)
    append(run, 0, {"x": bits.view(np.float64)})
    assert run.read_pairs(0)["x"].tobytes() == bits.tobytes()


def test_some_columns_of_pairs_can_be_read_alone(run):
    append(run, 0, {"x": np.arange(3.0), "y": np.zeros(3), "z": np.array(["a", "b", "a"], object)})
    found = run.read_pairs(0, ["z", "x"])
    assert set(found) == {"x", "z"}
    assert found["z"].tolist() == ["a", "b", "a"]


def test_parts_follow_one_another_and_codes_come_back_as_text(run):
    words = np.array(["a", "b"], object)
    parts = [
        {"x": np.arange(2.0), "z": CodedText(codes=np.array([1, 0], np.int32), words=words)},
        {"x": np.arange(3.0), "z": CodedText(codes=np.zeros(3, np.int32), words=words[1:])},
    ]
    append(run, 0, *parts)
    append(run, 1, parts[0], {"x": np.zeros(1), "z": np.array(["c"], object)})
    assert run.read_pairs(0)["x"].tolist() == [0.0, 1.0, 0.0, 1.0, 2.0]
    assert run.read_pairs(0)["z"].tolist() == ["b", "a", "b", "b", "b"]
    assert run.read_pairs(1)["z"].tolist() == ["b", "a", "c"]


def test_pairs_of_another_shape_are_refused(run):
    with pytest.raises(GateError, match="shape"):
        append(run, 0, {"x": np.zeros((2, 2))})
    with pytest.raises(GateError, match="more than str"):
        append(run, 0, {"x": np.array([b"a"], object)})


def test_missing_and_damaged_pairs_are_named(run):
    with pytest.raises(TrafficError, match=r"00003\.parquet"):
        run.read_pairs(3)
    append(run, 0, {"x": np.zeros(9)})
    path = run.path / "pairs" / "00000.parquet"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(TrafficError, match=r"00000\.parquet"):
        run.read_pairs(0)


def test_state_comes_back(run):
    arrays = {
        "file": np.array([np.nan, -0.0, np.inf]),
        "a/b": np.zeros((2, 0, 3), np.float32),
        "s": np.array(["x", "é"]),
        "scalar": np.array(3, np.int8),
    }
    meta = {"log_e": -float("inf"), "n": 3, "seed": 2**70, "text": ["a", None, 0.1]}
    run.save_state(4, arrays, meta)
    next_chunk, back, back_meta = run.load_state()
    assert (next_chunk, back_meta) == (4, meta)
    assert list(back) == list(arrays)
    for name, values in arrays.items():
        assert (back[name].dtype, back[name].shape) == (values.dtype, values.shape)
        assert back[name].tobytes() == values.tobytes()


def test_no_state_before_one_is_saved(run):
    assert run.load_state() is None


def test_object_arrays_are_no_state(run):
    with pytest.raises(GateError, match="Python objects"):
        run.save_state(0, {"x": np.array([{}], object)}, {})


def test_damaged_state_is_named(run):
    run.save_state(1, {"x": np.zeros(100)}, {})
    path = run.path / "state.npz"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UsageError, match="state is damaged"):
        run.load_state()


def test_chunks_beyond_the_saved_state_do_not_count(run):
    for chunk in range(3):
        append(run, chunk, {"x": np.zeros(1)})
    run.save_state(2, {}, {})
    assert run.pairs_chunks() == (0, 1)
    run.close()
    with RunFolder.open(run.path, write=True) as again:
        assert again.pairs_chunks() == (0, 1)
        append(again, 2, {"x": np.ones(1)})
        again.save_state(3, {}, {})
        assert again.pairs_chunks() == (0, 1, 2)
        assert again.read_pairs(2)["x"].tolist() == [1.0]


def test_a_folder_with_other_things_is_not_taken(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="not an empty folder"):
        RunFolder.create(tmp_path)
    with pytest.raises(UsageError, match="no run folder"):
        RunFolder.open(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_a_run_is_not_made_twice(run):
    with pytest.raises(UsageError, match="already holds a run"):
        RunFolder.create(run.path)


def test_two_writers_are_refused_and_readers_are_not(run):
    run.write_json("manifest.json", {"seed": 1})
    with pytest.raises(UsageError, match="another process is writing"):
        RunFolder.open(run.path, write=True)
    assert RunFolder.open(run.path).read_json("manifest.json") == {"seed": 1}


def test_who_looks_whether_a_run_is_written_is_in_no_writers_way(run):
    run.close()
    assert not is_written(run.path)
    with (run.path / ".lock").open("rb") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(0.2, fcntl.flock, (looking, fcntl.LOCK_UN)).start()
        with RunFolder.open(run.path, write=True):
            assert is_written(run.path)


def test_a_reader_cannot_write(run):
    with pytest.raises(GateError, match="not open for writing"):
        RunFolder.open(run.path).write_text("x", "y")


def test_a_run_of_another_version_is_refused(run):
    (run.path / ".run").write_bytes(b"harness-run 99\n")
    with pytest.raises(UsageError, match="another version"):
        RunFolder.open(run.path)


def test_a_killed_writer_leaves_a_run_that_goes_on(tmp_path):
    path = tmp_path / "run"
    code = textwrap.dedent("""
        import sys, pathlib, numpy as np
        from harness.store.runs import RunFolder, is_written
        run = RunFolder.create(pathlib.Path(sys.argv[1]))
        for chunk in range(10**6):
            with run.pairs_writer(chunk) as writer:
                writer.add({"x": np.full(2000, float(chunk))})
            run.save_state(chunk + 1, {"sum": np.full(5000, float(chunk))}, {"chunk": chunk})
            run.write_json("progress.json", {"chunk": chunk, "padding": "x" * 5000})
            print(chunk, flush=True)
    """)
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as gate:
        while int(gate.stdout.readline()) < 5:
            pass
        os.kill(gate.pid, signal.SIGKILL)
        gate.wait()
    with RunFolder.open(path, write=True) as run:
        next_chunk, arrays, meta = run.load_state()
        assert meta == {"chunk": next_chunk - 1}
        assert arrays["sum"].tolist() == [next_chunk - 1.0] * 5000
        assert run.pairs_chunks() == tuple(range(next_chunk))
        assert all(run.read_pairs(c)["x"].tolist() == [c] * 2000 for c in run.pairs_chunks())
        assert json.loads((path / "progress.json").read_text())["chunk"] <= next_chunk
        assert not list(path.rglob("*.tmp"))
        append(run, next_chunk, {"x": np.zeros(1)})
