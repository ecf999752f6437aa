"""Names of tensors are whatever a model's author chose: in no text of ours does one begin a line."""

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_examples import EXAMPLES, FILES

from harness.core.findings import Finding, Severity
from harness.core.models import PinnedModel
from harness.core.plain_text import one_line
from harness.core.policies import SandboxPolicy
from harness.core.tensors import TensorSpec
from harness.pipeline.compare_result import CompareResult
from harness.pipeline.graph_pass import GraphLook
from harness.report import render_markdown, render_terminal, view_from_run
from harness.sandbox.isolation import Isolation

FORGED = "x\nEQUAL within the floor: base and candidate\n  graph: 4 of 4 tensors equal\n- y"
BREAKS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
TURNS = "\u202a\u202d\u202e\u2066\u2067\u2069\u200b\x1b\x9b"
names = st.one_of(
    st.just(FORGED),
    st.lists(
        st.one_of(st.sampled_from([*BREAKS, *TURNS]), st.characters(codec="utf-8")), min_size=1
    ).map("".join),
)


def compared(name, **changes):
    """A comparison in which everything that a model can name has this name."""
    model = PinnedModel(
        given=name, uri="m", name=name, version="file", digest="0" * 64, path=Path("m")
    )
    column = {"name": name, "verdict": "not_compared"}
    finding = Finding(
        kind="k", severity=Severity.HARM, where=name, what=f"{name}: differs", remedy=f"see {name}"
    )
    given = {
        "equal": False, "comparable": True, "compared": 1, "asked": 1, "available": 1,
        "models": (model, model), "findings": (finding,),
        "intermediates": {"outputs": [column], "features": [column]},
        "graph": GraphLook(why=f"{name} is odd"), "not_compared": (f"feature {name}: random",),
        "isolation": Isolation(tier=SandboxPolicy().require, layers=(), self_tests=()), "alone": (),
        "limits": SandboxPolicy(),
    }  # fmt: skip
    return CompareResult(**given | changes)


def unseen(text):
    """Characters of a text that break or turn a line, but for its own line breaks."""
    odd = {"Cc", "Cf", "Zl", "Zp", "Cs"}
    return {c for c in text if c != "\n" and unicodedata.category(c) in odd}


@given(names)
def test_a_name_makes_no_line_in_a_comparison(name):
    text = compared(name).to_text()
    assert text.count("\n") == compared("plain").to_text().count("\n")
    assert not unseen(text)


@given(names)
def test_a_name_makes_no_line_in_a_signature(name):
    shown = TensorSpec(name=name, datatype="FP32", shape=()).shown()
    assert "\n" not in shown
    assert not unseen(shown)


@settings(max_examples=25)
@given(names)
@pytest.mark.parametrize("render", [render_terminal, render_markdown])
def test_a_name_in_a_report_says_what_its_visible_form_says(render, name):
    """Terminal screens wrap: so the screen is compared with that of a name which is one line already."""

    def shown(word):
        run = EXAMPLES["rollback"]()
        run["evidence"]["evidence"][0] |= {"name": word, "guardrail": word}
        run["findings"]["findings"][0] |= {"where": word, "what": word, "remedy": word}
        run["decision"]["explanation"] = f"{word} is worse"
        return render(view_from_run(**{part: run.get(part) for part in FILES}))

    text = shown(name)
    # A zero-width space is ours: it stops links.
    assert not unseen(text) - {"\u200b"}
    if name == FORGED:
        assert text == shown(name.replace("\n", " "))


def test_a_line_about_very_many_tensors_names_the_first_and_counts_the_others():
    line = (
        f"candidate tensor {', '.join(f'f{i}' for i in range(9999))}: the graph has no such tensor"
    )
    result = compared("plain", not_compared=(line,))
    (told,) = [t for t in result.to_text().split("\n") if "candidate tensor" in t]
    assert told.endswith("f18, f19 and 9,979 more: the graph has no such tensor")
    assert json.loads(result.to_json())["not_compared"] == [line]


def test_a_look_that_was_not_made_is_told_in_one_line():
    look = GraphLook(why="the process was killed by SIGSEGV")
    text = compared("plain", graph=look, not_compared=look.not_compared()).to_text()
    told = [line for line in text.split("\n") if "SIGSEGV" in line]
    assert told == ["  graph: not looked into: the process was killed by SIGSEGV"]


def test_one_line_is_printable_and_has_no_break():
    assert one_line("a\nb\u202ec\x1b[31md") == r"a\u000ab\u202ecd"
