"""Of a version's requirements, only onnxruntime and numpy decide what its leg runs in."""

from pathlib import Path

import pytest

from harness.core.errors import ResolveError
from harness.core.models import PinnedModel
from harness.resolve.requirement_line import is_other_build
from harness.resolve.runtime import runtime_wish

AA, BB = (f"sha256:{c * 64}" for c in "ab")
RUNNING = {"onnxruntime": "1.31.1", "numpy": "2.4.6"}


def wish(*requirements):
    model = PinnedModel(
        given="m", uri="models:/m/1", name="m", version="1", digest="d", path=Path("m.onnx"),
        requirements=requirements,
    )  # fmt: skip
    return runtime_wish(model, RUNNING)


@pytest.mark.parametrize(
    "requirements",
    [
        (),
        ("onnxruntime==1.31.1", "numpy==2.4.6"),
        ("onnxruntime>=1.20", "numpy<3"),
        ("onnxruntime", "scikit-learn==1.2.0", "pandas==1.0"),
        ("onnxruntime==1.15.0 ; python_version < '3'",),
    ],
)
def test_the_running_environment_will_do(requirements):
    assert wish(*requirements).unmet == ()


@pytest.mark.parametrize(
    ("requirements", "unmet", "installed"),
    [
        (
            ("onnxruntime==1.26.0", "numpy==2.4.6"),
            ("onnxruntime==1.26.0",),
            ("onnxruntime==1.26.0", "numpy==2.4.6"),
        ),
        (
            ("onnxruntime==1.26.0",),
            ("onnxruntime==1.26.0",),
            ("onnxruntime==1.26.0", "numpy==2.4.6"),
        ),
        (("numpy==2.3.1",), ("numpy==2.3.1",), ("onnxruntime==1.31.1", "numpy==2.3.1")),
        (("onnxruntime==1.18.1",), ("onnxruntime==1.18.1",), ("onnxruntime==1.18.1", "numpy<2")),
        (
            ("onnxruntime==1.17.3", "numpy>=1.24"),
            ("onnxruntime==1.17.3",),
            ("onnxruntime==1.17.3", "numpy<2,>=1.24"),
        ),
        (("onnxruntime<1.20",), ("onnxruntime<1.20",), ("onnxruntime<1.20", "numpy==2.4.6")),
        (
            (f"ONNXRuntime==1.26.0 --hash={BB} --hash={AA}",),
            ("onnxruntime==1.26.0",),
            (f"onnxruntime==1.26.0 --hash={AA} --hash={BB}", "numpy==2.4.6"),
        ),
    ],
)
def test_what_is_not_met_is_installed(requirements, unmet, installed):
    found = wish(*requirements)
    assert (found.unmet, found.requirements) == (unmet, installed)


def test_packages_that_no_graph_needs_are_left_out_by_name():
    found = wish("onnxruntime==1.26.0", "scikit-learn==1.2.0", "pandas")
    assert found.left_out == ("scikit-learn", "pandas")
    assert not any("scikit" in line or "pandas" in line for line in found.requirements)


def test_the_gpu_build_is_run_as_the_cpu_build_and_says_so():
    found = wish(f"onnxruntime-gpu==1.26.0 --hash={AA}")
    assert found.requirements[0] == "onnxruntime==1.26.0"
    assert "onnxruntime-gpu==1.26.0 is run as onnxruntime" in found.notes[0]


@pytest.mark.parametrize(
    "line", ["onnxruntime @ https://example.org/o.whl", "numpy @ file:///tmp/n.whl"]
)
def test_an_address_in_place_of_a_version_is_refused(line):
    with pytest.raises(ResolveError, match="names an address instead of a version"):
        wish(line)


def test_a_runtime_that_cannot_be_read_is_refused():
    with pytest.raises(ResolveError, match="cannot be read"):
        wish("onnxruntime==one")


@pytest.mark.parametrize(
    "line",
    [
        f"onnxruntime==1.26.0 --hash={AA} --index-url=http://127.0.0.1:9",
        f"onnxruntime==1.26.0 --hash={AA} -i http://127.0.0.1:9",
        f"onnxruntime==1.26.0\t--hash={AA} --extra-index-url http://127.0.0.1:9",
        f"numpy==2.4.6 --hash={AA} --find-links=/tmp",
        f"numpy==2.4.6 --find-links=/tmp --hash={AA}",
        f"numpy==2.4.6 --hash={AA} # more",
        f"numpy==2.4.6 --hash={AA}\n--index-url=http://127.0.0.1:9",
        "numpy==2.4.6 --hash=sha256:aa",
        "numpy==2.4.6 --hash=",
        f"numpy==2.4.6 --hash={AA.upper()}",
        f"numpy==2.4.6 --hash=md5:{'0' * 32}",
        "numpy===2.4.6",
        "numpy==2.4.6 -r more.txt",
        "numpy==2.4.6 ; python_version < 'a' and os_name ~= 'b'",
    ],
)
def test_nothing_but_a_version_and_its_hashes_reaches_the_installer(line):
    with pytest.raises(ResolveError, match="cannot be read"):
        wish(line)


def test_pins_that_contradict_each_other_are_refused():
    with pytest.raises(ResolveError, match="contradict each other: onnxruntime") as caught:
        wish("onnxruntime==1.26.0", "onnxruntime==1.25.1")
    assert "Keep one pin of onnxruntime" in caught.value.remedy


@pytest.mark.parametrize(
    ("requirements", "open_"),
    [
        ((), ("onnxruntime", "numpy")),
        (("onnxruntime>=1.20", "numpy==2.4.6"), ("onnxruntime",)),
        (("onnxruntime-gpu==1.26.0", "numpy"), ("numpy",)),
        (("onnxruntime==1.26.0", "numpy==2.4.6"), ()),
    ],
)
def test_what_no_requirement_pins_is_said(requirements, open_):
    assert wish(*requirements).not_pinned == open_


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("onnxruntime", False),
        ("onnxruntime-gpu", False),
        ("onnxruntime-extensions", False),
        ("onnxruntime-openvino", True),
        ("onnxruntime-directml", True),
        ("onnxruntime-training", True),
        ("ort-nightly", True),
        ("ort-gpu-nightly", True),
        ("numpy-mkl", True),
        ("numpy-financial", False),
        ("scikit-learn", False),
    ],
)
def test_other_builds_are_told_by_their_names(name, other):
    assert is_other_build(name) is other


@pytest.mark.parametrize("name", ["onnxruntime_openvino", "ORT.nightly", "intel-numpy"])
def test_another_build_is_refused_with_the_one_to_pin(name):
    with pytest.raises(ResolveError, match="is a build of its own") as caught:
        wish(f"{name}==1.24.1")
    assert "Pin the onnxruntime (or numpy) of the same version" in caught.value.remedy
    assert wish(f"{name}==1.24.1; python_version < '3'").unmet == ()


@pytest.mark.parametrize(
    "line",
    [
        "-weird line",
        "some path/with spaces",
        "-e git+https://example.org/onnxruntime",
        "--index-url https://example.org/simple",
        "./onnxruntime-1.25.1-cp311-cp311-manylinux_2_28_x86_64.whl",
        "https://example.org/onnxruntime-1.25.1-cp311-cp311-manylinux_2_28_x86_64.whl",
        "./numpy-2.4.6-cp311-cp311-manylinux_2_28_x86_64.whl",
        "./scipy-1.0-py3-none-any.whl onnxruntime==1.25.1",
        "./scipy-1.0.tar.gz",
        "git+https://example.org/scipy#egg=scipy",
        '"onnxruntime==1.25.1"',
        "\u200bonnxruntime==1.25.1",
        "onnxruntime=1.25.1",
        "scipy==1.0 onnxruntime==1.25.1",
        "scipy=1.0, numpy=2.0",
        "${PIN}",
    ],
)
def test_what_may_name_a_runtime_and_cannot_be_read_is_refused(line):
    with pytest.raises(ResolveError, match="cannot be read, and may be what names the runtime"):
        wish("onnxruntime==1.31.1", line)


@pytest.mark.parametrize(
    "line",
    [
        "./wheels/scipy-1.0-py3-none-any.whl",
        "https://example.org/scipy-1.0-py3-none-any.whl#sha256=00",
        "scipy @ https://example.org/scipy.tar.gz",
        "scipy==1.0-legacy",
        "scipy=1.0",
        "scipy==1.0 --global-option=--fast",
        "scipy[fast]==${SCIPY}",
    ],
)
def test_a_line_surely_about_another_package_is_left_out_by_name(line):
    assert wish(line).left_out == ("scipy",)


def test_no_password_is_told():
    with pytest.raises(ResolveError) as caught:
        wish("--extra-index-url https://me:secret@example.org/simple")
    assert "secret" not in str(caught.value)
    assert "\\u200b" in refusal("\u200bnumpy==1")


def refusal(line):
    with pytest.raises(ResolveError) as caught:
        wish(line)
    return str(caught.value)
