"""onnxruntime sessions with every option that can change a bit pinned; from 1.15 on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state

from harness.sandbox.child import external, nested

Array = npt.NDArray[Any]

PROVIDERS = ["CPUExecutionProvider"]
CONFIG_ENTRIES = {
    "session.intra_op.allow_spinning": "0",
    "session.inter_op.allow_spinning": "0",
    "session.set_denormal_as_zero": "0",
    # Left to guess, onnxruntime takes ONNX whose producer's name begins with ORTM for its own format.
    "session.load_model_format": "ONNX",
}
MAX_BUILD = 900
_ARRAY = {np.ndarray}
TEXT = "tensor(string)"
CAST_SUFFIX = "#float32"
"""A probed model returns tensor t as `t#float32` when numpy has no type for t."""
PACKED = "harness.packed"
"""Metadata of a probed model: {output: tensors of one length that it holds, one after the other}."""
MAPS = ("seq(map(int64,tensor(float)))", "seq(map(string,tensor(float)))")
NO_NUMPY_TYPE = "No corresponding Numpy type"
"""What the runtime says after a run whose output numpy has no type for (bfloat16, float8)."""
COMPARABLE = frozenset(
    f"tensor({name})"
    for name in (
        "bool",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "float16",
        "float",
        "double",
        "string",
    )
)
_ONE_NODE = bytes.fromhex(
    "080712003a410a100a017812017922084964656e746974791201775a140a0178120f0a0d080112090a0312014e0a0208"
    "0262140a0179120f0a0d080112090a0312014e0a02080242040a00100d"
)
"""y = Identity(x), float32 (N, 2)."""
_ONE_TEXT_NODE = bytes.fromhex(
    "080712003a390a100a017812017922084964656e746974791201775a100a0178120b0a09080812050a0312014e62100a"
    "0179120b0a09080812050a0312014e42040a00100d"
)
"""y = Identity(x), text (N)."""
# The binding's exceptions share no base class; a plain RuntimeError, ValueError or MemoryError comes too.
RUNTIME_ERRORS: tuple[type[Exception], ...] = (
    RuntimeError,
    ValueError,
    TypeError,
    MemoryError,
    *(
        kind
        for kind in vars(onnxruntime_pybind11_state).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ),
)


def session_options(optimise: bool) -> Any:  # noqa: ANN401 - onnxruntime has no types
    """Options of a session: one thread, sequential, explicit optimisation, nothing left to chance.

    Args:
      optimise: production's graph optimisation, or none at all.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    options.log_severity_level = 3
    for name, value in CONFIG_ENTRIES.items():
        options.add_session_config_entry(name, value)
    return options


def pinned() -> dict[str, str]:
    """The runtime's build and every option that is pinned, for the manifest."""
    build = getattr(onnxruntime, "get_build_info", None)
    options = session_options(optimise=True)
    return {
        "onnxruntime_build": str(build())[:MAX_BUILD] if build else "not told by this version",
        "session_options": (
            f"intra_op_num_threads={options.intra_op_num_threads}"
            f" inter_op_num_threads={options.inter_op_num_threads}"
            f" {options.execution_mode} verdict={options.graph_optimization_level}"
            f" trace={session_options(optimise=False).graph_optimization_level} "
            + " ".join(f"{name}={value}" for name, value in CONFIG_ENTRIES.items())
            + f" providers={','.join(PROVIDERS)}"
        ),
    }


def warm_up() -> None:
    """Runs a one-node model of ours: what is imported or allocated at first use is there afterwards.

    A process that waits for its model has this behind it, and it needs nothing after its lock.
    """
    session = open_session(_ONE_NODE, {}, optimise=True)
    session.run(["y"], {"x": np.zeros((1, 2), np.float32)})


def takes_bytes() -> bool:
    """Whether this runtime makes the same text of words' bytes (numpy's void) as of the words."""
    try:
        session = open_session(_ONE_TEXT_NODE, {}, optimise=True)
        (found,) = session.run(["y"], {"x": np.frombuffer(b"ab\0\0c ", "V3")})
    except RUNTIME_ERRORS:
        return False
    return bool(found.tolist() == ["ab\0", "\0c "])


def open_session(model: bytes, files: external.Files, *, optimise: bool) -> Any:  # noqa: ANN401
    """A session on model bytes.

    Args:
      model: serialised.
      files: external data that it may use.
      optimise: production's graph optimisation, or none at all.

    Raises:
      One of RUNTIME_ERRORS when the model does not load.
    """
    options = session_options(optimise)
    external.offer(options, model, files)
    return onnxruntime.InferenceSession(model, options, providers=PROVIDERS)


def described(arguments: Sequence[Any]) -> list[dict[str, Any]]:
    """Inputs or outputs of a session for a JSON header; symbolic dimensions become null."""
    return [
        {
            "name": a.name,
            "type": a.type,
            "shape": [d if isinstance(d, int) else None for d in (a.shape or [])],
        }
        for a in arguments
    ]


def matrix_from_maps(rows: Sequence[dict[Any, float]]) -> tuple[Array, list[str]]:
    """ZipMap's list of dicts as a float64 matrix (rows, classes) and the class names.

    A class that some row lacks is NaN there.
    """
    if not rows:
        return np.empty((0, 0), np.float64), []
    keys = list(rows[0])
    values: list[Any] = []
    try:
        # One class makes itemgetter return bare numbers: the reshape below does not mind.
        values = list(map(itemgetter(*keys), rows)) if keys else []
        ragged = any(len(r) != len(keys) for r in rows)
    except KeyError:
        ragged = True
    if ragged:
        keys = list(dict.fromkeys(k for r in rows for k in r))
        values = [tuple(r.get(k, float("nan")) for k in keys) for r in rows]
    matrix = np.array(values, np.float64).reshape(len(rows), len(keys))
    return matrix, [str(k) for k in keys]


class Returned(NamedTuple):
    """What a run returned, as arrays."""

    arrays: dict[str, Array]
    keys: dict[str, list[str]]
    """Class names of ZipMap tensors."""
    forms: dict[str, str]
    """Sequences and optionals: name → form, as `nested` has it."""
    leaves: list[Array]
    """Their tensors, one value after the other."""


class Features(NamedTuple):
    """Tensors that a probed model returned."""

    labels: list[tuple[str, ...]]
    """Of each block: whose values it holds, one after the other."""
    blocks: list[Array]

    def arrays(self) -> dict[str, Array]:
        """Each tensor by itself."""
        found: dict[str, Array] = {}
        for names, block in zip(self.labels, self.blocks, strict=True):
            parts = [block] if len(names) == 1 else block.reshape(len(names), -1)
            found |= zip(names, parts, strict=True)
        return found


def readable(kind: str) -> bool:
    """Whether a value of this type can be compared: a tensor, ZipMap's scores, or a nest of tensors."""
    return kind in COMPARABLE or kind in MAPS or nested.leaf_kind(kind) in COMPARABLE


class VerdictSession:
    """The model as production runs it."""

    def __init__(self, model: bytes, files: external.Files) -> None:
        self._session = open_session(model, files, optimise=True)
        self._outputs = self._session.get_outputs()
        self._wanted = {o.name: o.type for o in self._outputs if readable(o.type)}
        self.kinds = self._wanted
        """The outputs that can be compared, with onnxruntime's type names."""
        self._names = list(self._wanted)
        self._tensors_alone = all(kind in COMPARABLE for kind in self._wanted.values())
        texts = any(i.type == TEXT for i in self._session.get_inputs())
        self.takes_bytes = texts and takes_bytes()
        """Whether text may be given as bytes."""

    def signature(self) -> dict[str, Any]:
        """Inputs and outputs with onnxruntime's type names."""
        return {
            "inputs": described(self._session.get_inputs()),
            "outputs": described(self._outputs),
        }

    def run(self, feeds: dict[str, Array]) -> Returned:
        """Outputs that can be compared."""
        if not self._wanted:
            self._run_for_nothing(feeds)
            return Returned({}, {}, {}, [])
        answers = self._session.run(self._names, feeds)
        if self._tensors_alone and _ARRAY.issuperset(map(type, answers)):
            # Most models, each time: a small one runs in less time than the general way takes.
            return Returned(dict(zip(self._wanted, answers, strict=False)), {}, {}, [])
        return returned(self._wanted, answers)

    def _run_for_nothing(self, feeds: dict[str, Array]) -> None:
        """Runs a model that returns nothing comparable: whether it answers is asked all the same."""
        try:
            self._session.run(None, feeds)
        except RuntimeError as error:
            if NO_NUMPY_TYPE not in str(error):
                raise


class TraceSession:
    """The probed copy without graph optimisation: every named tensor is really computed."""

    def __init__(
        self, model: bytes, files: external.Files, tensors: Sequence[str], outputs: Sequence[str]
    ) -> None:
        self._session = open_session(model, files, optimise=False)
        found = {o.name: o.type for o in self._session.get_outputs()}
        # A sequence has no row per input row, which is what features are compared by.
        usable = {n for n, kind in found.items() if kind in COMPARABLE or kind in MAPS}
        packs = json.loads(self._session.get_modelmeta().custom_metadata_map.get(PACKED, "{}"))
        labels = {source: tuple(names) for source, names in packs.items() if source in usable}
        packed = {name for names in labels.values() for name in names}
        sources = {
            t: source for t in tensors for source in (t, t + CAST_SUFFIX)
            if source in {*usable, *packed}
        }  # fmt: skip
        self.missing = [t for t in tensors if t not in sources]
        names = {source: t for t, source in sources.items()}
        self._labels: dict[str, tuple[str, ...]] = {
            s: (names[s],) for s in sources.values() if s in usable
        }
        self._labels |= {p: tuple(names.get(s, s) for s in parts) for p, parts in labels.items()}
        self._outputs = [n for n in outputs if n in usable]
        self.kinds = {n: found[n] for n in self._outputs}
        """The outputs that it returns, with onnxruntime's type names."""
        self._wanted = {n: found[n] for n in (*self._labels, *self._outputs)}
        self._names = list(self._wanted) or None
        places = {name: at for at, name in enumerate(self._wanted)}
        self._blocks = [*self._labels.values()]
        self._output_places = [(n, places[n]) for n in self._outputs]
        self._packs = [(at, len(label)) for at, label in enumerate(self._blocks) if len(label) > 1]
        self._tensors_alone = all(kind in COMPARABLE for kind in self._wanted.values())

    def run(self, feeds: dict[str, Array]) -> tuple[Features, Returned]:
        """Named tensors, and the outputs as this session computes them."""
        answers = self._session.run(self._names, feeds)
        if self._wanted and self._tensors_alone and _ARRAY.issuperset(map(type, answers)):
            blocks = answers[: len(self._blocks)]
            for at, count in self._packs:
                if blocks[at].size % count:
                    msg = f"{blocks[at].size} values are not {count} tensors of one length"
                    raise ValueError(msg)
            seen = Returned({n: answers[at] for n, at in self._output_places}, {}, {}, [])
            return Features(self._blocks, blocks), seen
        seen = returned(self._wanted, answers if self._wanted else [])
        labels = {s: label for s, label in self._labels.items() if s in seen.arrays}
        outputs = {n: seen.arrays[n] for n in self._outputs if n in seen.arrays}
        keys = {n: names for n, names in seen.keys.items() if n in outputs}
        features = Features([*labels.values()], [seen.arrays[s] for s in labels])
        return features, Returned(outputs, keys, {}, [])


def returned(kinds: Mapping[str, str], answers: Sequence[Any]) -> Returned:
    """Return values of a run.

    Args:
      kinds: name → onnxruntime's type, in the order of the answers; each `readable`.
      answers: what the run returned.
    """
    arrays: dict[str, Array] = {}
    keys: dict[str, list[str]] = {}
    forms: dict[str, str] = {}
    leaves: list[Array] = []
    for (name, kind), answer in zip(kinds.items(), answers, strict=True):
        if kind in COMPARABLE:
            if isinstance(answer, np.ndarray):
                arrays[name] = answer
        elif kind in MAPS:
            arrays[name], keys[name] = matrix_from_maps(answer)
        else:
            forms[name], parts = nested.taken_apart(answer)
            leaves += parts
    return Returned(arrays, keys, forms, leaves)
