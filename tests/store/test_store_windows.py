"""Sealed windows: every request exactly once, bit for bit, in an order that is uniformly random."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pyarrow.parquet as pq
import pytest
from exchanges_made import exchange, inputs_of, outputs_of
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import simulated

from harness.core.errors import TrafficError
from harness.core.jsonable import sha256
from harness.core.recording import BESIDE_SAMPLE
from harness.core.tensors import TensorSpec
from harness.store import blocks, decoding, sealing, shuffle, window_manifest
from harness.store.traffic import TrafficSource, TrafficWriter
from harness.store.window_manifest import FORMAT_VERSION
from harness.store.windows import SealedWindow, seal, seal_cached
from harness.wire.messages import request_bytes, response_bytes


def source_of(folder, exchanges):
    with TrafficWriter(folder) as writer:
        writer.write(exchanges)
    return TrafficSource.open([folder] if writer.files else [])


def sealed(tmp_path, exchanges, seed=1):
    return seal(source_of(tmp_path / "t", exchanges), tmp_path / "w", seed=seed)


def all_of(window):
    return window.read(np.arange(len(window)))


def assert_batch_matches(batch, recorded):
    """Every request of the batch holds what its exchange says."""
    starts = np.cumsum(batch.rows) - batch.rows
    for i in range(len(batch)):
        one = recorded[batch.seq[i]]
        rows = slice(starts[i], starts[i] + batch.rows[i])
        assert batch.request_id[i] == one.request_id
        assert batch.ts_ns[i] == one.ts_ns
        assert {c: v[i] for c, v in batch.context.items() if v[i]} == one.context
        number = int(one.request_id.removeprefix("fl-"))
        for name, values in inputs_of(number, batch.rows[i]).items():
            found = batch.inputs[name][rows]
            assert found.dtype == values.dtype
            assert found.shape == values.shape
            same = found.tolist() == values.tolist()
            assert same if values.dtype == object else found.tobytes() == values.tobytes()
        if batch.answered[i]:
            expected = outputs_of(number, batch.rows[i])["p"]
            assert batch.recorded["p"][rows].tobytes() == expected.tobytes()


def test_every_request_is_sealed_once_with_its_values(tmp_path):
    recorded = [exchange(i) for i in range(700)]
    window = sealed(tmp_path, recorded)
    batch = all_of(window)
    assert sorted(batch.seq.tolist()) == list(range(700))
    assert batch.answered.all()
    assert_batch_matches(batch, recorded)


@settings(deadline=None, max_examples=25)
@given(
    rows=st.lists(st.integers(0, 3), min_size=1, max_size=40),
    failed=st.sets(st.integers(0, 39)),
    bare=st.sets(st.integers(0, 39)),
)
def test_requests_of_many_rows_come_back(tmp_path_factory, rows, failed, bare):
    recorded = [
        exchange(
            i,
            rows=r,
            **({"code": 13, "response": b""} if i in failed else {}),
            **({"context": {}} if i in bare else {}),
        )
        for i, r in enumerate(rows)
    ]
    window = sealed(tmp_path_factory.mktemp("w"), recorded)
    batch = all_of(window)
    assert sorted(batch.seq.tolist()) == list(range(len(rows)))
    assert batch.rows.tolist() == [rows[s] for s in batch.seq]
    if window.info.recorded:
        assert batch.answered.tolist() == [s not in failed for s in batch.seq]
    assert_batch_matches(batch, recorded)


def test_float_bits_and_nan_payloads_survive(tmp_path):
    bits = np.array([0x7FF8000000000001, 0xFFF0000000000123, 1 << 63, 1], np.uint64)
    values = bits.view(np.float64)
    recorded = [
        exchange(
            i,
            request=request_bytes("m", {"x": values[i : i + 1]}, str(i)),
            response=response_bytes("m", "1", {"y": values[i : i + 1]}, str(i)),
        )
        for i in range(4)
    ]
    batch = all_of(sealed(tmp_path, recorded))
    assert batch.inputs["x"].view(np.uint64).tolist() == bits[batch.seq].tolist()
    assert batch.recorded["y"].view(np.uint64).tolist() == bits[batch.seq].tolist()


@pytest.mark.parametrize("dtype", ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4"])
@pytest.mark.parametrize("trailing", [(), (2,)])
def test_every_datatype_comes_back(tmp_path, dtype, trailing):
    def tensor(i):
        return np.full((1, *trailing), i % 2 if dtype == "?" else i, dtype)

    recorded = [exchange(i, request=request_bytes("m", {"x": tensor(i)}, "")) for i in range(5)]
    batch = all_of(sealed(tmp_path, recorded))
    assert batch.inputs["x"].dtype == np.dtype(dtype)
    assert batch.inputs["x"].tolist() == [tensor(s)[0].tolist() for s in batch.seq]


def test_read_returns_the_order_asked_for(tmp_path):
    recorded = [exchange(i, rows=1 + i % 3) for i in range(600)]
    window = sealed(tmp_path, recorded)
    asked = np.random.default_rng(0).permutation(600)[:77]
    batch = window.read(asked)
    assert batch.seq.tolist() == window.index().seq()[asked].tolist()
    assert_batch_matches(batch, recorded)
    twice = window.read(np.array([5, 5, 0]))
    assert twice.seq[0] == twice.seq[1]
    assert len(window.read(np.empty(0, np.int64))) == 0


def test_positions_outside_the_window_are_refused(tmp_path):
    window = sealed(tmp_path, [exchange(1)])
    for position in (-1, 1):
        with pytest.raises(IndexError):
            window.read(np.array([position]))


def test_index_and_context_follow_storage_order(tmp_path):
    recorded = [exchange(i, rows=1 + i % 2) for i in range(300)]
    window = sealed(tmp_path, recorded)
    index = window.index()
    assert index.ts_ns().tolist() == [recorded[s].ts_ns for s in index.seq()]
    assert window.read(np.arange(len(index))).rows.tolist() == [1 + s % 2 for s in index.seq()]
    assert index.request_ids().tolist() == [recorded[s].request_id for s in index.seq()]
    codes, words = index.context("origin")
    assert codes.dtype == np.int32
    assert words[codes].tolist() == [recorded[s].context["origin"] for s in index.seq()]
    with pytest.raises(KeyError):
        index.context("nothing")


def test_window_info_says_what_is_there(tmp_path):
    recorded = [exchange(i) for i in range(10)]
    source = source_of(tmp_path / "t", recorded)
    info = seal(source, tmp_path / "w", seed=1).info
    assert (info.count, info.first_ts_ns, info.last_ts_ns) == (10, 0, 9_000_000)
    assert info.inputs[0] == TensorSpec(name="distance", datatype="FP32", shape=())
    assert info.inputs[4] == TensorSpec(name="pair", datatype="FP64", shape=(2,))
    assert info.recorded == (TensorSpec(name="p", datatype="FP32", shape=(2,)),)
    assert info.context == ("carrier", "origin")
    assert dict(info.versions) == {"1": 5, "2": 5}
    assert info.sources == source.files()
    assert SealedWindow.open(tmp_path / "w").info == info


def test_what_cannot_be_sealed_is_counted_with_examples(tmp_path):
    other = request_bytes("m", {"x": np.zeros(1)}, "")
    recorded = [exchange(i) for i in range(20)]
    recorded += [exchange(100, request=b"\xff"), exchange(101, request=other)]
    recorded += [exchange(3, ts_ns=999_000_000), exchange(102, request_id="")]
    window = sealed(tmp_path, recorded)
    assert dict(window.info.not_sealed) == {
        "not a ModelInferRequest": 1,
        "tensor 'x' is not in the window's layout": 1,
        "duplicate request id": 1,
        "no request id": 1,
    }
    assert window.manifest["examples"]["not a ModelInferRequest"] == ["fl-000100"]
    # The first of two exchanges with the same id is the one that is kept.
    assert sorted(window.index().seq().tolist()) == list(range(20))
    assert window.exchange("fl-000003").ts_ns == 3_000_000


def test_unanswered_requests_are_sealed_and_counted_by_reason(tmp_path):
    two = response_bytes("m", "1", outputs_of(4, 2), "")
    recorded = [exchange(i) for i in range(10)]
    recorded += [exchange(10, code=14, response=b""), exchange(11, response=b"")]
    recorded += [exchange(12, response=b"\xff"), exchange(13, response=two)]
    window = sealed(tmp_path, recorded)
    batch = all_of(window)
    assert set(batch.seq[~batch.answered].tolist()) == {10, 11, 12, 13}
    assert np.isnan(batch.recorded["p"][~batch.answered]).all()
    assert dict(window.info.not_answered) == {
        "gRPC status 14": 1,
        "no response recorded": 1,
        "not a ModelInferResponse": 1,
        "the response has another number of rows than the request": 1,
    }


def test_one_odd_request_first_does_not_decide_the_layout(tmp_path):
    odd = exchange(0, request=request_bytes("m", {"x": np.zeros(1)}, ""))
    window = sealed(tmp_path, [odd, *(exchange(i) for i in range(1, 30))])
    assert window.info.count == 29


def test_the_bytes_of_one_request_are_verbatim(tmp_path):
    recorded = [exchange(i) for i in range(3000)]
    window = sealed(tmp_path, recorded)
    for i in (0, 1234, 2999):
        assert window.exchange(recorded[i].request_id) == recorded[i]
    with pytest.raises(TrafficError, match="no request 'fl-9'"):
        window.exchange("fl-9")


def test_verbatim_rows_stand_at_storage_positions(tmp_path):
    window = sealed(tmp_path, [exchange(i) for i in range(300)])
    verbatim = pq.read_table(window.path / "verbatim.parquet")
    assert verbatim["seq"].to_pylist() == window.index().seq().tolist()


def test_an_empty_source_is_an_empty_window(tmp_path):
    window = seal(TrafficSource([]), tmp_path / "w", seed=1)
    assert window.info.count == len(window.index()) == len(all_of(window)) == 0
    assert window.index().request_ids().tolist() == []


def test_nothing_readable_is_an_empty_window_with_a_reason(tmp_path):
    window = sealed(tmp_path, [exchange(i, request=b"\xff") for i in range(3)])
    assert window.info.count == 0
    assert window.info.not_sealed == (("not a ModelInferRequest", 3),)
    assert len(SealedWindow.open(window.path).index()) == 0


def test_many_different_words_are_stored_plainly(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "MOST_WORDS", 100)
    recorded = [exchange(i) for i in range(300)]
    window = sealed(tmp_path, recorded)
    schema = window._reader._reader.schema
    assert str(schema.field("in:tail").type) == "string"
    assert "dictionary" in str(schema.field("in:carrier").type)
    assert_batch_matches(all_of(window), recorded)


def test_context_with_many_different_words_is_still_codes(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "MOST_WORDS", 3)
    recorded = [exchange(i, context={"user": f"u{i}"}) for i in range(600)]
    index = sealed(tmp_path, recorded).index()
    codes, words = index.context("user")
    assert words[codes].tolist() == [f"u{s}" for s in index.seq()]


def test_only_the_commonest_context_columns_are_sealed(tmp_path, monkeypatch):
    recorded = [exchange(i, context={f"c{i:03d}": "x", "common": "y"}) for i in range(80)]
    window = sealed(tmp_path, recorded)
    assert len(window.info.context) == 64
    assert "common" in window.info.context
    assert len(window.manifest["context_left_out"]) == 17


def test_equal_sources_and_seeds_give_equal_windows(tmp_path):
    recorded = [exchange(i) for i in range(300)]
    source = source_of(tmp_path / "t", recorded)
    first, again, other = (
        seal(source, tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first.info == again.info
    assert first.info.window_hash != other.info.window_hash
    names = ("columns.arrow", "manifest.json", "verbatim.parquet")
    for name in names:
        assert (first.path / name).read_bytes() == (again.path / name).read_bytes()


def test_another_value_is_another_window(tmp_path):
    recorded = [exchange(i) for i in range(50)]
    window = sealed(tmp_path / "a", recorded)
    changed = {**inputs_of(7), "tail": np.array(["other"], object)}
    recorded[7] = exchange(7, request=request_bytes("flights", changed, "fl-000007"))
    assert sealed(tmp_path / "b", recorded).info.window_hash != window.info.window_hash


@pytest.mark.parametrize("bucket_rows", [8192, 7])
@simulated(240, 2)
def test_storage_order_is_uniform(tmp_path, monkeypatch, bucket_rows, runs):
    monkeypatch.setattr(shuffle, "BUCKET_ROWS", bucket_rows)
    n = 24
    request = request_bytes("m", {"x": np.zeros(1)}, "")
    source = source_of(
        tmp_path / "t", [exchange(i, request=request, response=b"") for i in range(n)]
    )
    at = np.zeros((n, n))
    before = 0
    for seed in range(runs):
        order = seal(source, tmp_path / f"w{seed}", seed=seed).index().seq()
        at[order, np.arange(n)] += 1
        before += order.tolist().index(3) < order.tolist().index(4)
        shutil.rmtree(tmp_path / f"w{seed}")
    # (n−1)² degrees of freedom: both margins are fixed. Five sigma of the chi-square's normal limit.
    freedom = (n - 1) ** 2
    chi2 = ((at - runs / n) ** 2 / (runs / n)).sum() * (n - 1) / n
    assert abs(chi2 - freedom) < 5 * np.sqrt(2 * freedom)
    assert abs(before - runs / 2) < 5 * np.sqrt(runs) / 2


def test_many_buckets_give_every_request_once(tmp_path, monkeypatch):
    monkeypatch.setattr(shuffle, "BUCKET_ROWS", 50)
    recorded = [exchange(i) for i in range(1500)]
    batch = all_of(sealed(tmp_path, recorded))
    assert sorted(batch.seq.tolist()) == list(range(1500))
    assert_batch_matches(batch, recorded)


def test_progress_reaches_the_end(tmp_path):
    seen = []
    source = source_of(tmp_path / "t", [exchange(i) for i in range(30)])
    seal(source, tmp_path / "w", seed=1, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (30, 30)


def test_a_taken_folder_is_refused(tmp_path):
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "mine").touch()
    with pytest.raises(TrafficError, match="already exists"):
        sealed(tmp_path, [exchange(1)])
    assert (tmp_path / "w" / "mine").exists()


@pytest.mark.parametrize("name", ["columns.arrow", "verbatim.parquet", "manifest.json"])
@pytest.mark.parametrize("change", ["flip", "cut"])
def test_changed_windows_are_refused(tmp_path, name, change):
    window = sealed(tmp_path, [exchange(i) for i in range(40)])
    path = window.path / name
    content = bytearray(path.read_bytes())
    if change == "flip":
        content[len(content) // 2] ^= 1
    else:
        del content[-30:]
    path.write_bytes(content)
    with pytest.raises(TrafficError):
        SealedWindow.open(window.path)


def test_a_changed_manifest_is_refused_even_when_it_is_good_json(tmp_path):
    window = sealed(tmp_path, [exchange(i) for i in range(4)])
    path = window.path / "manifest.json"
    manifest = json.loads(path.read_bytes())
    manifest["info"]["versions"] = []
    path.write_text(json.dumps(manifest))
    with pytest.raises(TrafficError, match="sha256 differs"):
        SealedWindow.open(window.path)


def test_missing_and_foreign_folders_are_no_windows(tmp_path):
    for path in (tmp_path / "gone", tmp_path):
        with pytest.raises(TrafficError, match="no sealed window"):
            SealedWindow.open(path)


def test_a_failing_source_leaves_nothing(tmp_path):
    source = source_of(tmp_path / "t", [exchange(i) for i in range(300)])
    file = source.traffic_files[0].path
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(TrafficError):
        seal(source, tmp_path / "w", seed=1)
    assert [p.name for p in tmp_path.iterdir()] == ["t"]


def test_cache_seals_once_and_repairs_what_broke(tmp_path):
    source = source_of(tmp_path / "t", [exchange(i) for i in range(30)])
    calls = []

    def opened():
        return seal_cached(source, tmp_path / "c", progress=lambda d, _: calls.append(d))

    first = opened()
    assert opened().info == first.info
    assert len(calls) == 1
    (first.path / "columns.arrow").write_bytes(b"broken")
    assert opened().info == first.info
    assert len(calls) == 2
    assert len(all_of(opened())) == 30


def content_of(window):
    """What a window says, without the bytes of its files, which other libraries may write otherwise."""
    batch = all_of(window)
    tensors = {n: [str(a.dtype), a.tolist()] for n, a in {**batch.inputs, **batch.recorded}.items()}
    info = {name: getattr(window.info, name) for name in (
        "inputs", "recorded", "context", "not_sealed", "not_answered", "versions", "models", "not_recorded",
        "beside_sample")}  # fmt: skip
    for name in ("inputs", "recorded"):
        info[name] = [
            {"name": s.name, "datatype": s.datatype, "shape": s.shape} for s in info[name]
        ]
    return sha256(
        [info, batch.seq, batch.request_id, batch.rows, batch.answered, tensors, batch.context]
    )


def test_another_content_of_the_same_traffic_is_another_version_of_the_format(tmp_path):
    session = request_bytes("flights", inputs_of(50), "fl-000050", parameters={"sequence_id": 7})
    recorded = [exchange(i, rows=1 + i % 2) for i in range(20)]
    recorded += [
        exchange(50, request=session), exchange(3), exchange(51, request=b"\xff"),
        exchange(52, code=14, response=b"", metadata={BESIDE_SAMPLE: "1"}), exchange(53, request_id=""),
    ]  # fmt: skip
    found = content_of(sealed(tmp_path, recorded))
    # Where the content is another one: raise FORMAT_VERSION, so that windows in caches are sealed anew.
    assert (FORMAT_VERSION, found[:16]) == (4, "ca90dd086f893fba")


def test_a_cached_window_of_an_earlier_format_is_sealed_anew(tmp_path, monkeypatch):
    source = source_of(tmp_path / "t", [exchange(i) for i in range(5)])
    for module in (sealing, window_manifest):
        monkeypatch.setattr(module, "FORMAT_VERSION", FORMAT_VERSION - 1)
    earlier = seal_cached(source, tmp_path / "c")
    monkeypatch.undo()
    again = seal_cached(source, tmp_path / "c")
    assert again.path != earlier.path
    with pytest.raises(TrafficError, match=f"window format {FORMAT_VERSION - 1}"):
        SealedWindow.open(earlier.path)


def test_other_traffic_is_another_cache_entry(tmp_path):
    first = source_of(tmp_path / "a", [exchange(1)])
    second = source_of(tmp_path / "b", [exchange(2)])
    assert seal_cached(first, tmp_path / "c").path != seal_cached(second, tmp_path / "c").path


def test_two_at_once_build_one_window(tmp_path):
    source = source_of(tmp_path / "t", [exchange(i) for i in range(200)])
    built, windows = [], []

    def work():
        window = seal_cached(source, tmp_path / "c", progress=lambda d, _: built.append(d))
        windows.append(window.info.window_hash)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(windows)) == 1
    assert len(windows) == 4
    assert len(built) == 1


def test_a_killed_seal_leaves_a_cache_that_works(tmp_path):
    source_of(tmp_path / "t", [exchange(i) for i in range(400)])
    code = textwrap.dedent("""
        import pathlib, sys, time
        from harness.store import shuffle
        from harness.store.traffic import TrafficSource
        from harness.store.windows import seal_cached
        shuffle.BUCKET_ROWS = 50
        told = []
        def slowly(done, total):
            print(done, flush=True)
            told.append(done)
            time.sleep(60 if len(told) == 2 else 0)
        seal_cached(TrafficSource.open([pathlib.Path(sys.argv[1])]), pathlib.Path(sys.argv[2]),
                    progress=slowly)
    """)
    arguments = [sys.executable, "-c", code, str(tmp_path / "t"), str(tmp_path / "c")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as sealing:
        for _ in range(2):
            sealing.stdout.readline()
        os.kill(sealing.pid, signal.SIGKILL)
        sealing.wait()
    assert list((tmp_path / "c").glob(".*.tmp"))
    window = seal_cached(TrafficSource.open([tmp_path / "t"]), tmp_path / "c")
    assert sorted(all_of(window).seq.tolist()) == list(range(400))
    assert not list((tmp_path / "c").glob(".*.tmp"))


def test_reasons_are_capped(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "_REASONS_KEPT", 2)
    recorded = [exchange(i) for i in range(20)] + [
        exchange(30 + k, request=request_bytes("m", {f"x{k}": np.zeros(1)}, "")) for k in range(5)
    ]
    assert dict(sealed(tmp_path, recorded).info.not_sealed)["other reasons"] == 3


def test_blocks_are_kept_within_a_limit(tmp_path):
    window = sealed(tmp_path, [exchange(i) for i in range(blocks.BLOCK_REQUESTS * 17)])
    for block in range(17):
        window.read(np.array([blocks.BLOCK_REQUESTS * block]))
    assert len(window._blocks) == 16


def test_many_blocks_at_once_are_what_single_requests_are(tmp_path):
    """Wherever the requests lie, a batch of them is what each is alone; text is there as codes, too."""
    window = sealed(
        tmp_path, [exchange(i, rows=1 + i % 3) for i in range(blocks.BLOCK_REQUESTS * 17 + 7)]
    )
    rng = np.random.default_rng(5)
    positions = np.concatenate([rng.permutation(len(window))[:2000], [len(window) - 1, 0, 0]])
    batch = window.read(positions)
    starts = np.cumsum(batch.rows) - batch.rows
    for i in [*rng.permutation(len(positions))[:200].tolist(), 2000, 2001, 2002]:
        one = window.read(positions[i : i + 1])
        rows = slice(starts[i], starts[i] + batch.rows[i])
        assert (batch.seq[i], batch.request_id[i]) == (one.seq[0], one.request_id[0])
        for name, tensor in one.inputs.items():
            assert batch.inputs[name][rows].tolist() == tensor.tolist()
        for name, tensor in one.recorded.items():
            assert batch.recorded[name][rows].tolist() == tensor.tolist()
    texts = {name for name, tensor in batch.inputs.items() if tensor.dtype == object}
    assert set(batch.coded) == texts != set()
    for name, coded in batch.coded.items():
        assert coded.text().tolist() == batch.inputs[name].tolist()
