"""Copies of a graph made and run in this very process: thousands of our own small models in a minute.

The same code edits and runs them as in a sandboxed child, without the child: never for models of others,
whose bytes the parent does not parse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.tensors import Array, Nested
from harness.pipeline.graph_opening import Runner, Version
from harness.sandbox.graph_values import graph_from_description, pairs_from
from harness.sandbox.hello import LoadFailure
from harness.sandbox.nested_values import nested_from
from harness.sandbox.reordering import ORDERS
from harness.sandbox.tracing import Edit, Edited, Traced

if TYPE_CHECKING:
    import onnx

    from harness.sandbox.child.external import Files


@dataclass(slots=True)
class InProcess:
    """Makes and runs copies here; counts them, as each costs a process elsewhere."""

    edits: int = 0
    """Copies made."""
    starts: int = 0
    """Copies loaded."""

    def edited(self, version: Version, wanted: Edit, out: Path) -> Edited | LoadFailure:
        """As `sandbox.tracing.edit`; models with external data are not for this."""
        import json

        from harness.sandbox import graph_child
        from harness.sandbox.child import sessions

        self.edits += 1
        model = graph_child.parsed(version.model.read_bytes())
        asked = {**asdict(wanted), "taken": dict(wanted.taken)}
        try:
            answer, described, copy = graph_child.edited_model(model, _NO_FILES, asked)
        except sessions.RUNTIME_ERRORS as error:
            return LoadFailure(kind="load", message=str(error))
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(copy)
        return Edited(
            path=out,
            graph=graph_from_description(json.dumps(described).encode()),
            exposed=tuple(answer["exposed"]), cast=tuple(answer["cast"]),
            sketched=tuple(answer["sketched"]), fed=tuple(answer["fed"]),
            skipped=pairs_from(answer["skipped"]), branches=pairs_from(answer["branches"]),
            closed=pairs_from(answer["closed"]), left=pairs_from(answer["left"]), withheld=answer["withheld"],
        )  # fmt: skip

    def started(self, version: Version, copy: Edited) -> Runner | LoadFailure:  # noqa: ARG002 - as the protocol has it
        """As `sandbox.tracing.Tracer.start`."""
        from harness.sandbox.child import sessions

        self.starts += 1
        try:
            session = sessions.open_session(copy.path.read_bytes(), _NO_FILES, optimise=False)
        except sessions.RUNTIME_ERRORS as error:
            return LoadFailure(kind="load", message=str(error))
        return _Session(session)

    def reordered(
        self,
        version: Version,  # noqa: ARG002 - as the protocol has it
        copy: Edited,
        folder: Path,
    ) -> tuple[Path, ...] | LoadFailure:
        """As `sandbox.reordering.reordered`."""
        from harness.sandbox.graph_child import parsed, reordered_model

        model = parsed(copy.path.read_bytes())
        found = []
        for place, order in enumerate(ORDERS):
            answer, content = reordered_model(model, **asdict(order), returned=True)
            if answer["sums"]:
                found.append(folder / f"{copy.path.stem}.order-{place}.onnx")
                found[-1].write_bytes(content)
        return tuple(found)


def is_rearranged(before: onnx.ModelProto, after: onnx.ModelProto) -> bool:
    """As `ModelGraph.is_rearranged`."""
    from harness.sandbox.graph_child import numbers_of

    ours, theirs = (numbers_of(model, _NO_FILES) for model in (before, after))
    same = bool(ours["numbers"]) and ours["numbers"] == theirs["numbers"]
    return same and ours["arrangement"] != theirs["arrangement"]


_NO_FILES: Files = {}


class _Session:
    """A loaded copy."""

    def __init__(self, session: Any) -> None:  # noqa: ANN401 - onnxruntime has no types
        from harness.sandbox.child import sessions

        self._session = session
        self._inputs = {i.name for i in session.get_inputs()}
        kinds = {o.name: o.type for o in session.get_outputs()}
        self._kinds = {n: kind for n, kind in kinds.items() if sessions.readable(kind)}
        self.tensors = tuple(self._kinds)

    def run(self, feeds: Mapping[str, Array | Nested], wanted: Sequence[str]) -> Traced:
        from harness.sandbox.child import sessions

        kinds = {n: self._kinds[n] for n in wanted if n in self._kinds}
        fed = {
            n: list(a.leaves) if isinstance(a, Nested) else a
            for n, a in feeds.items()
            if n in self._inputs
        }
        try:
            values = self._session.run(list(kinds), fed) if kinds else []
        except sessions.RUNTIME_ERRORS as error:
            return Traced(tensors={}, keys={}, failure=str(error))
        found = sessions.returned(kinds, values)
        return Traced(
            tensors=found.arrays,
            keys={n: tuple(k) for n, k in found.keys.items()},
            nested=nested_from(tuple(found.forms.items()), found.leaves),
        )

    def close(self) -> None:
        self._session = None

    def __enter__(self) -> _Session:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()
