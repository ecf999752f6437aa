"""Before anything is replayed: pin both versions, look at their graphs, seal, select, draw the order.

What is fixed here goes into the run folder (`manifest.json`, `order.npz`, `policy.yaml`, the pinned
models), and both a fresh and a resumed run are read back from there: one path, so that a resumed
verdict cannot differ.
"""

from __future__ import annotations

import re
import secrets
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.core.clock import iso, now_ns
from harness.core.errors import PolicyError, TrafficError, UsageError
from harness.core.jsonable import jsonable, sha256
from harness.core.models import ModelGraph, PinnedModel
from harness.core.policies import Mode, Policy
from harness.core.tensors import Floats, Signature
from harness.decide.policy import policy_from_yaml
from harness.diff.signature import declared_by_either
from harness.judge.plan import WindowCounts
from harness.pipeline.again import Past, past_of
from harness.pipeline.carried import CARRIED_FILE, Carried
from harness.pipeline.environment import environment, package_version
from harness.pipeline.gate_units import GateUnits, planning_requests, unit_codes
from harness.pipeline.opening import Seen, graph_of, look_at
from harness.pipeline.progress import Listener, Progress
from harness.pipeline.read_back import read_back
from harness.pipeline.request import GateRequest
from harness.pipeline.run_traffic import fix_traffic, load_order, window_counts
from harness.pipeline.runtimes import Runtimes, check_same, runtimes, saved_runtimes
from harness.replay.order import Batch, schedule
from harness.resolve.digest import model_content
from harness.resolve.pin import pin
from harness.sandbox.graphs import Looked
from harness.sandbox.hello import LoadFailure
from harness.sandbox.pool import Pool
from harness.store.attempts import AttemptLedger
from harness.store.orders import StoredOrder
from harness.store.runs import RunFolder
from harness.store.tables import open_traffic
from harness.store.windows import SealedWindow, is_window

BATCH_REQUESTS = 1024
_FORMAT = 6
"""Of the manifest and of what checkpoints keep: a run is gone on with only by what began it."""
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
    runtimes: Runtimes
    """What both run in."""
    window: SealedWindow | None
    """None when a version does not load: then nothing is replayed."""
    orders: tuple[tuple[str, StoredOrder], ...]
    """(window, what is judged of it in test order), newest first."""
    batches: Sequence[Batch]
    """The schedule."""
    planning: Sequence[Batch]
    """First requests of each window's order that only plan the bets; no other batch holds them."""
    label: Floats
    """Label per storage position, NaN where none counts, shape (n,)."""
    counts: dict[str, WindowCounts]
    """Per needed window, what there is to judge, the requests that plan left out; units where the policy
    has some. What an earlier attempt judged is in `carried`."""
    units: GateUnits | None
    """What counts once; None = each request."""
    seed: int
    attempt: int
    level: int
    """r of the error rates α·2^(1−r)."""
    carried: Carried | None
    """Evidence of an earlier attempt that this run goes on from."""
    anchor: PinnedModel | None
    """The version that guardrails `against: anchor` compare with."""
    anchor_seen: Looked | LoadFailure | None


def prepare(request: GateRequest, run: RunFolder, listener: Listener, pool: Pool) -> Prepared:
    """Fixes everything a fresh run depends on.

    Args:
      request: what was asked.
      run: where the run is written.
      listener: hears progress.
      pool: gets the processes of the legs, which start while the traffic is sealed.

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
    anchors = [pin(r, models, registry_uri=request.registry_uri) for r in _anchor(request, policy)]
    # Drawn now that the candidate's bytes are fixed, so that nobody could choose bytes for an order.
    seed = secrets.randbits(63)
    found = runtimes((baseline, candidate, *anchors), listener)
    listener(Progress(stage="load", done=0, total=0, note="loading both versions"))
    seen = look_at(
        (baseline, candidate, *anchors), policy.sandbox, models / _PROBES,
        [r.python for r in found],
        mapping=policy.mapping, allow_weaker=request.allow_lower_isolation,
    )  # fmt: skip
    graphs = [graph_of(s) for s in seen]
    baseline, candidate, *anchors = (
        _with_cutoff(m, g) for m, g in zip((baseline, candidate, *anchors), graphs, strict=True)
    )
    lineage = lineage_of(baseline, candidate, policy)
    if anchors:
        lineage["anchor"] = anchors[0].digest
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
        "runtimes": saved_runtimes(found),
    }  # fmt: skip
    if anchors:
        manifest["anchor"] = jsonable(anchors[0])
    run.write_text("policy.yaml", text)
    ledger = AttemptLedger(request.state_dir, lineage)
    past = past_of(ledger.before(), policy, lineage)
    if isinstance(graphs[0], ModelGraph) and isinstance(graphs[1], ModelGraph):
        if not baseline.external and not candidate.external:
            _begin_legs(pool, found, policy.sandbox.memory_bytes)
        past = fix_traffic(
            request, policy, (baseline, candidate, *anchors), _taken(seen, policy),
            run=run, manifest=manifest, past=past, listener=listener,
        )  # fmt: skip
    _take_attempt(run, manifest, ledger, past)
    return restore(run, listener, (seen, found))


def _anchor(request: GateRequest, policy: Policy) -> list[str]:
    """The policy's anchor as a reference; a path is relative to the policy's file. None or one."""
    if not policy.anchor or policy.anchor.startswith("models:/"):
        return [policy.anchor] if policy.anchor else []
    return [str((request.policy.parent / policy.anchor).resolve())]


def _begin_legs(pool: Pool, found: Runtimes, memory_bytes: int) -> None:
    """Starts the processes of the legs: the baseline, the baseline again, the candidate, the anchor."""
    baseline = found[0].python
    for python, count in Counter((baseline, *(r.python for r in found))).items():
        pool.begin(count, memory_bytes, python=python)


def _take_attempt(
    run: RunFolder, manifest: dict[str, Any], ledger: AttemptLedger, past: Past
) -> None:
    """The last thing before evidence can be seen: a run that is refused until here is no attempt."""
    taken = ledger.take(secrets.token_hex(8), run.path, past.token)
    if past.token and not taken.resumes:
        past = past.paid("another run has gone on from that evidence meanwhile")
    manifest["attempt_token"], manifest["attempt"] = taken.token, taken.number
    manifest["level"], manifest["again"] = taken.level, past.told()
    manifest["questions"] = ledger.questions()
    if past.carried is not None:
        manifest["planning"] = past.carried.planning
        manifest["carried_sha256"] = sha256(past.carried)
        run.write_json(CARRIED_FILE, past.carried)
    run.write_json("manifest.json", manifest)


def lineage_of(baseline: PinnedModel, candidate: PinnedModel, policy: Policy) -> dict[str, str]:
    """Digests that make two gates attempts at one question; advise looks at the same evidence."""
    enforced = replace(policy, mode=Mode.ENFORCE, digest="")
    return {
        "baseline": baseline.digest,
        "candidate": candidate.digest,
        "policy": sha256(enforced),
    }


def restore(
    run: RunFolder, listener: Listener, at_hand: tuple[Seen, Runtimes] | None = None
) -> Prepared:
    """Reads a run's preparation back, from a fresh or an interrupted run alike.

    Args:
      run: the run folder.
      listener: hears progress.
      at_hand: what was just seen of both versions, and what they run in; None = look again.

    Raises:
      UsageError: something that the run depends on has changed.
    """
    manifest = run.read_json("manifest.json")
    with read_back(run.path, "manifest.json"):
        _check_version(manifest)
        request = GateRequest.from_json(manifest["request"])
        policy = _same_policy(run, manifest)
        baseline, candidate = (_pinned(manifest[role]) for role in ("baseline", "candidate"))
        anchor = _pinned(manifest["anchor"]) if "anchor" in manifest else None
        seed, attempt = int(manifest["seed"]), int(manifest["attempt"])
        carried = _carried(run, manifest)
    if at_hand is None:
        models = (baseline, candidate, *([anchor] if anchor else []))
        found = runtimes(models, listener)
        with read_back(run.path, "manifest.json"):
            check_same(found, manifest)
        seen = look_at(
            models, policy.sandbox, run.path / "models" / _PROBES,
            [r.python for r in found],
            mapping=policy.mapping, allow_weaker=request.allow_lower_isolation,
        )  # fmt: skip
    else:
        seen, found = at_hand
    window: SealedWindow | None = None
    orders: list[tuple[str, StoredOrder]] = []
    batches: Sequence[Batch] = ()
    planning: Sequence[Batch] = ()
    label: Floats = np.empty(0)
    counts: dict[str, WindowCounts] = {}
    units: GateUnits | None = None
    if "window" in manifest:
        with read_back(run.path, "window"):
            window = _window_of_run(manifest, request, _taken(seen, policy))
        with read_back(run.path, "order of the requests"):
            orders, label = load_order(run, manifest["order_sha256"], len(window))
            size, selection = int(manifest["batch_requests"]), manifest["selection"]
        unit = unit_codes(policy, window)
        units = None if unit is None else GateUnits.of(unit, dict(orders))
        n0 = {w: 0 if carried else planning_requests(policy, order, unit) for w, order in orders}
        planning = schedule([(name, order[: n0[name]]) for name, order in orders], size)
        orders = [(name, order[n0[name] :]) for name, order in orders]
        batches = schedule(orders, size)
        counts = window_counts(policy, window, dict(orders), selection, unit)
    return Prepared(
        request=request, run=run, manifest=manifest, policy=policy, baseline=baseline,
        candidate=candidate, baseline_seen=seen[0], candidate_seen=seen[1], runtimes=found, window=window,
        orders=tuple(orders), batches=batches, planning=planning, label=label, counts=counts, units=units, seed=seed, attempt=attempt,
        level=int(manifest.get("level", manifest["attempt"])), carried=carried,
        anchor=anchor, anchor_seen=seen[2] if anchor else None,
    )  # fmt: skip


def _check_version(manifest: dict[str, Any]) -> None:
    """Other code may measure otherwise: evidence of two versions is not to be mixed."""
    before = (manifest["format"], manifest["harness_version"])
    now = (_FORMAT, package_version())
    if before != now:
        msg = "it was begun by harness {} (format {}), and this is {} (format {})"
        raise ValueError(msg.format(*before[::-1], *now[::-1]))


def _carried(run: RunFolder, manifest: dict[str, Any]) -> Carried | None:
    """The evidence that the run goes on from; None when it starts anew."""
    if "carried_sha256" not in manifest:
        return None
    content = run.read_json(CARRIED_FILE)
    if sha256(content) != manifest["carried_sha256"]:
        raise UsageError(
            str(run.path / CARRIED_FILE),
            "is not the evidence that this run was begun with",
            "Start a new run.",
        )
    return Carried.from_json(content)


def _taken(seen: Seen, policy: Policy) -> Signature | None:
    """What the versions take; None where one does not load."""
    old, new = (graph_of(one) for one in seen[:2])
    if isinstance(old, LoadFailure) or isinstance(new, LoadFailure):
        return None
    return declared_by_either(old.signature, new.signature, policy.mapping)


def _window_of_run(
    manifest: dict[str, Any], request: GateRequest, taken: Signature | None
) -> SealedWindow:
    """The run's window; sealed again when the cache was cleared since.

    Raises:
      TrafficError: it is gone for good, or the traffic is no longer the same.
    """
    path = Path(manifest["window"]["path"])
    if is_window(path):
        window, whose = SealedWindow.open(path), "the sealed window is not the one of this run"
    else:
        window = _sealed_again(path, request, taken)
        whose = "the sealed window is gone, and the traffic is not the one it was sealed from"
    if window.info.window_hash != manifest["window"]["window_hash"]:
        raise TrafficError(str(path), whose, "Put the traffic back as it was, or start a new run.")
    return window


def _sealed_again(gone: Path, request: GateRequest, taken: Signature | None) -> SealedWindow:
    remedy = "Put the traffic back as it was, or start a new run."
    if gone in request.traffic:
        raise TrafficError(str(gone), "the sealed window of this run is gone", remedy)
    try:
        return open_traffic(request.traffic, request.cache_dir, taken)
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
            "not_followed": tuple(content.get("not_followed", ())),
            "tags": tuple((k, v) for k, v in content["tags"]),
            "golden": Path(content["golden"]) if content.get("golden") else None,
        }
    )
    found = model_content(model.path, model.requirements).digest
    if found != model.digest:
        raise UsageError(
            str(model.path), f"its digest is {found[:12]}, the run pinned {model.digest[:12]}",
            "The run folder was changed; start a new run.",
        )  # fmt: skip
    return model


def slug(text: str) -> str:
    """A reference as part of a folder name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text.removesuffix(".onnx")).strip("-.")[-60:] or "model"
