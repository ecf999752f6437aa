"""From output tensors to a score and a decision per model row, the same way for both versions."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from harness.core.errors import PolicyError, nearest
from harness.core.observations import Observations, Outcome, PairBatch
from harness.core.policies import DecisionRule, Rule
from harness.core.tensors import Array, Bools, Floats, Nested

COUNTED = "Count columns from 0, or leave `positive` out for the last."
"""What to do about a column that is not there."""
_ROUNDING = 1e-6
"""Scores this far outside [0, 1] are float32 rounding and are cut to the bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowPair:
    """The same quantity from both versions, one value a model row."""

    baseline: Floats
    """Shape (R,); NaN where there is none."""
    candidate: Floats
    """Shape (R,); NaN where there is none."""


def scores(pair: PairBatch, rule: DecisionRule) -> RowPair:
    """The positive class's score; NaN where it is not in [0, 1].

    Args:
      pair: both versions' answers.
      rule: which output is the score, and its positive column.

    Raises:
      PolicyError: the policy names no usable score output.
    """
    name = rule.score
    if name is None:
        if rule.rule is Rule.NONE:
            raise PolicyError(
                "decision",
                f"output '{rule.output}' is the decision itself and no score is named",
                "Add `score: <output>` to the decision.",
            )
        name = rule.output
    baseline, candidate = _columns(pair, name, rule)
    column = _positive(name, rule, baseline.shape[1])
    return RowPair(baseline=_in_unit(baseline[:, column]), candidate=_in_unit(candidate[:, column]))


def decisions(pair: PairBatch, rule: DecisionRule) -> RowPair:
    """What production would decide, as numbers: 0/1, a class, or the output itself.

    Words become codes that both versions share, so they can be compared but not averaged.

    Args:
      pair: both versions' answers.
      rule: how an output becomes a decision.

    Raises:
      PolicyError: the output is missing or has no such form.
    """
    match rule.rule:
        case Rule.NONE:
            return _taken(pair, rule.output)
        case Rule.THRESHOLD:
            baseline, candidate = _columns(pair, rule.output, rule)
            column = _positive(rule.output, rule, baseline.shape[1])
            return RowPair(
                baseline=_above(baseline[:, column], rule),
                candidate=_above(candidate[:, column], rule),
            )
        case Rule.ARGMAX:
            baseline, candidate = _columns(pair, rule.output, rule)
            classes = _classes(pair.baseline, rule.output, baseline.shape[1])
            return RowPair(baseline=_best(baseline, classes), candidate=_best(candidate, classes))


def positives(pair: PairBatch, rule: DecisionRule) -> RowPair:
    """1 where the decision is the positive one, else 0; NaN where it cannot be said.

    Args:
      pair: both versions' answers.
      rule: for argmax, the positive column's class; otherwise the decision is already 0 or 1.

    Raises:
      PolicyError: the decision is a word.
    """
    taken = decisions(pair, rule)
    if rule.rule is Rule.NONE and any(
        _matrix(side, rule.output).dtype.kind not in "biuf"
        for side in (pair.baseline, pair.candidate)
    ):
        raise PolicyError(
            "decision",
            f"output '{rule.output}' holds words, and a rate needs numbers",
            "Decide by threshold or argmax on a score output.",
        )
    if rule.rule is not Rule.ARGMAX:
        return RowPair(baseline=_in_unit(taken.baseline), candidate=_in_unit(taken.candidate))
    width = _columns(pair, rule.output, rule)[0].shape[1]
    classes = _classes(pair.baseline, rule.output, width)
    positive = classes[_positive(rule.output, rule, width)]
    return RowPair(
        baseline=_equal(taken.baseline, positive), candidate=_equal(taken.candidate, positive)
    )


def read_by(rule: DecisionRule, pair: PairBatch) -> dict[str, RowPair]:
    """All that a rule reads of answers: the "decision", and the "score" where there is one.

    Args:
      rule: names the outputs.
      pair: both versions' answers.

    Raises:
      PolicyError: the outputs are not what the rule reads.
    """
    found = {"decision": positives(pair, rule)}
    if rule.score is not None or rule.rule is not Rule.NONE:
        found["score"] = scores(pair, rule)
    return found


def _matrix(observed: Observations, name: str) -> Array:
    """An output as (R, columns); no columns where the version answered nothing at all."""
    if name in observed.outputs:
        values = observed.outputs[name]
        if values.dtype == object and any(isinstance(value, Nested) for value in values.flat):
            raise PolicyError(
                "decision",
                f"output '{name}' is a sequence or an optional, and no score",
                "Name an output that is a tensor.",
            )
        return values.reshape(len(values), -1) if values.size else np.empty((len(values), 0))
    if (observed.outcome == Outcome.OK).any():
        raise PolicyError(
            "decision",
            f"the model has no output '{name}'",
            f"Name one of its outputs; {nearest(name, observed.outputs)}",
        )
    return np.empty((0, 0))


def _columns(pair: PairBatch, name: str, rule: DecisionRule) -> tuple[Floats, Floats]:
    """Both versions' scores (R, C) with the candidate's classes in the baseline's order."""
    sides = [_matrix(side, name) for side in (pair.baseline, pair.candidate)]
    if any(values.dtype.kind not in "biuf" for values in sides):
        raise PolicyError(
            "decision", f"output '{name}' holds words, not scores", "Name a numeric output."
        )
    rows = int(pair.requests.rows.sum())
    width = sides[0].shape[1] or sides[1].shape[1] or max(rule.positive + 1, 1)
    nothing = np.full((rows, width), np.nan)
    baseline, candidate = (
        values.astype(np.float64) if values.shape == nothing.shape else nothing for values in sides
    )
    keys, theirs = pair.baseline.keys.get(name), pair.candidate.keys.get(name)
    if keys and theirs and keys != theirs:
        if set(keys) != set(theirs):
            return baseline, nothing
        candidate = candidate[:, [theirs.index(key) for key in keys]]
    return baseline, candidate


def lacks_column(rule: DecisionRule, width: int) -> bool:
    """Whether an output with so many columns lacks the positive one.

    One column is the positive class's score, also where `positive: 1` counts as if there were two.
    """
    return not -width <= rule.positive < width and not _only_column(rule, width)


def without_column(pair: PairBatch, rule: DecisionRule) -> PairBatch:
    """Answers that lack the positive column as answers without a value.

    For a few requests whose answers are narrower than others': a policy that fits no answer is refused.

    Args:
      pair: both versions' answers, each in one shape.
      rule: names the outputs and the column.
    """
    named = (rule.score,) if rule.rule is Rule.NONE else (rule.output, rule.score)
    names = {name for name in named if name is not None}

    def read(side: Observations) -> Observations:
        found = dict(side.outputs)
        for name in names & found.keys():
            width = _matrix(side, name).shape[1]
            if width and lacks_column(rule, width):
                nothing: Floats = np.full((len(found[name]), rule.positive + 1), np.nan)
                found[name] = nothing
        return replace(side, outputs=found)

    return replace(
        pair, baseline=read(pair.baseline), candidate=read(pair.candidate),
        anchor=None if pair.anchor is None else read(pair.anchor),
    )  # fmt: skip


def _positive(name: str, rule: DecisionRule, width: int) -> int:
    if lacks_column(rule, width):
        what = f"column {rule.positive} is outside output '{name}' with {width} columns"
        raise PolicyError("decision.positive", what, COUNTED)
    return 0 if _only_column(rule, width) else rule.positive


def _only_column(rule: DecisionRule, width: int) -> bool:
    return width == 1 and rule.positive == 1 and rule.rule is not Rule.ARGMAX


def _classes(observed: Observations, name: str, width: int) -> Floats:
    """Numbers of the classes: their names where all are numbers, else their positions."""
    keys = observed.keys.get(name, ())
    if keys and all(key.lstrip("-").isdigit() for key in keys):
        return np.array([float(key) for key in keys])
    return np.arange(width, dtype=np.float64)


def _taken(pair: PairBatch, name: str) -> RowPair:
    """An output that is the decision itself."""
    baseline, candidate = _matrix(pair.baseline, name), _matrix(pair.candidate, name)
    if baseline.shape[1] > 1 or candidate.shape[1] > 1:
        what = f"output '{name}' has several values a row and cannot be a decision by itself"
        raise PolicyError("decision", what, "Use `rule: argmax` or `rule: threshold`.")
    rows = int(pair.requests.rows.sum())
    words: dict[str, int] = {}
    return RowPair(
        baseline=_numbered(baseline, rows, words), candidate=_numbered(candidate, rows, words)
    )


def _numbered(values: Array, rows: int, words: dict[str, int]) -> Floats:
    """One number a row; words are numbered as they come, in `words`."""
    if not values.size:
        return np.full(rows, np.nan)
    if values.dtype.kind in "biuf":
        return values[:, 0].astype(np.float64)
    return np.array([words.setdefault(str(word), len(words)) for word in values[:, 0]], np.float64)


def _in_unit(values: Floats) -> Floats:
    if len(values) and not np.signbit(values).any() and values.max() <= 1.0:
        return values
    inside = (values >= -_ROUNDING) & (values <= 1.0 + _ROUNDING)
    return np.where(inside, np.clip(values, 0.0, 1.0), np.nan)


def _known(values: Floats, known: Bools) -> Floats:
    return np.where(known, values, np.nan)


def _above(values: Floats, rule: DecisionRule) -> Floats:
    if rule.value is None:
        raise PolicyError("decision", "a threshold rule without `value`", "Add `value: 0.5`.")
    return _known((values >= rule.value).astype(np.float64), ~np.isnan(values))


def _equal(values: Floats, wanted: float) -> Floats:
    return _known((values == wanted).astype(np.float64), ~np.isnan(values))


def _best(values: Floats, classes: Floats) -> Floats:
    known = np.asarray(~np.isnan(values).any(axis=1), np.bool_)
    return _known(classes[np.where(known[:, None], values, 0.0).argmax(axis=1)], known)
