"""Files of a version that were made to break their reader: each is refused, with its name."""

import time

import pytest

from harness.core.errors import ResolveError
from harness.core.models import PinnedModel
from harness.resolve import files, pin
from harness.resolve.runtime import runtime_wish

ONNX = "flavors:\n  onnx:\n    data: model.onnx\n"
DEEP = "[" * 5000 + "]" * 5000
BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
)
HOSTILE = {
    "conda date": ("conda.yaml", "dependencies:\n- 2013-99-99\n", "conda.yaml is no YAML"),
    "conda depth": ("conda.yaml", f"dependencies: {DEEP}\n", "nested deeper than 64"),
    "conda number": ("conda.yaml", f"dependencies:\n- {'9' * 6000}\n", "6,000 characters"),
    "conda bomb": ("conda.yaml", f"{BOMB}dependencies:\n- pip:\n  - *a8\n", "an alias, line 2"),
    "conda tag": ("conda.yaml", "dependencies: !!timestamp x\n", "a tag, line 1"),
    "conda twice": (
        "conda.yaml", "dependencies: [onnxruntime=1.25.1]\ndependencies: []\n",
        "the key dependencies is there twice, line 2",
    ),
    "conda size": ("conda.yaml", f"dependencies: [{'1,' * 60_000}]\n", "more than 50,000 values"),
    "python date": ("python_env.yaml", "python: 2013-02-31\n", "python_env.yaml is no YAML"),
    "metadata date": ("MLmodel", f"{ONNX}metadata:\n  a: 2013-99-99\n", "MLmodel is no YAML"),
    "metadata depth": ("MLmodel", f"{ONNX}metadata:\n  a: {DEEP}\n", "nested deeper than 64"),
    "metadata hex": ("MLmodel", f"{ONNX}metadata:\n  a: 0x{'f' * 6000}\n", "6,002 characters"),
    "metadata bomb": ("MLmodel", f"{BOMB}{ONNX}metadata:\n  x: *a8\n", "an alias, line 2"),
    "nul in a path": ("MLmodel", 'flavors: {onnx: {data: "a\\0b"}}\n', "names the model file 'ab'"),
    "long path": ("MLmodel", f"flavors: {{onnx: {{data: {'a' * 5000}}}}}\n", f"'{'a' * 100}', "),
    "parentheses": (
        "requirements.txt", f"foo; {'(' * 3000}python_version>'3'{')' * 3000}\n", "1,000 characters",
    ),
    "long version": ("requirements.txt", f"onnxruntime==1.{'9' * 5000}\n", "1,000 characters"),
    "other version": ("requirements.txt", f"foo==1.{'9' * 5000}\n", "1,000 characters"),
    "blanks": ("requirements.txt", f"numpy{' ' * 900_000}==x\n", "1,000 characters"),
    "conda blanks": ("conda.yaml", f"dependencies: ['numpy{' ' * 900_000}1x']\n", "conda.yaml cannot be"),
    "long include": ("requirements.txt", f"-r {'a ' * 400_000}\n", "no file of the version's own"),
    "many lines": ("requirements.txt", "numpy!=1.1\n" * 2001, "more than 2,000 requirements"),
}  # fmt: skip


@pytest.fixture
def folder(make_model):
    model = make_model("model.onnx")
    (model.parent / "MLmodel").write_text(ONNX)
    return model.parent


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_refused(folder, tmp_path, case):
    name, content, said = HOSTILE[case]
    (folder / name).write_text(content)
    began = time.process_time()
    with pytest.raises(ResolveError) as refused:
        pin(str(folder), tmp_path / "pins")
    assert said in refused.value.what
    assert len(refused.value.what) < 300
    assert time.process_time() - began < 10


def test_a_link_that_leads_in_a_circle_is_refused(folder, tmp_path):
    (folder / "loop").symlink_to("loop")
    with pytest.raises(
        ResolveError, match="loop is a link that leaves the folder or leads nowhere"
    ):
        pin(str(folder), tmp_path / "pins")


def test_parentheses_within_the_length_are_no_crash(tmp_path):
    line = f"onnxruntime==1.2; {'(' * 480}python_version>'3'{')' * 480}"
    model = PinnedModel(
        given="m", uri="m", name="m", version="file", digest="0" * 64, path=tmp_path / "m.onnx",
        requirements=(line,),
    )  # fmt: skip
    with pytest.raises(ResolveError, match="cannot be read"):
        runtime_wish(model, {"onnxruntime": "1.2", "numpy": "2.0"})


def test_long_lists_of_hashes_are_no_long_requirement(folder, tmp_path):
    hashes = "".join(f" \\\n    --hash=sha256:{i:064x}" for i in range(60))
    (folder / "requirements.txt").write_text(f"numpy==2.4.6{hashes}\n")
    assert len(pin(str(folder), tmp_path / "pins").requirements) == 1


@pytest.mark.parametrize(
    ("size", "said"),
    [(6 << 30, "the rest are holes"), (65 << 20, "the rest are holes")],
)
def test_external_data_of_holes_are_not_copied(make_model, tmp_path, size, said):
    model = with_external_data(make_model("m.onnx"))
    with model.with_name("w.bin").open("r+b") as file:
        file.truncate(size)
    with pytest.raises(ResolveError, match=said):
        pin(str(model), tmp_path / "pins")
    assert not list((tmp_path / "pins").rglob("w.bin"))


@pytest.mark.parametrize("size", [6 << 30, 50 << 30])
def test_a_model_of_holes_is_refused_before_it_is_looked_through(
    make_model, tmp_path, monkeypatch, size
):
    def looked_through(_):
        pytest.fail("every byte that the file claims was read")

    monkeypatch.setattr(files, "external_data_names", looked_through)
    model = make_model("m.onnx")
    with model.open("r+b") as file:
        file.truncate(size)
    with pytest.raises(ResolveError, match=r"the rest are holes|are read"):
        pin(str(model), tmp_path / "pins")


def test_a_model_and_its_data_may_take_so_much_and_no_more(make_model, tmp_path, monkeypatch):
    model = with_external_data(make_model("m.onnx"))
    both = model.stat().st_size + model.with_name("w.bin").stat().st_size
    monkeypatch.setattr(files, "_LARGEST_BYTES", both)
    pin(str(model), tmp_path / "pins")
    monkeypatch.setattr(files, "_LARGEST_BYTES", both - 1)
    with pytest.raises(ResolveError, match=f"take {both:,} bytes"):
        pin(str(model), tmp_path / "others")


def with_external_data(model):
    """The model, which now names a neighbour as its external data."""
    model.write_bytes(model.read_bytes() + b"location w.bin")
    model.with_name("w.bin").write_bytes(b"weights")
    return model
