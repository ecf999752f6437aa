"""Orders in a file: as numpy reads them, a piece at a time, and never a byte short."""

import hashlib
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.errors import GateError
from harness.store.orders import Drawn, pieces, positions_in, read_orders, write_orders


def written(path, label, **orders):
    drawn = {name: Drawn(count=sum(map(len, p)), parts=p) for name, p in orders.items()}
    return write_orders(path, np.asarray(label, np.float64), drawn)


@settings(max_examples=25, deadline=None)
@given(
    parts=st.lists(st.lists(st.integers(0, 2**62), max_size=5), max_size=5),
    label=st.lists(st.floats(width=64), max_size=4),
)
def test_what_is_written_comes_back_and_is_what_numpy_reads(tmp_path_factory, parts, label):
    path = tmp_path_factory.mktemp("orders") / "order.npz"
    arrays = [np.array(p, np.int64) for p in parts]
    whole = np.concatenate([np.empty(0, np.int64), *arrays])
    digests = written(path, label, newest=arrays, matured=[whole])
    labels, orders, found = read_orders(path)
    assert labels.tobytes() == np.array(label, np.float64).tobytes()
    assert found == digests
    assert found["newest"] == hashlib.sha256(whole.tobytes()).hexdigest() == found["matured"]
    assert list(orders) == ["newest", "matured"]
    assert orders["newest"].read().tolist() == whole.tolist()
    with np.load(path, allow_pickle=False) as saved:
        assert sorted(saved) == ["label", "matured", "newest"]
        assert saved["newest"].tolist() == whole.tolist()


def test_a_part_of_a_part_is_read_alone(tmp_path):
    order = np.random.default_rng(1).permutation(200_000)
    written(tmp_path / "o.npz", [], newest=[order])
    stored = read_orders(tmp_path / "o.npz")[1]["newest"]
    part = stored[1000:150_000][500:70_500]
    assert len(part) == 70_000
    assert (part.read() == order[1500:71_500]).all()
    assert (np.concatenate(list(pieces(part))) == order[1500:71_500]).all()
    assert len(stored[:0].read()) == len(stored[300_000:].read()) == 0
    assert positions_in(order) is order


def test_another_order_has_another_digest(tmp_path):
    digests = written(tmp_path / "o.npz", [], newest=[np.arange(10)])
    written(tmp_path / "o.npz", [], newest=[np.arange(10)[::-1]])
    assert read_orders(tmp_path / "o.npz")[2] != digests


def test_an_order_shorter_than_said_is_refused(tmp_path):
    with pytest.raises(GateError, match="3 requests were drawn of 4"):
        write_orders(tmp_path / "o.npz", np.empty(0), {"w": Drawn(count=4, parts=[np.arange(3)])})


def test_a_file_that_lost_its_end_is_refused_when_it_is_read(tmp_path):
    path = tmp_path / "o.npz"
    written(path, [], newest=[np.arange(1000)])
    stored = read_orders(path)[1]["newest"]
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(GateError, match="ends too early"):
        stored.read()


def test_an_array_of_another_kind_is_no_order(tmp_path):
    np.savez(tmp_path / "o.npz", label=np.empty(0), newest=np.arange(4, dtype=np.int32))
    with pytest.raises(ValueError, match="int32"):
        read_orders(tmp_path / "o.npz")


def test_memory_does_not_grow_with_an_order(tmp_path):
    """A million positions are eight megabytes; written, verified and walked through in less than three."""
    path, n, size = tmp_path / "o.npz", 1_000_000, 10_000
    parts = (np.arange(at, at + size) for at in range(0, n, size))
    tracemalloc.start()
    try:
        write_orders(path, np.empty(0), {"newest": Drawn(count=n, parts=parts)})
        stored = read_orders(path)[1]["newest"]
        total = sum(int(piece.sum()) for piece in pieces(stored))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == n * (n - 1) // 2
    assert peak < 3 << 20
