"""Answers of a child that lies: refused where they are read, or fit for whatever comes after."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest

from harness.core.models import ModelGraph
from harness.core.observations import Outcome, PairBatch
from harness.core.tensors import Signature
from harness.core.traffic import RequestBatch
from harness.diff.features import FeatureDiff
from harness.diff.floor_builder import FloorBuilder
from harness.diff.observer import ObserverDiff
from harness.diff.outputs import OutputDiff
from harness.diff.probes import ProbeGuard
from harness.diff.signature import SignatureMatch
from harness.pipeline.candidate_failures import CandidateFailures
from harness.replay.assembly import (
    observations_from_answer,
    observations_from_parts,
    shapes_from_signature,
)
from harness.replay.composition import joined, rows_of
from harness.replay.forms import in_forms
from harness.sandbox.answers import Answers, BatchAnswer, BatchFault
from harness.sandbox.child import columns
from harness.sandbox.child.frames import Frame, FrameError, Prefix
from harness.sandbox.hello import hello_from_header

KINDS = {
    "y": ("tensor(float)", [None, 2]),
    "label": ("tensor(int64)", [None]),
    "word": ("tensor(string)", [None]),
    "p": ("seq(map(string,tensor(float)))", []),
    "boxes": ("tensor(float)", [None, None]),
    "loose": ("tensor(double)", []),
    "table": ("tensor(float)", [3, 2]),
    "seq": ("seq(tensor(float))", []),
    "flag": ("tensor(bool)", [None]),
}
GROUPS = ("outputs", "features", "trace_outputs", "leaves")
FEATURES = ("f", "g", "w")
GRAPH = ModelGraph(
    signature=Signature(inputs=(), outputs=()), features=("f", "w"), fitted=("g",), tensors=FEATURES
)
JUNK = [None, True, 0, -1, 1 << 60, 1.5, "", "y", "\ud800", [], ["a"], [1], {}, {"p": ["a"]}, [[]]]
KEYS = [["a", "a"], ["b", "a"], ["b", "c"], ["a"], ["a", "b", "c"], []]
FORMS = ["t", "-", "[t]", "[]", "[ttt]"]
REFUSED = BatchFault(seq=1, kind=Outcome.INVALID, message="refused", alive=False)


def hello(*names):
    outputs = [{"name": n, "type": KINDS[n][0], "shape": KINDS[n][1]} for n in names]
    x = {"name": "x", "type": "tensor(float)", "shape": [None, 4]}
    return hello_from_header({"kind": "hello", "ok": True, "inputs": [x], "outputs": outputs})


def tensors(names, rows, rng):
    """An honest answer's tensors, by group."""
    made = {
        "y": rng.random((rows, 2), np.float32),
        "label": rng.integers(0, 3, rows),
        "word": np.full(rows, "w", object),
        "p": rng.random((rows, 2)),
        "boxes": rng.random((rows, int(rng.integers(0, 3))), np.float32),
        "loose": np.array(1.0),
        "table": np.ones((3, 2), np.float32),
        "flag": np.zeros(rows, np.bool_),
    }
    outputs = {n: made[n] for n in names if n != "seq"}
    features = {
        "f": rng.random(rows, np.float32),
        "g": rng.random((rows, 3)),
        "w": made["word"],
    }
    leaves = {"0": made["y"], "1": made["y"]} if "seq" in names else {}
    return dict(zip(GROUPS, (outputs, features, dict(outputs), leaves), strict=True))


def header_of(groups, **more):
    """A header, and the bytes of the tensors."""
    said, body = {"kind": "answer", "ok": True}, b""
    for group, arrays in groups.items():
        described, buffers = columns.encoded(arrays)
        said[group] = json.loads(described)
        body += b"".join(map(bytes, buffers))
    if "p" in groups["outputs"]:
        said["keys"] = {"p": ["a", "b"]}
    if groups["leaves"]:
        said["forms"] = {"seq": "[tt]"}
    return said | more, body


def read(answers, said, body, rows):
    text = json.dumps(said).encode()
    frame = Frame(text, memoryview(bytearray(body)), Prefix(len(text), len(body), 1, 0))
    return answers.read(frame, seq=1, rows=rows, service_s=0.1)


def other_tensor(entry, rows, rng):
    """Its shape or its type is another, and its size fits that."""
    entry = dict(entry)
    if rng.random() < 0.6:
        entry["shape"] = [rows, *rng.choice([0, 1, 2, 3, rows], rng.integers(0, 3)).tolist()]
    else:
        entry["dtype"] = str(rng.choice([*columns.DTYPES]))
    count = int(np.prod(entry["shape"]))
    text = 8 * (count + 1) if entry["dtype"] == "str" else 24 + 4 * count
    number = columns.NUMBERS.get(entry["dtype"])
    return entry | {"size": count * number.itemsize if number else text}


def lie(said, body, rows, rng):
    """A header with one thing changed, and a body that is as long as it says."""
    said = json.loads(json.dumps(said))
    group = said[str(rng.choice(GROUPS))] or said["outputs"]
    at, junk = int(rng.integers(max(len(group), 1))), JUNK[rng.integers(len(JUNK))]
    name = str(rng.choice([*KINDS, "f", "new", "0"]))
    lies = [
        lambda: said.update({str(rng.choice([*said, "alone", "left_out", "trace_error"])): junk}),
        lambda: group[at].update({str(rng.choice(["name", "dtype", "shape", "size"])): junk}),
        lambda: group.append({"name": name, "dtype": "float32", "shape": [rows], "size": 4 * rows}),
        lambda: group.pop(at),
        lambda: said.update(keys={"p": KEYS[rng.integers(len(KEYS))]}),
        lambda: said.update(forms={name: FORMS[rng.integers(len(FORMS))]}),
        lambda: said.update(alone=True, trace_outputs=[], left_out=[name]),
        *[lambda: group[at].update(other_tensor(group[at], rows, rng))] * 6,
    ]
    if group:
        lies[rng.integers(len(lies))]()
    end = 0
    try:
        for described in GROUPS:
            _, end = columns.layout(said.get(described, []), end)
    except FrameError:
        return said, body
    return said, (body + bytes(min(end, 1 << 20)))[:end]


class Liar:
    """A version's answers, some of them honest."""

    def __init__(self, rng, honest):
        names = [str(n) for n in rng.permutation([*KINDS])[: rng.integers(1, 6)]]
        self.names, self._rng, self._honest = names, rng, honest
        self.hello = hello(*names)
        self._answers = Answers(self.hello, 1 << 30)
        self._shapes = shapes_from_signature(self.hello.signature)

    def answer(self, rows):
        said, body = header_of(tensors(self.names, rows, self._rng))
        if self._rng.random() >= self._honest:
            said, body = lie(said, body, rows, self._rng)
        try:
            found = read(self._answers, said, body, rows)
        except FrameError:
            return REFUSED
        if isinstance(found, BatchAnswer):
            self._shapes.learn(found)
        return found

    def observed(self, asked):
        """What a batch is answered: as a whole, in parts of a batch, or request by request."""
        way = self._rng.integers(3) if len(asked) > 1 else 0
        if way == 0:
            return self._whole(asked)
        if way == 1:
            found = [self.answer(int(n)) for n in asked.rows]
            parts = [(np.array([i]), a) for i, a in enumerate(found) if isinstance(a, BatchAnswer)]
            faults = {i: a for i, a in enumerate(found) if isinstance(a, BatchFault)}
            return observations_from_parts(asked, parts, faults, self._shapes, trace=True)
        return joined([self._whole(rows_of(asked, i, i + 1)) for i in range(len(asked))])

    def _whole(self, asked):
        found = self.answer(int(asked.rows.sum()))
        if isinstance(found, BatchAnswer):
            return observations_from_answer(asked, found, self._shapes)
        faults = dict.fromkeys(range(len(asked)), found)
        return observations_from_parts(asked, [], faults, self._shapes, trace=True)


def batch(*rows):
    n = len(rows)
    return RequestBatch(
        seq=np.arange(n), request_id=np.array([f"r{i}" for i in range(n)], object),
        ts_ns=np.zeros(n, np.int64), rows=np.array(rows), inputs={}, recorded={},
        answered=np.ones(n, np.bool_), context={},
    )  # fmt: skip


def compare(liar, pairs):
    """Everything that reads what both versions were answered."""
    floor = FloorBuilder()
    for pair in pairs:
        for _, part, _ in in_forms(replace(pair, candidate=pair.baseline)):
            floor.update(part)
    match = SignatureMatch(inputs=(), outputs=tuple((n, n) for n in liar.names))
    known = floor.finish()
    diffs = [OutputDiff(match, known), ObserverDiff(known), FeatureDiff(known, GRAPH, GRAPH)]
    whole = [ProbeGuard(), CandidateFailures()]
    for pair in pairs:
        for counter in whole:
            counter.update(pair)
        for _, part, _ in in_forms(pair):
            for diff in diffs:
                diff.update(part)
    for diff in diffs:
        diff.finish()
        diff.state()


@pytest.mark.parametrize("seed", range(4))
def test_what_a_lying_child_answers_is_refused_or_compared(seed):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for run in range(20):
            rng = np.random.default_rng([seed, run])
            liar = Liar(rng, 0.4)
            pairs = []
            for _ in range(2):
                rows = rng.choice([0, 1, 2, 3], 1 if "seq" in liar.names else 3)
                asked = batch(*rows.tolist())
                before, after = liar.observed(asked), liar.observed(asked)
                pairs.append(PairBatch(requests=asked, baseline=before, candidate=after))
            compare(liar, pairs)


@pytest.mark.parametrize(
    ("traced", "keys"),
    [
        ({"p": np.zeros((2, 3))}, ["a", "b"]),
        ({"p": np.zeros((2, 2), np.float32)}, ["a", "b"]),
        ({"y": np.zeros((2, 2))}, ["a", "b"]),
        ({"new": np.zeros(2)}, ["a", "b"]),
        ({}, ["a", "a"]),
    ],
)
def test_the_traces_outputs_are_held_to_the_signature(traced, keys):
    groups = tensors(("y", "p"), 2, np.random.default_rng(0))
    answers = Answers(hello("y", "p"), 1 << 30)
    assert isinstance(read(answers, *header_of(groups), 2), BatchAnswer)
    groups["trace_outputs"] |= traced
    with pytest.raises(FrameError, match=r"declared as|comes twice"):
        read(answers, *header_of(groups, keys={"p": keys}), 2)


def test_a_feature_of_another_type_in_a_part_of_a_batch_is_left_out():
    asked, answers = batch(1, 1), Answers(hello("y"), 1 << 30)
    shapes = shapes_from_signature(hello("y").signature)
    found = []
    for feature in (np.zeros(1, np.int64), np.full(1, "w", object)):
        groups = tensors(("y",), 1, np.random.default_rng(0))
        groups["features"]["f"] = feature
        found.append(read(answers, *header_of(groups), 1))
        shapes.learn(found[-1])
    parts = [(np.array([i]), a) for i, a in enumerate(found)]
    ways = [observations_from_parts(asked, parts, {}, shapes, trace=True)]
    ways.append(joined([observations_from_answer(batch(1), a, shapes) for a in found]))
    for seen in ways:
        assert "f" not in seen.features
        assert seen.uneven == ("f",)


def test_the_traces_columns_are_put_in_the_order_of_the_outputs():
    asked, answers = batch(1, 1), Answers(hello("p"), 1 << 30)
    shapes = shapes_from_signature(hello("p").signature)
    found = []
    for keys in (["a", "b"], ["b", "a"]):
        groups = tensors(("p",), 1, np.random.default_rng(0))
        found.append(read(answers, *header_of(groups, keys={"p": keys}), 1))
        shapes.learn(found[-1])
    parts = [(np.array([i]), a) for i, a in enumerate(found)]
    ways = [observations_from_parts(asked, parts, {}, shapes, trace=True)]
    ways.append(joined([observations_from_answer(batch(1), a, shapes) for a in found]))
    for seen in ways:
        assert seen.trace_outputs["p"].tolist() == seen.outputs["p"].tolist()
