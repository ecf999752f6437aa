"""Before anything is replayed: pin both versions, look at their graphs, seal, select, draw the order.

What is fixed here goes into the run folder (`manifest.json`, `order.npz`, `policy.yaml`, the pinned
models), and both a fresh and a resumed run are read back from there: one path, so that a resumed
verdict cannot differ.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import sys
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.core.clock import iso, now_ns
from harness.core.errors import PolicyError, TrafficError, UsageError
from harness.core.jsonable import jsonable, sha256
from harness.core.models import ModelGraph, PinnedModel
from harness.core.policies import Mode, Policy, WindowName
from harness.core.tensors import Array, Floats, Ints, Strings
from harness.decide.policy import policy_from_yaml
from harness.judge.plan import WindowCounts
from harness.pipeline.environment import environment, package_version
from harness.pipeline.integrity import check_label_values, check_one_model, labels_json
from harness.pipeline.opening import Seen, graph_of, look_at
from harness.pipeline.progress import Listener, Progress
from harness.pipeline.request import GateRequest
from harness.pipeline.selection import (
    WindowSelection,
    matured,
    maturity_in_ns,
    needed_windows,
    newest,
)
from harness.replay.order import Batch, draw_order, schedule
from harness.resolve.digest import model_content
from harness.resolve.pin import pin
from harness.sandbox.answers import LoadFailure
from harness.sandbox.graphs import Looked
from harness.store.attempts import AttemptLedger
from harness.store.labels import JoinedLabels, join_labels, label_paths
from harness.store.runs import RunFolder
from harness.store.tables import open_traffic
from harness.store.windows import SealedWindow, WindowIndex, is_window

BATCH_REQUESTS = 1024
_FORMAT = 1
_PROBES = "probes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Everything a run needs before its first batch."""

    request: GateRequest
    """What was asked."""
    run: RunFolder
    """Where the run is written."""
    manifest: dict[str, Any]
    """As saved; the isolation is added when it is known."""
    policy: Policy
    """As parsed, with this attempt's error rates."""
    baseline: PinnedModel
    candidate: PinnedModel
    baseline_seen: Looked | LoadFailure
    candidate_seen: Looked | LoadFailure
    window: SealedWindow | None
    """None when a version does not load: then nothing is replayed."""
    batches: tuple[Batch, ...]
    """The schedule."""
    planning: tuple[Batch, ...]
    """First requests of each window's order that only plan the bets; no other batch holds them."""
    label: Floats
    """Label per storage position, NaN where none counts, shape (n,)."""
    counts: dict[str, WindowCounts]
    """Per needed window, what it holds besides the requests that plan."""
    seed: int
    attempt: int


def prepare(request: GateRequest, run: RunFolder, listener: Listener) -> Prepared:
    """Fixes everything a fresh run depends on.

    Raises:
      UsageError: policy, references, traffic or labels cannot be used; the run folder holds nothing
        worth keeping then.
    """
    text = _read_policy(request.policy)
    policy = policy_from_yaml(text, str(request.policy))
    listener(Progress(stage="resolve", done=0, total=0))
    models = run.path / "models"
    baseline = pin(request.baseline, models, registry_uri=request.registry_uri)
    candidate = pin(request.candidate, models, registry_uri=request.registry_uri)
    # Drawn now that the candidate's bytes are fixed, so that nobody could choose bytes for an order.
    seed = secrets.randbits(63)
    seen = look_at(
        (baseline, candidate), policy.sandbox, models / _PROBES,
        allow_weaker=request.allow_lower_isolation,
    )  # fmt: skip
    graphs = [graph_of(s) for s in seen]
    baseline, candidate = (
        _with_cutoff(m, g) for m, g in zip((baseline, candidate), graphs, strict=True)
    )
    lineage = lineage_of(baseline, candidate, policy)
    manifest: dict[str, Any] = {
        "format": _FORMAT,
        "run_id": run.path.name,
        "created_at": iso(now_ns()),
        "as_of": iso(request.as_of_ns),
        "command": " ".join(sys.argv) if Path(sys.argv[0]).name == "harness" else "Python API",
        "request": jsonable(request),
        "lineage": lineage,
        "seed": seed,
        "batch_requests": BATCH_REQUESTS,
        "harness_version": package_version(),
        "policy": {
            "digest": policy.digest, "preset": policy.preset.value, "mode": policy.mode.value,
            "claim": policy.claim.value, "approval": jsonable(policy.approval), "text": text,
        },
        "baseline": jsonable(baseline),
        "candidate": jsonable(candidate),
        "environment": environment(),
    }  # fmt: skip
    run.write_text("policy.yaml", text)
    if isinstance(graphs[0], ModelGraph) and isinstance(graphs[1], ModelGraph):
        _fix_traffic(
            request, policy, (baseline, candidate), graphs[0],
            run=run, manifest=manifest, listener=listener,
        )  # fmt: skip
    # The last thing before evidence can be seen: a run that is refused until here is no attempt.
    manifest["attempt_token"] = secrets.token_hex(8)
    manifest["attempt"] = AttemptLedger(request.state_dir, lineage).take(manifest["attempt_token"])
    run.write_json("manifest.json", manifest)
    return restore(run, seen)


def lineage_of(baseline: PinnedModel, candidate: PinnedModel, policy: Policy) -> dict[str, str]:
    """Digests that make two gates attempts at one question; advise looks at the same evidence."""
    enforced = replace(policy, mode=Mode.ENFORCE, digest="")
    return {
        "baseline": baseline.digest,
        "candidate": candidate.digest,
        "policy": sha256(enforced),
    }


def restore(run: RunFolder, seen: Seen | None = None) -> Prepared:
    """Reads a run's preparation back, from a fresh or an interrupted run alike.

    Args:
      run: the run folder.
      seen: what was just seen of both versions; None = look again.

    Raises:
      UsageError: something that the run depends on has changed.
    """
    manifest = run.read_json("manifest.json")
    request = GateRequest.from_json(manifest["request"])
    policy = _same_policy(run, manifest)
    baseline, candidate = (_pinned(manifest[role]) for role in ("baseline", "candidate"))
    if seen is None:
        seen = look_at(
            (baseline, candidate), policy.sandbox, run.path / "models" / _PROBES,
            allow_weaker=request.allow_lower_isolation,
        )  # fmt: skip
    seed = int(manifest["seed"])
    window: SealedWindow | None = None
    batches: tuple[Batch, ...] = ()
    planning: tuple[Batch, ...] = ()
    label: Floats = np.empty(0)
    counts: dict[str, WindowCounts] = {}
    if "window" in manifest:
        window = _window_of_run(manifest, request, seen[0])
        orders, label = _load_order(run, manifest["order_sha256"])
        n0, size = policy.windows.planning, int(manifest["batch_requests"])
        planning = tuple(schedule([(name, order[:n0]) for name, order in orders], size))
        orders = [(name, order[n0:]) for name, order in orders]
        batches = tuple(schedule(orders, size))
        counts = _window_counts(policy, window, dict(orders), manifest["selection"])
    return Prepared(
        request=request, run=run, manifest=manifest, policy=policy, baseline=baseline,
        candidate=candidate, baseline_seen=seen[0], candidate_seen=seen[1], window=window,
        batches=batches, planning=planning, label=label, counts=counts, seed=seed, attempt=int(manifest["attempt"]),
    )  # fmt: skip


def _window_of_run(
    manifest: dict[str, Any], request: GateRequest, baseline: Looked | LoadFailure
) -> SealedWindow:
    """The run's window; sealed again when the cache was cleared since.

    Raises:
      TrafficError: it is gone for good, or the traffic is no longer the same.
    """
    path = Path(manifest["window"]["path"])
    if is_window(path):
        window, whose = SealedWindow.open(path), "the sealed window is not the one of this run"
    else:
        window = _sealed_again(path, request, baseline)
        whose = "the sealed window is gone, and the traffic is not the one it was sealed from"
    if window.info.window_hash != manifest["window"]["window_hash"]:
        raise TrafficError(str(path), whose, "Put the traffic back as it was, or start a new run.")
    return window


def _sealed_again(gone: Path, request: GateRequest, baseline: Looked | LoadFailure) -> SealedWindow:
    remedy = "Put the traffic back as it was, or start a new run."
    if gone in request.traffic:
        raise TrafficError(str(gone), "the sealed window of this run is gone", remedy)
    specs = None if isinstance(baseline, LoadFailure) else baseline.graph.signature.inputs
    try:
        return open_traffic(request.traffic, request.cache_dir, specs)
    except TrafficError as error:
        raise TrafficError(
            str(gone),
            "the sealed window is gone, and its traffic cannot be sealed again "
            f"({error.where}: {error.what})",
            remedy,
        ) from error


def _read_policy(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            str(path), f"the policy cannot be read: {error}", "Give a YAML text file."
        ) from error


def _same_policy(run: RunFolder, manifest: dict[str, Any]) -> Policy:
    """The run's own copy of the policy; it must still mean the same."""
    path = run.path / "policy.yaml"
    policy = policy_from_yaml(_read_policy(path), str(path))
    if policy.digest != manifest["policy"]["digest"]:
        raise PolicyError(
            str(path), "is no longer the policy that this run was begun with", "Start a new run."
        )
    return policy


def _with_cutoff(model: PinnedModel, graph: ModelGraph | LoadFailure) -> PinnedModel:
    """The registry's word on the training cut-off comes first, the graph's own metadata second."""
    if model.training_cutoff_ns is not None or isinstance(graph, LoadFailure):
        return model
    return replace(model, training_cutoff_ns=graph.training_cutoff_ns)


def _pinned(content: dict[str, Any]) -> PinnedModel:
    """A pinned model from the manifest; its bytes must still be the same."""
    model = PinnedModel(
        **{
            **content,
            "path": Path(content["path"]),
            "external": tuple(content.get("external", ())),
            "requirements": tuple(content["requirements"]),
            "tags": tuple((k, v) for k, v in content["tags"]),
        }
    )
    found = model_content(model.path, model.requirements).digest
    if found != model.digest:
        raise UsageError(
            str(model.path), f"its digest is {found[:12]}, the run pinned {model.digest[:12]}",
            "The run folder was changed; start a new run.",
        )  # fmt: skip
    return model


def _fix_traffic(
    request: GateRequest,
    policy: Policy,
    models: tuple[PinnedModel, PinnedModel],
    graph: ModelGraph,
    *,
    run: RunFolder,
    manifest: dict[str, Any],
    listener: Listener,
) -> None:
    """Seals the traffic, selects the windows and draws their orders into the run folder."""

    def sealing(done: int, total: int) -> None:
        listener(Progress(stage="seal", done=done, total=total))

    window = open_traffic(request.traffic, request.cache_dir, graph.signature.inputs, sealing)
    check_one_model(window.info, ", ".join(str(path) for path in request.traffic))
    index = window.index()
    wanted = needed_windows(policy)
    label: Floats = np.full(window.info.count, np.nan)
    selections: list[WindowSelection] = []
    if WindowName.NEWEST.value in wanted:
        selections.append(newest(index.ts_ns, policy, request.as_of_ns))
    if WindowName.MATURED.value in wanted:
        joined = _joined_labels(request, policy, index)
        label, manifest["labels"] = joined.label, labels_json(joined)
        cutoffs = [(f"{m.name} {m.version}", m.training_cutoff_ns) for m in models]
        selection = matured(
            index.ts_ns, label, joined.late,
            policy=policy, as_of_ns=request.as_of_ns, cutoffs=cutoffs,
        )  # fmt: skip
        check_label_values(policy, joined, index, selection.selected)
        selections.append(selection)
    seed = int(manifest["seed"])
    orders = {
        s.name: draw_order(s.selected, seed=seed, window=s.name, limit=policy.windows.max_requests)
        for s in selections
    }
    manifest["window"] = {**jsonable(window.info), "path": str(window.path)}
    manifest["selection"] = {
        s.name: {
            "n": s.count, "eligible": s.eligible, "judged_at_most": len(orders[s.name]), "first_ts_ns": s.first_ts_ns,
            "last_ts_ns": s.last_ts_ns, "left_out": jsonable(s.left_out), "refusal": s.refusal,
        }
        for s in selections
    }  # fmt: skip
    with (run.path / "order.npz").open("wb") as file:
        np.savez(file, label=label, **orders)  # type: ignore[arg-type]
    manifest["order_sha256"] = _digests({"label": label, **orders})


def _joined_labels(request: GateRequest, policy: Policy, index: WindowIndex) -> JoinedLabels:
    """Labels by storage position, as known at --as-of and within the maturity."""
    files = [f for t in request.traffic for f in label_paths(t)] + list(request.labels)
    maturity_ns = maturity_in_ns(policy)
    return join_labels(
        files, index.ids(), index.ts_ns, maturity_ns=maturity_ns, as_of_ns=request.as_of_ns
    )


def _digests(arrays: dict[str, Array]) -> dict[str, str]:
    """sha256 (hex) of what decides which request is judged when, and by which label."""
    return {name: hashlib.sha256(a.data).hexdigest() for name, a in arrays.items()}


def _load_order(run: RunFolder, expected: dict[str, str]) -> tuple[list[tuple[str, Ints]], Floats]:
    """The windows' orders, newest first, and the labels; as they were drawn."""
    path = run.path / "order.npz"
    try:
        with np.load(path, allow_pickle=False) as saved:
            arrays: dict[str, Array] = dict(saved)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        raise UsageError(str(path), "the test order cannot be read", "Start a new run.") from None
    if _digests(arrays) != expected:
        raise UsageError(
            str(path), "is not the test order that this run was begun with", "Start a new run."
        )
    orders = [(str(w), arrays[w].astype(np.int64)) for w in WindowName if w in arrays]
    return orders, arrays["label"].astype(np.float64, copy=False)


def _window_counts(
    policy: Policy, window: SealedWindow, orders: dict[str, Ints], selection: dict[str, Any]
) -> dict[str, WindowCounts]:
    """What each window holds, in all and by the context columns that the policy names.

    Requests beyond max_requests still belong to the window that a claim can be about: the judged ones
    are a random draw from it. Those that planned the bets do not.
    """
    n0 = policy.windows.planning
    columns = {c for g in policy.guardrails for c in g.slice_by} | set(policy.windows.cover)
    index, recorded = window.index(), set(window.info.context)
    slices = {column: index.context(column) for column in sorted(columns & recorded)}
    return {
        name: WindowCounts(
            n=len(order),
            slices={c: _value_counts(codes[order], words) for c, (codes, words) in slices.items()},
            population=max(int(selection[name]["n"]) - n0, 0),
        )
        for name, order in orders.items()
    }


def _value_counts(codes: Array, words: Strings) -> dict[str, int]:
    counts = np.bincount(codes, minlength=len(words))
    return {word: int(n) for word, n in zip(words, counts, strict=True) if n}


def slug(text: str) -> str:
    """A reference as part of a folder name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text.removesuffix(".onnx")).strip("-.")[-60:] or "model"
