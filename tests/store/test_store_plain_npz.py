"""Arrays from somebody else's .npz: read as numpy reads them, or refused before anything is allocated."""

import io
import os
import resource
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from harness.core.errors import ResolveError
from harness.store.golden import read_golden
from harness.store.plain_npz import read_plain_npz


def npy(shape, descr="<f8", body=b""):
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * ((-len(text) - 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


def npz(path, content, *, name="input:x.npy", method=zipfile.ZIP_STORED, patch=lambda data: data):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as file:
        file.writestr(name, content)
    path.write_bytes(patch(packed.getvalue()))
    return path


def flagged(data):
    """The encrypted flag, in both headers."""
    local = data.replace(b"PK\x03\x04\x14\x00\x00\x00", b"PK\x03\x04\x14\x00\x01\x00")
    return local.replace(
        b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01\x00"
    )


def of_method_99(data):
    local = data.replace(
        b"PK\x03\x04\x14\x00\x00\x00\x00\x00", b"PK\x03\x04\x14\x00\x00\x00\x63\x00"
    )
    return local.replace(
        b"PK\x01\x02\x14\x03\x14\x00\x00\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x00\x00\x63\x00"
    )


HOSTILE = {
    "2 PiB": (npy(f"({1 << 48},)"), {}, "claims 281,474,976,710,656 values"),
    "128 GiB": (npy(f"({1 << 34},)"), {}, "claims 17,179,869,184 values"),
    "overflow": (npy(f"({1 << 62}, {1 << 62})"), {}, "claims"),
    "unary": (npy("-" * 9000 + "1"), {}, "does not describe a plain array"),
    "nested": (npy("(" * 2000 + ")" * 2000), {}, "does not describe a plain array"),
    "negative": (npy("(-5,)"), {}, "does not describe a plain array"),
    "objects": (npy("(1,)", "|O", bytes(8)), {}, "has numpy type object"),
    "no width": (npy(f"({1 << 33},)", "<U0"), {}, "has numpy type <U0"),
    "no type": (npy("(1,)", "<x3", bytes(8)), {}, "cannot be read"),
    "half character": (npy("(1,)", "<U1", struct.pack("<I", 0xD800)), {}, "no Unicode"),
    "no character": (npy("(1,)", "<U1", struct.pack("<I", 0x7FFFFFFF)), {}, "no Unicode"),
    "encrypted": (npy("(1,)", body=bytes(8)), {"patch": flagged}, "encrypted or packed"),
    "method 99": (npy("(1,)", body=bytes(8)), {"patch": of_method_99}, "encrypted or packed"),
    "lzma": (npy("(9,)", body=os.urandom(72)), {"method": zipfile.ZIP_LZMA}, "encrypted or packed"),
    "colours": (npy("(1,)", body=bytes(8)), {"name": "input:\x1b[31mx.npy"}, "no name of an array"),
    "no array": (b"abc", {"name": "input:x.npy"}, "is no array"),
    "no suffix": (b"abc", {"name": "input:x"}, "no name of an array"),
    "cut off": (b"\x93NUMPY\x01\x00", {}, "cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_refused(tmp_path, case):
    content, more, said = HOSTILE[case]
    with pytest.raises(ResolveError, match="golden rows") as refused:
        read_golden(npz(tmp_path / "golden.npz", content, **more), "candidate")
    assert said in refused.value.what


def test_a_claim_without_data_costs_no_memory(tmp_path):
    path = npz(tmp_path / "golden.npz", npy(f"({1 << 28},)"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="claims"):
        read_plain_npz(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def test_two_arrays_of_one_name_are_refused(tmp_path):
    path = tmp_path / "golden.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.npy", npy("(0,)"))
        with pytest.warns(UserWarning, match="Duplicate"):
            file.writestr("a.npy", npy("(0,)"))
    with pytest.raises(ValueError, match="same name"):
        read_plain_npz(path)


@settings(max_examples=60, deadline=None)
@given(
    values=hnp.arrays(
        st.sampled_from(["?", "i1", "<i8", ">f4", "f8", "f2", "u4", "<U3", ">U2"]),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3),
    ),
    turned=st.booleans(),
    packed=st.booleans(),
)
def test_whatever_numpy_writes_is_read_as_numpy_reads_it(tmp_path_factory, values, turned, packed):
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    values = np.asfortranarray(values) if turned else values
    (np.savez_compressed if packed else np.savez)(path, allow_pickle=False, **{"input:x": values})
    with np.load(path) as saved:
        expected = saved["input:x"]
    found = read_plain_npz(path)["input:x"]
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()


def test_a_directory_of_too_many_entries_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "golden.npz"
    with zipfile.ZipFile(path, "w") as file:
        for i in range(60_000):
            file.writestr(zipfile.ZipInfo(f"{i:050}.npy"), b"")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="its directory takes"):
        read_plain_npz(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 << 10


def test_a_users_own_file_may_be_larger_than_somebody_elses(tmp_path, monkeypatch):
    monkeypatch.setattr("harness.store.plain_npz.LIMIT_BYTES", 64)
    path = tmp_path / "in.npz"
    np.savez(path, x=np.arange(100.0))
    with pytest.raises(ValueError, match="larger than"):
        read_plain_npz(path)
    assert read_plain_npz(path, own=True)["x"].tolist() == list(range(100))
