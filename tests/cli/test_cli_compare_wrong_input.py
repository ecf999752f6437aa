"""What `harness compare` cannot compare: exit code 2, where, what and remedy."""

import json

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gates import PLAIN, tiny_model
from onnx import parser

WORDS = """
<ir_version: 8, opset_import: ["" : 15, "ai.onnx.ml" : 3]>
words (string[N] s) => (int64[N] y) {
  y = ai.onnx.ml.LabelEncoder<keys_strings = ["a", "b"], values_int64s = [1, 2], default_int64 = 0>(s)
}
"""

ADDED = """
<ir_version: 8, opset_import: ["" : 15]>
added (float[N,2] x, float[N] s) => (float[N] y) {
  axis = Constant<value = int64[1] {1}>()
  sum = ReduceSum<keepdims = 0>(x, axis)
  y = Add(sum, s)
}
"""


@pytest.fixture
def model(tmp_path):
    return tiny_model(tmp_path / "old.onnx")


@pytest.fixture
def words(tmp_path):
    onnx.save(parser.parse_model(WORDS), str(tmp_path / "words.onnx"))
    return tmp_path / "words.onnx"


def npz(folder, **columns):
    np.savez(folder / "inputs.npz", **columns)
    return folder / "inputs.npz"


def jsonl(folder, *rows):
    (folder / "inputs.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return folder / "inputs.jsonl"


def parquet(folder, **columns):
    pq.write_table(pa.table(columns), folder / "inputs.parquet")
    return folder / "inputs.parquet"


def assert_refused(ran, *said):
    assert ran.code == 2, ran.out + ran.err
    first, remedy = ran.err.strip().split("\n", 1)
    assert first.startswith("harness: ")
    assert first.count(": ") >= 2
    assert len(remedy.split()) >= 2
    for part in said:
        assert part in ran.err


def test_an_empty_batch(model, harness, tmp_path):
    ran = harness(*PLAIN, model, model, "-i", npz(tmp_path, x=np.empty(0, np.float32)), "-q")
    assert ran.code == 2
    assert "0 of 0 requests compared" in ran.out or "no request" in ran.err


def test_words_for_a_number(model, harness, tmp_path):
    wrong = npz(tmp_path, x=np.array(["a", "b"]))
    assert_refused(harness(*PLAIN, model, model, "-i", wrong), "x")


def test_a_missing_input(model, harness, tmp_path):
    wrong = npz(tmp_path, z=np.ones(3, np.float32))
    assert_refused(harness(*PLAIN, model, model, "-i", wrong), "x")


def test_a_word_that_is_not_there(words, harness, tmp_path):
    wrong = jsonl(tmp_path, {"s": "a"}, {"s": None})
    assert_refused(harness(*PLAIN, words, words, "-i", wrong), "s")


def test_a_word_that_is_not_there_in_parquet(words, harness, tmp_path):
    wrong = parquet(tmp_path, s=pa.array(["a", None], pa.string()))
    assert_refused(harness(*PLAIN, words, words, "-i", wrong), "s")


def test_bytes_that_are_no_text(words, harness, tmp_path):
    wrong = parquet(tmp_path, s=pa.array([b"a", b"\xff\xfe"], pa.binary()))
    assert_refused(harness(*PLAIN, words, words, "-i", wrong), "s")


def test_bytes_that_pretend_to_be_text(words, harness, tmp_path):
    text = pa.array([b"a", b"\xff\xfe"], pa.binary()).cast(pa.binary()).view(pa.string())
    assert_refused(harness(*PLAIN, words, words, "-i", parquet(tmp_path, s=text)), "s")


@pytest.mark.parametrize(
    ("line", "where", "said"),
    [
        (b'{"s": "\xff\xfe"}', "inputs.jsonl:1", "is no UTF-8 text"),
        (
            b'{"s": "\\ud800"}',
            "inputs.jsonl, rows from row-0 on",
            "'s': a string has no UTF-8 form",
        ),
    ],
    ids=["bytes", "half a character"],
)
def test_lines_that_hold_no_text(line, where, said, words, harness, tmp_path):
    (tmp_path / "inputs.jsonl").write_bytes(line)
    ran = harness(*PLAIN, words, words, "-i", tmp_path / "inputs.jsonl")
    assert_refused(ran, where, said)


@pytest.mark.parametrize("side", ["old", "new"])
def test_a_file_that_is_no_model(side, model, harness, tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(model.read_bytes()[:50])
    pair = (broken, model) if side == "old" else (model, broken)
    wrong = npz(tmp_path, x=np.ones(3, np.float32))
    assert_refused(harness(*PLAIN, *pair, "-i", wrong), side, "does not load")


def test_an_opset_that_the_runtime_does_not_know(model, harness, tmp_path):
    newer = onnx.load(str(model))
    newer.opset_import[0].version = 999
    onnx.save(newer, str(tmp_path / "newer.onnx"))
    wrong = npz(tmp_path, x=np.ones(3, np.float32))
    assert_refused(
        harness(*PLAIN, model, tmp_path / "newer.onnx", "-i", wrong),
        "new",
        "does not load",
        "999",
        "older opset",
    )


PICKY = """
<ir_version: 8, opset_import: ["" : 15]>
picky (float[N] x) => (float[M] y) {
  many = Constant<value = int64[1] {1000}>()
  y = Reshape(x, many)
}
"""


def test_requests_that_no_version_answers_have_nothing_in_common(harness, tmp_path):
    # The shape [1000] fits no number of rows that is asked.
    onnx.save(parser.parse_model(PICKY), str(tmp_path / "picky.onnx"))
    wrong = npz(tmp_path, x=np.ones(7, np.float32))
    ran = harness("compare", tmp_path / "picky.onnx", tmp_path / "picky.onnx", "-i", wrong, "-q")
    assert ran.code == 2
    assert "not looked into: no request with rows was answered by both versions" in ran.out


@pytest.mark.parametrize(
    ("side", "code", "said"),
    [
        ("both", 2, "both versions reject 7 requests ("),
        ("old", 1, "7 requests: the baseline's runtime refuses what the candidate answers ("),
        ("new", 1, "7 requests: the candidate's runtime refuses what the baseline answers ("),
    ],
)
def test_who_refuses_is_said_with_the_runtimes_words(side, code, said, harness, tmp_path):
    texts = {"picky": PICKY, "free": PICKY.replace("{1000}", "{-1}")}
    for name, text in texts.items():
        onnx.save(parser.parse_model(text), str(tmp_path / f"{name}.onnx"))
    pair = {"both": ("picky", "picky"), "old": ("picky", "free"), "new": ("free", "picky")}[side]
    files = [tmp_path / f"{name}.onnx" for name in pair]
    ran = harness(*PLAIN, *files, "-i", npz(tmp_path, x=np.ones(7, np.float32)), "-q")
    assert ran.code == code
    assert said in ran.out
    assert "reshape" in ran.out.lower()


def test_lists_for_an_input_of_no_declared_rank_are_refused_with_a_remedy(harness, tmp_path):
    model = parser.parse_model(ADDED)
    model.graph.input[1].type.tensor_type.ClearField("shape")
    path = tmp_path / "added.onnx"
    onnx.save(model, str(path))
    three = {"x": [[1.0, 2.0]] * 3, "s": [1.0, 2.0, 3.0]}
    ran = harness(*PLAIN, path, path, "-i", jsonl(tmp_path, three, three), "-q")
    assert_refused(
        ran, "2 requests left out: tensors disagree on the number of rows: [1, 3]", "one row a line"
    )


def test_an_empty_batch_has_a_remedy(model, harness, tmp_path):
    ran = harness(*PLAIN, model, model, "-i", npz(tmp_path, x=np.empty(0, np.float32)), "-q")
    assert_refused(ran, "hold no request", "at least one row")


def test_a_message_of_the_runtime_ends_with_one_full_stop(model, harness, tmp_path):
    (tmp_path / "junk.onnx").write_bytes(b"\x08\x07junk")
    ran = harness(*PLAIN, model, tmp_path / "junk.onnx", "-i", npz(tmp_path, x=np.ones(3)))
    assert ran.code == 2
    assert ".." not in ran.err.replace("...", "")
