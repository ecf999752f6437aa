"""A model version, pinned once per run."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path

from harness.core.tensors import Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedModel:
    """One version of a model, fixed to its bytes for the whole run."""

    given: str
    """What the user wrote: models:/name@alias, models:/name/3 or a path."""
    uri: str
    """What it was pinned to: models:/name/3 or the absolute path."""
    name: str
    """Registered name, or the file's stem."""
    version: str
    """Registry version, or "file"."""
    digest: str
    """sha256 (hex) over model bytes, external data and requirements; see `resolve.digest`."""
    path: Path
    """A local copy of the .onnx file that nothing else writes to."""
    external: tuple[str, ...] = ()
    """Names of its external data files relative to the copy's folder, as `digest` covers them."""
    requirements: tuple[str, ...] = ()
    """pip requirements recorded with the version, mlflow left out; empty when none are recorded."""
    not_followed: tuple[str, ...] = ()
    """Options in its requirements that say where packages come from: left out, also from the digest."""
    python: str = ""
    """Python that the version was made with, as recorded (3.11.7); "" when it is not recorded."""
    training_cutoff_ns: int | None = None
    """Last instant whose data the version was trained on; None when the version does not say."""
    tags: tuple[tuple[str, str], ...] = ()
    """Registry tags, sorted by key."""
    golden: Path | None = None
    """A copy of its golden rows; None when none were logged with it. Not part of the digest."""


class Rearrangement(enum.StrEnum):
    """What the graphs of two versions show of the numbers that they hold."""

    NONE = ""
    """Nothing, or that they stand in one arrangement, or that they are others."""
    NUMBERS = "numbers"
    """The same numbers in another arrangement."""
    FUNCTION = "function"
    """That, and both compute the same but for the order of their sums."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelGraph:
    """What a sandboxed look at the model bytes found."""

    signature: Signature
    """Inputs and outputs."""
    features: tuple[str, ...]
    """Tensors computed from raw fields, declared by the version's metadata; may be empty."""
    fitted: tuple[str, ...]
    """Named tensors after fitted constants (imputed, scaled), declared by the metadata."""
    tensors: tuple[str, ...]
    """Every intermediate tensor's name in topological order."""
    vocabularies: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """For category codes: feature name → the words in code order, as the graph itself has them."""
    random_operators: tuple[str, ...] = ()
    """Operators whose output differs from run to run."""
    random_tensors: tuple[tuple[str, str], ...] = ()
    """(tensor, `operator → what it makes`) of all that is computed from such an operator, outputs included."""
    coarse: frozenset[str] = frozenset()
    """float64 tensors, outputs included, that float32 arithmetic is before: they carry float32's digits."""
    exact: frozenset[str] = frozenset()
    """Tensors, outputs included, that the graph shows nothing to round; nothing is known of the others."""
    handed_on: frozenset[str] = frozenset()
    """Tensors, outputs included, that hold values of the inputs as they came: moved and picked, no more."""
    smooth: frozenset[str] = frozenset()
    """Tensors, outputs included, that follow rounded sums without a jump: no step, comparison or tree between."""
    numbers: str = ""
    """Digest of all numbers that it holds, in whatever order and pieces; "" = not known."""
    arrangement: str = ""
    """Digest of its graph, names apart; "" = not known."""
    function: str = ""
    """Digest of what it computes, but for the order of its sums; "" = not known."""
    runtime: str = ""
    """The onnxruntime version that will run it."""
    training_cutoff_ns: int | None = None
    """Last instant whose data it was trained on, declared by the metadata; None when it is not."""

    def is_rearranged(self, other: ModelGraph) -> bool:
        """Whether both hold the same numbers, and not in the same graph."""
        same = bool(self.numbers) and self.numbers == other.numbers
        return same and self.arrangement != other.arrangement

    def is_same_function(self, other: ModelGraph) -> bool:
        """Whether both compute the same but for the order of their sums."""
        return bool(self.function) and self.function == other.function

    def rearrangement(self, other: ModelGraph, *, renamed: bool) -> Rearrangement:
        """What both graphs show of their numbers; where a name stands for another, no more than that they are the same."""
        if not self.is_rearranged(other):
            return Rearrangement.NONE
        proven = self.is_same_function(other) and not renamed
        return Rearrangement.FUNCTION if proven else Rearrangement.NUMBERS
