"""The run's traffic: sealed, selected into windows, and their orders drawn into the run folder.

What an earlier attempt judged, where its evidence goes on, is left out of the drawn order.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from harness.core.errors import UsageError
from harness.core.jsonable import jsonable
from harness.core.models import ModelGraph, PinnedModel
from harness.core.policies import Policy, WindowName
from harness.core.tensors import Array, Bools, Floats, Ints, Strings
from harness.judge.plan import WindowCounts
from harness.pipeline.again import Past
from harness.pipeline.carried import Carried, made_up, read_used, unplanned_values, write_used
from harness.pipeline.gate_units import (
    check_units,
    planning_requests,
    unit_codes,
    unit_ends,
)
from harness.pipeline.integrity import check_label_values, check_one_model, labels_json
from harness.pipeline.progress import Listener, Progress
from harness.pipeline.request import GateRequest
from harness.pipeline.selection import (
    WindowSelection,
    matured,
    maturity_in_ns,
    needed_windows,
    newest,
)
from harness.replay.order import draw_units, drawn_parts
from harness.store.labels import JoinedLabels, join_labels, label_paths
from harness.store.orders import (
    Drawn,
    Order,
    StoredOrder,
    pieces,
    positions_in,
    read_orders,
    write_orders,
)
from harness.store.runs import RunFolder
from harness.store.tables import open_traffic
from harness.store.windows import SealedWindow, WindowIndex

ORDER_FILE = "order.npz"


def fix_traffic(
    request: GateRequest,
    policy: Policy,
    models: tuple[PinnedModel, ...],
    graph: ModelGraph,
    *,
    run: RunFolder,
    manifest: dict[str, Any],
    past: Past,
    listener: Listener,
) -> Past:
    """Seals the traffic, selects the windows and draws their orders into the run folder.

    Returns:
      What the earlier attempts mean, now that it is known whether their tests fit this traffic.
    """

    def sealing(done: int, total: int) -> None:
        listener(Progress(stage="seal", done=done, total=total))

    window = open_traffic(request.traffic, request.cache_dir, graph.signature.inputs, sealing)
    check_one_model(window.info, ", ".join(str(path) for path in request.traffic))
    index = window.index()
    wanted = needed_windows(policy)
    label: Floats = np.empty(0)
    selections: list[WindowSelection] = []
    if WindowName.NEWEST.value in wanted:
        selections.append(newest(index.ts_parts, len(index), policy, request.as_of_ns))
    if WindowName.MATURED.value in wanted:
        ts_ns = index.ts_ns()
        joined = _joined_labels(request, policy, index, ts_ns)
        label, manifest["labels"] = joined.label, labels_json(joined)
        cutoffs = [(f"{m.name} {m.version}", m.training_cutoff_ns) for m in models]
        selection = matured(
            ts_ns, label, joined.late,
            policy=policy, as_of_ns=request.as_of_ns, cutoffs=cutoffs,
        )  # fmt: skip
        check_label_values(policy, joined, index, selection.selected)
        selections.append(selection)
        del ts_ns  # it is as long as the window
    unit = unit_codes(policy, window)
    if unit is not None:
        check_units(policy, window, unit, {s.name: s.selected for s in selections})
    past = _fitting(past, policy, window, selections, unit)
    used = {s.name: _positions(index, past.used.get(s.name, {})) for s in selections}
    drawn = {
        s.name: _drawn(policy, s, used[s.name], unit, int(manifest["seed"])) for s in selections
    }
    path = run.path / ORDER_FILE
    manifest["order_sha256"] = write_orders(path, label, drawn)
    _, orders, _ = read_orders(path)
    _plan_once(run, manifest, policy, window, orders, past, unit=unit)
    manifest["window"] = {**jsonable(window.info), "path": str(window.path)}
    manifest["selection"] = {
        s.name: {
            "n": s.count, "eligible": s.eligible, "judged_at_most": len(orders[s.name]), "first_ts_ns": s.first_ts_ns,
            "last_ts_ns": s.last_ts_ns, "left_out": jsonable(s.left_out), "refusal": s.refusal,
            "gone": len(past.used.get(s.name, {})) - int(np.count_nonzero(used[s.name])),
            **({} if unit is None else {"units": len(np.unique(unit[s.selected]))}),
        }
        for s in selections
    }  # fmt: skip
    return past


def _fitting(
    past: Past,
    policy: Policy,
    window: SealedWindow,
    selections: Sequence[WindowSelection],
    unit: Ints | None,
) -> Past:
    """The earlier attempts, paid for where this traffic cannot go on from their evidence."""
    if past.carried is None:
        return past
    if unit is not None:
        return past.paid(f"units of {policy.unit} may go on in new requests, and count once")
    if made_up(past.used) or made_up({"": window.index().request_ids()}):
        return past.paid("the requests have no recorded ids, so nobody knows which were judged")
    if any(_others(window.index(), found) for found in past.used.values()):
        return past.paid("ids of judged requests name requests of another time here")
    here = {s.name: np.flatnonzero(s.selected) for s in selections}
    sizes = {s.name: {"n": s.count} for s in selections}
    unknown = unplanned_values(
        past.carried, policy, _window_counts(policy, window, here, sizes, unit)
    )
    return past.paid(unknown) if unknown else past


def _drawn(
    policy: Policy, selection: WindowSelection, used: Bools, unit: Ints | None, seed: int
) -> Drawn:
    """The test order of a window: by request, or unit by unit."""
    limit, name = policy.windows.max_requests, selection.name
    chosen = selection.selected & ~used if used.any() else selection.selected
    if unit is None:
        count = min(int(np.count_nonzero(chosen)), limit)
        parts = drawn_parts(chosen, seed=seed, window=name, limit=limit)
        return Drawn(count=count, parts=parts)
    order = draw_units(chosen, unit, seed=seed, window=name, limit=limit)
    return Drawn(count=len(order), parts=[order])


def _positions(index: WindowIndex, used: dict[str, int]) -> Bools:
    """Which storage positions hold these requests, shape (n,)."""
    if not used:
        return np.broadcast_to(np.False_, len(index))
    found: Bools = np.zeros(len(index), np.bool_)
    at = index.ids().lookup(np.array(list(used), object))
    found[at[at >= 0]] = True
    return found


def _others(index: WindowIndex, used: dict[str, int]) -> bool:
    """Whether an id names a request that arrived at another time: a counter that began anew."""
    if not used:
        return False
    at = index.ids().lookup(np.array(list(used), object))
    then = np.fromiter(used.values(), np.int64, len(used))
    here = at >= 0
    return bool((index.ts_ns()[at[here]] != then[here]).any())


def _plan_once(
    run: RunFolder,
    manifest: dict[str, Any],
    policy: Policy,
    window: SealedWindow,
    orders: dict[str, StoredOrder],
    past: Past,
    *,
    unit: Ints | None,
) -> None:
    """Writes down what the tests are planned with, and which requests no later attempt may judge."""
    if past.carried is not None:
        manifest["planned_with"] = {"sizes": past.carried.sizes, "slices": past.carried.slices}
        write_used(run, past.used)
        return
    n0 = {name: planning_requests(policy, order, unit) for name, order in orders.items()}
    rest = {name: order[n0[name] :] for name, order in orders.items()}
    counts = _window_counts(policy, window, rest, {name: {"n": 0} for name in rest}, unit)
    sliced = {column for g in policy.guardrails for column in g.slice_by}
    manifest["planned_with"] = {
        "sizes": {name: found.n for name, found in counts.items()},
        "slices": {
            name: {column: values for column, values in found.slices.items() if column in sliced}
            for name, found in counts.items()
        },
    }
    if any(n0.values()):
        ids, ts_ns = window.index().request_ids(), window.index().ts_ns()
        first = {name: order[: n0[name]].read() for name, order in orders.items()}
        write_used(
            run,
            {
                name: dict(zip(ids[at].tolist(), ts_ns[at].tolist(), strict=True))
                for name, at in first.items()
            },
        )


def _joined_labels(
    request: GateRequest, policy: Policy, index: WindowIndex, ts_ns: Ints
) -> JoinedLabels:
    """Labels by storage position, as known at --as-of and within the maturity."""
    files = [f for t in request.traffic for f in label_paths(t)] + list(request.labels)
    maturity_ns = maturity_in_ns(policy)
    return join_labels(
        files, index.ids(), ts_ns, maturity_ns=maturity_ns, as_of_ns=request.as_of_ns
    )


def load_order(
    run: RunFolder, expected: dict[str, str], count: int
) -> tuple[list[tuple[str, StoredOrder]], Floats]:
    """The windows' orders, newest first, and the labels by storage position; as they were drawn.

    Args:
      run: the run folder.
      expected: digests from the manifest.
      count: requests in the sealed window.

    Raises:
      UsageError: they are not those of this run.
    """
    path = run.path / ORDER_FILE
    try:
        label, stored, digests = read_orders(path)
    except (OSError, ValueError, KeyError, EOFError, struct.error, zipfile.BadZipFile):
        raise UsageError(str(path), "the test order cannot be read", "Start a new run.") from None
    if digests != expected:
        raise UsageError(
            str(path), "is not the test order that this run was begun with", "Start a new run."
        )
    orders = [(str(w), stored[w]) for w in WindowName if w in stored]
    if not len(label):  # no window reads labels
        label = np.broadcast_to(np.float64(np.nan), count)
    return orders, label


def counts_of_run(
    run: RunFolder,
    policy: Policy,
    window: SealedWindow,
    orders: dict[str, StoredOrder],
    selection: dict[str, Any],
    carried: Carried | None,
    *,
    unit: Ints | None,
) -> dict[str, WindowCounts]:
    """What there is for the tests: requests or units to judge, and those that an earlier attempt judged."""
    if carried is None:
        return _window_counts(policy, window, orders, selection, unit)
    index, used = window.index(), read_used(run)
    here = {w: np.flatnonzero(_positions(index, used.get(w, {}))) for w in orders}
    all_ = {w: np.concatenate([order.read(), here[w]]) for w, order in orders.items()}
    counts = _window_counts(policy, window, all_, selection, None)
    return {
        w: replace(counts[w], n=len(order) + carried.judged.get(w, 0))
        for w, order in orders.items()
    }


def _window_counts(
    policy: Policy,
    window: SealedWindow,
    orders: Mapping[str, Order],
    selection: dict[str, Any],
    unit: Ints | None,
) -> dict[str, WindowCounts]:
    """What each window holds, in all and by the context columns that the policy names.

    Requests beyond max_requests still belong to the window that a claim can be about: the judged ones
    are a random draw from it. Those that planned the bets are
    part of it, too.
    """
    columns = {c for g in policy.guardrails for c in g.slice_by} | set(policy.windows.cover)
    index, recorded = window.index(), set(window.info.context)
    slices = {column: index.context(column) for column in sorted(columns & recorded)}
    if unit is not None:
        # One request stands for its unit: a unit has one value of each slice.
        whole = {name: positions_in(order) for name, order in orders.items()}
        orders = {name: order[unit_ends(order, unit) - 1] for name, order in whole.items()}
    return {
        name: WindowCounts(
            n=len(order),
            slices={c: _value_counts(codes, order, words) for c, (codes, words) in slices.items()},
            population=int(selection[name].get("units", selection[name]["n"])),
        )
        for name, order in orders.items()
    }


def _value_counts(codes: Array, order: Order, words: Strings) -> dict[str, int]:
    counts = np.zeros(len(words), np.int64)
    for positions in pieces(order):
        counts += np.bincount(codes[positions], minlength=len(words))
    return {word: int(n) for word, n in zip(words, counts, strict=True) if n}
