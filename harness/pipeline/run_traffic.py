"""The run's traffic: sealed, selected into windows, and their orders drawn into the run folder.

What an earlier attempt judged, where its evidence goes on, is left out of the drawn order.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harness.core.errors import UsageError
from harness.core.jsonable import jsonable
from harness.core.models import PinnedModel
from harness.core.policies import Policy, WindowName
from harness.core.tensors import Array, Bools, Floats, Ints, Signature, Strings
from harness.judge.plan import WindowCounts
from harness.pipeline.again import Past
from harness.pipeline.carried import Carried, made_up, misfit, write_used
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
from harness.store.label_joins import JoinedLabels, join_labels
from harness.store.label_rows import label_paths
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
    taken: Signature | None,
    *,
    run: RunFolder,
    manifest: dict[str, Any],
    past: Past,
    listener: Listener,
) -> Past:
    """Seals the traffic, selects the windows and draws their orders into the run folder.

    Args:
      request: what was asked.
      policy: as parsed.
      models: every version.
      taken: what the versions take, for tables of inputs; None = not known.
      run: where the order is written.
      manifest: what is fixed is added to it.
      past: earlier attempts.
      listener: hears progress.

    Returns:
      What the earlier attempts mean, now that it is known whether their tests fit this traffic.
    """

    def sealing(done: int, total: int) -> None:
        listener(Progress(stage="seal", done=done, total=total))

    window = open_traffic(request.traffic, request.cache_dir, taken, sealing)
    check_one_model(window.info, ", ".join(str(path) for path in request.traffic))
    index, rows = window.index(), taken.batch_rows if taken else 0
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
    past = _ordered(run, manifest, policy, window, selections, label=label, past=past, unit=unit)
    orders = read_orders(run.path / ORDER_FILE)[1]
    _put_aside(run, policy, window, orders, past, unit=unit)
    manifest["window"] = {
        **jsonable(window.info), "path": str(window.path), "without_rows": index.without_rows(),
        "batch_rows": rows, "of_other_rows": index.of_other_rows(rows) if rows else 0,
    }  # fmt: skip
    manifest["selection"] = {
        s.name: {
            "n": s.count, "eligible": s.eligible, "judged_at_most": len(orders[s.name]),
            **span(s, past.carried), "left_out": jsonable(s.left_out), "refusal": s.refusal,
            "gone": _gone(index, past.used.get(s.name, {})),
            **({} if unit is None else {"units": len(np.unique(unit[s.selected]))}),
        }
        for s in selections
    }  # fmt: skip
    return past


def _ordered(
    run: RunFolder,
    manifest: dict[str, Any],
    policy: Policy,
    window: SealedWindow,
    selections: Sequence[WindowSelection],
    *,
    label: Floats,
    past: Past,
    unit: Ints | None,
) -> Past:
    """Draws the orders: what was not judged before, or all where that evidence cannot be gone on from."""
    index, path = window.index(), run.path / ORDER_FILE

    def draw(past: Past) -> None:
        drawn = {
            s.name: _drawn(
                policy, s, _positions(index, past.used.get(s.name, {})), unit, manifest["seed"]
            )
            for s in selections
        }
        manifest["order_sha256"] = write_orders(path, label, drawn)

    past = _fitting(past, policy, window)
    draw(past)
    if past.carried is None:
        return past
    sizes = {s.name: {"n": s.count} for s in selections}
    fresh = window_counts(policy, window, read_orders(path)[1], sizes, unit)
    why = misfit(past.carried, policy, fresh)
    if why:
        past = past.paid(why)
        draw(past)
    return past


def span(selection: WindowSelection, carried: Carried | None) -> dict[str, int]:
    """When the first and the last request arrived, those that an earlier attempt judged among them."""
    spans = [[selection.first_ts_ns, selection.last_ts_ns]] if selection.count else []
    if carried is not None and selection.name in carried.spans:
        spans.append(carried.spans[selection.name])
    return {
        "first_ts_ns": min((first for first, _ in spans), default=0),
        "last_ts_ns": max((last for _, last in spans), default=0),
    }


def _gone(index: WindowIndex, used: dict[str, int]) -> int:
    """Requests that may not be judged again and are no longer in the traffic."""
    return len(used) - int(np.count_nonzero(_positions(index, used)))


def _fitting(past: Past, policy: Policy, window: SealedWindow) -> Past:
    """The earlier attempts, paid for where nobody knows which of these requests they judged."""
    if past.carried is None:
        return past
    if policy.unit:
        return past.paid(f"units of {policy.unit} may go on in new requests, and count once")
    index = window.index()
    if made_up(past.used) or made_up({"": index.request_ids()}):
        return past.paid("the requests have no recorded ids, so nobody knows which were judged")
    same = window.info.window_hash == past.carried.window_hash
    for found in past.used.values():
        then, now = _met_again(index, found)
        if (then != now).any():
            return past.paid("ids of judged requests name requests of another time here")
        if not same and (then == 0).any():
            return past.paid(
                "ids of judged requests are here again without a recorded time, so nobody knows "
                "whether they name the same requests"
            )
    return past


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


def _met_again(index: WindowIndex, used: dict[str, int]) -> tuple[Ints, Ints]:
    """When requests whose ids are here, too, arrived then and now; 0 = no recorded time, shape (k,).

    A counter that began anew gives another request an id that was judged.
    """
    then = np.fromiter(used.values(), np.int64, len(used))
    if not used:
        return then, then
    at = index.ids().lookup(np.array(list(used), object))
    here = at >= 0
    return then[here], index.ts_ns()[at[here]]


def _put_aside(
    run: RunFolder,
    policy: Policy,
    window: SealedWindow,
    orders: dict[str, StoredOrder],
    past: Past,
    *,
    unit: Ints | None,
) -> None:
    """Writes down which requests no later attempt may judge, besides those that this run judges."""
    if past.carried is not None:
        write_used(run, past.used)
        return
    n0 = {name: planning_requests(policy, order, unit) for name, order in orders.items()}
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


def window_counts(
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
