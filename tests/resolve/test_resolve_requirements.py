"""What a version records of its runtime, wherever it is written."""

import codecs
import os

import pytest
import yaml

from harness.core.errors import ResolveError
from harness.resolve import pin
from harness.resolve.requirements import Recorded, recorded_beside, recorded_in_folder
from harness.resolve.runtime import runtime_wish


def folder(tmp_path, **files):
    for name, content in files.items():
        text = content if isinstance(content, str) else yaml.safe_dump(content)
        (tmp_path / name.replace("__", ".")).write_bytes(text.encode())
    return recorded_in_folder(tmp_path, "models:/m/1")


CONDA = {"dependencies": ["python=3.10.4", "pip", {"pip": ["mlflow==3.17.2", "numpy==1.26.4"]}]}


def test_requirements_txt_comes_first(tmp_path):
    conda = {"dependencies": ["scipy=1.0", {"pip": ["pandas==2.0", "numpy==1.26.4"]}]}
    found = folder(tmp_path, requirements__txt="onnxruntime==1.23.2\n", conda__yaml=conda)
    # Only what decides about the leg is taken from there, too.
    assert found == Recorded(requirements=("onnxruntime==1.23.2", "numpy==1.26.4"))


@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        ("utf-8", codecs.BOM_UTF8),
        ("utf-16-le", codecs.BOM_UTF16_LE),
        ("utf-16-be", codecs.BOM_UTF16_BE),
        ("utf-32-le", codecs.BOM_UTF32_LE),
        ("utf-32-be", codecs.BOM_UTF32_BE),
    ],
)
def test_a_mark_says_the_encoding_as_it_does_to_pip(encoding, mark, tmp_path):
    content = mark + "# für uns\r\nonnxruntime==1.23.2\r\nnumpy<2\r\n".encode(encoding)
    (tmp_path / "requirements.txt").write_bytes(content)
    assert folder(tmp_path).requirements == ("onnxruntime==1.23.2", "numpy<2")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("# für uns\nnumpy<2\n".encode("latin-1"), "requirements.txt is no UTF-8 text"),
        (codecs.BOM_UTF16_LE + b"n\0u", "requirements.txt is no UTF-16 text"),
        ("numpy<2\n".encode("utf-16-le"), "cannot be read"),
    ],
)
def test_another_encoding_is_refused_with_a_way_out(content, said, tmp_path):
    (tmp_path / "requirements.txt").write_bytes(content)
    with pytest.raises(ResolveError, match=said) as caught:
        folder(tmp_path)
    assert ("Save it as UTF-8" in caught.value.remedy) == ("text" in said)


def test_what_conda_repeats_changes_nothing(tmp_path):
    alone = folder(tmp_path, requirements__txt="numpy==1.26.4\npandas==1.0\n")
    both = folder(
        tmp_path, conda__yaml={"dependencies": [{"pip": ["pandas==1.0", "numpy==1.26.4"]}]}
    )
    assert alone == both


def test_conda_is_read_where_requirements_are_missing(tmp_path):
    found = folder(tmp_path, conda__yaml=CONDA)
    assert found == Recorded(requirements=("numpy==1.26.4",), python="3.10.4")


def test_the_python_comes_from_python_env(tmp_path):
    found = folder(tmp_path, python_env__yaml={"python": "3.11.7"}, conda__yaml=CONDA)
    assert found.python == "3.11.7"


def test_a_python_that_is_no_version_is_not_recorded(tmp_path):
    assert folder(tmp_path, python_env__yaml={"python": "../evil"}).python == ""


def test_a_folder_without_any_of_them_records_nothing(tmp_path):
    assert folder(tmp_path) == Recorded()


def test_a_file_that_is_no_yaml_is_refused(tmp_path):
    with pytest.raises(ResolveError, match=r"conda.yaml is no YAML"):
        folder(tmp_path, conda__yaml="[1, 2")


def test_hashes_on_lines_of_their_own_stay_with_their_requirement(tmp_path):
    a, b = (f"--hash=sha256:{c * 64}" for c in "ab")
    text = f"numpy==2.4.6 \\\n    {a} \\\n    {b}\nonnxruntime==1.26.0\n"
    assert folder(tmp_path, requirements__txt=text).requirements == (
        f"numpy==2.4.6 {a} {b}",
        "onnxruntime==1.26.0",
    )


def test_a_plain_file_may_have_requirements_beside_it(make_model, tmp_path):
    model = make_model("old.onnx")
    alone = pin(str(model), tmp_path / "pins")
    model.with_name("old.requirements.txt").write_text("onnxruntime==1.23.2\n")
    pinned = pin(str(model), tmp_path / "pins")
    assert pinned.requirements == ("onnxruntime==1.23.2",)
    assert pinned.digest != alone.digest


PIN = "onnxruntime==1.26.0"
CONDA_PIN = {"dependencies": ["onnxruntime=1.26.0"]}
MEANT = {
    "a byte order mark": {"requirements__txt": f"\ufeff{PIN}\n"},
    "a tab and a comment": {"requirements__txt": f"{PIN}\t# pinned\n"},
    "a blank of no width to a line": {"requirements__txt": f"\u00a0{PIN}\n"},
    "old line ends": {"requirements__txt": f"{PIN}\r"},
    "after a comment line with a backslash": {"requirements__txt": f"# made by hand \\\n{PIN}\n"},
    "goes on": {"requirements__txt": "\\\n  onnxruntime==1.26.0 \\\n"},
    "another file": {"requirements__txt": "-r base.txt\n", "base__txt": PIN},
    "another file, long": {"requirements__txt": "--requirement=base.txt # x", "base__txt": PIN},
    "another file, quoted": {"requirements__txt": "-r 'my base.txt'", "my base__txt": PIN},
    "a file of a file": {"requirements__txt": "-ra.txt", "a__txt": "-c b.txt", "b__txt": PIN},
    "conda": {"conda__yaml": CONDA_PIN},
    "conda, with requirements empty": {"requirements__txt": "", "conda__yaml": CONDA_PIN},
    "conda, with mlflow only": {"requirements__txt": "mlflow==3.0\n", "conda__yaml": CONDA_PIN},
    "conda, a channel": {"conda__yaml": {"dependencies": ["conda-forge::onnxruntime=1.26.0"]}},
    "conda, a build": {"conda__yaml": {"dependencies": ["onnxruntime=1.26.0=py311h1_0"]}},
    "conda, with blanks": {"conda__yaml": {"dependencies": ["onnxruntime 1.26.0"]}},
    "conda, two signs": {"conda__yaml": {"dependencies": ["onnxruntime == 1.26.0"]}},
    "pip in conda": {"conda__yaml": {"dependencies": ["pip", {"pip": [PIN]}]}},
    "pip in conda, one text": {"conda__yaml": {"dependencies": [{"pip": PIN}]}},
    "pip in conda, a file": {"conda__yaml": {"dependencies": [{"pip": ["-r b.txt"]}]}, "b__txt": PIN},
    "python_env": {"python_env__yaml": {"python": "3.11.7", "dependencies": [PIN]}},
}  # fmt: skip


@pytest.mark.parametrize("form", MEANT)
def test_a_pin_is_read_wherever_it_stands(form, tmp_path):
    assert folder(tmp_path, **MEANT[form]).requirements == (PIN,)


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ("numpy=1.26", "numpy==1.26.*"),
        ("numpy==1.26", "numpy==1.26"),
        ("numpy=1.26.*", "numpy==1.26.*"),
        ("numpy >=1.20,<2", "numpy>=1.20,<2"),
        ("numpy", "numpy"),
        ("numpy-base=1.26.4=py311_0", "numpy==1.26.4"),
        ("onnxruntime=1.26.0=py311_cuda", "onnxruntime-gpu==1.26.0"),
    ],
)
def test_condas_words_become_pips(spec, line, tmp_path):
    assert folder(tmp_path, conda__yaml={"dependencies": [spec]}).requirements == (line,)


def test_a_constraint_counts_as_if_required(tmp_path):
    found = folder(
        tmp_path, requirements__txt="-c c.txt\nonnxruntime\n", c__txt=f"{PIN}\nscipy==1\n"
    )
    assert found.requirements == (PIN, "scipy==1", "onnxruntime")


LOST = {
    "conda, two versions": ({"conda__yaml": {"dependencies": ["onnxruntime=1.25.1|1.26.0"]}}, "conda.yaml"),
    "conda, brackets": ({"conda__yaml": {"dependencies": ["onnxruntime[version=1]"]}}, "conda.yaml"),
    "conda, an address": ({"conda__yaml": {"dependencies": ["https://h/onnxruntime-1.conda"]}}, "conda.yaml"),
    "conda, a mapping": ({"conda__yaml": {"dependencies": [{"onnxruntime": "1.26.0"}]}}, "conda.yaml"),
    "conda, no list": ({"conda__yaml": {"dependencies": {"onnxruntime": 1}}}, "conda.yaml"),
    "conda, a number": ({"conda__yaml": {"dependencies": [{"pip": [1.26]}]}}, "conda.yaml"),
    "conda, no mapping": ({"conda__yaml": ["onnxruntime"]}, "no mapping"),
    "python_env, one text": ({"python_env__yaml": {"dependencies": PIN}}, "no list"),
    "after a comment": ({"requirements__txt": f"scipy==1 # x \\\n{PIN}\n"}, "by a backslash"),
    "no such file": ({"requirements__txt": "-r none.txt\n"}, "no file of the version's"),
    "out of the folder": ({"requirements__txt": "-r ../other.txt\n"}, "no file of the version's"),
    "far out": ({"requirements__txt": "-c /etc/hostname\n"}, "no file of the version's"),
    "an address": ({"requirements__txt": "-c https://h/c.txt\n"}, "no file of the version's"),
    "two files": ({"requirements__txt": "-r requirements.txt base.txt\n"}, "no file of the version's"),
    "open quote": ({"requirements__txt": "-r 'base.txt\n"}, "no file of the version's"),
    "a circle": ({"requirements__txt": "-r a.txt\n", "a__txt": "-c requirements.txt\n"}, "names itself"),
    "many": ({"requirements__txt": "-r a.txt\n" * 30, "a__txt": ""}, "more than 20"),
    "an option": ({"requirements__txt": f"--editable .\n{PIN}\n"}, "cannot be read"),
    "an option without a value": ({"requirements__txt": f"--find-links\n{PIN}\n"}, "cannot be read"),
    "an option and a pin": ({"requirements__txt": f"--find-links . {PIN}\n"}, "cannot be read"),
    "a pin for a value": ({"requirements__txt": f"-i --pre {PIN}\n"}, "cannot be read"),
    "an option, quoted half": ({"requirements__txt": f"-i 'x\n{PIN}\n"}, "cannot be read"),
    "an option in pip in conda": ({"conda__yaml": {"dependencies": [{"pip": ["-e ."]}]}}, "cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("form", LOST)
def test_what_would_be_lost_is_refused(form, tmp_path):
    files, said = LOST[form]
    (tmp_path / "version").mkdir()
    (tmp_path / "other.txt").write_text(PIN)
    with pytest.raises(ResolveError, match=said) as caught:
        folder(tmp_path / "version", **files)
    assert caught.value.where == "models:/m/1"
    assert caught.value.remedy


PLACES = ["--extra-index-url https://me:secret@example.org/simple", "--index-url=http://127.0.0.1:9",
          "-i http://127.0.0.1:9", "--find-links . -f wheels", "--trusted-host example.org"]  # fmt: skip


@pytest.mark.parametrize("line", PLACES)
@pytest.mark.parametrize("file", ["requirements.txt", "base.txt", "conda.yaml"])
def test_lines_that_name_an_index_are_dropped_and_said(line, file, tmp_path):
    pip = {"conda__yaml": {"dependencies": [{"pip": [line, PIN]}]}}
    text = {"requirements__txt": f"{line}\n{PIN}\n"}
    base = {"requirements__txt": "-r base.txt\n", "base__txt": f"{line}\n{PIN}\n"}
    given = {"requirements.txt": text, "base.txt": base, "conda.yaml": pip}[file]
    found = folder(tmp_path, **given)
    option = {"-i": "--index-url"}.get(*[line.split("=")[0].split()[0]] * 2)
    assert (found.requirements, found.not_followed) == ((PIN,), (option,))


def test_a_dropped_index_is_told_without_its_address_and_changes_no_digest(make_model, tmp_path):
    model = make_model("m.onnx")
    record = model.with_name("m.requirements.txt")
    record.write_text("onnxruntime==1.31.1\n")
    plain = pin(str(model), tmp_path / "a")
    record.write_text(f"{PLACES[0]}\nonnxruntime==1.31.1\n")
    pinned = pin(str(model), tmp_path / "b")
    assert pinned.digest == plain.digest
    (note,) = runtime_wish(pinned, {"onnxruntime": "1.31.1", "numpy": "2.4.6"}).notes
    assert note.startswith("--extra-index-url in its requirements is not followed")
    assert "secret" not in repr(pinned)


@pytest.mark.parametrize("kind", ["pipe", "folder", "link to nothing"])
def test_a_record_that_is_no_plain_file_is_refused(kind, make_model):
    model = make_model("m.onnx")
    record = model.with_name("m.requirements.txt")
    if kind == "pipe":
        os.mkfifo(record)
    elif kind == "folder":
        record.mkdir()
    else:
        record.symlink_to("nothing")
    with pytest.raises(ResolveError, match=r"m\.requirements\.txt is there and is no plain file"):
        recorded_beside(model, "m.onnx")


def test_links_in_a_circle_are_refused(make_model):
    model = make_model("m.onnx")
    (model.parent / "loop").symlink_to("loop")
    model.with_name("m.requirements.txt").write_text("-r loop\n")
    with pytest.raises(ResolveError, match=r"loop is there and is no plain file"):
        recorded_beside(model, "m.onnx")


def test_files_that_contradict_each_other_are_refused(make_model, tmp_path):
    model = make_model("model.onnx")
    (model.parent / "MLmodel").write_text("flavors: {onnx: {data: model.onnx}}\n")
    (model.parent / "requirements.txt").write_text("onnxruntime==1.25.1\n")
    (model.parent / "conda.yaml").write_text(yaml.safe_dump(CONDA_PIN))
    pinned = pin(str(model.parent), tmp_path / "pins")
    with pytest.raises(
        ResolveError, match=r"contradict each other: onnxruntime==1\.25\.1,==1\.26\.0"
    ):
        runtime_wish(pinned, {"onnxruntime": "1.31.1", "numpy": "2.4.6"})
