"""Which recorded requests each window holds, and why the others are left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from harness.core.clock import iso
from harness.core.policies import Policy, WindowName
from harness.core.tensors import Bools, Floats, Ints

_DAY_NS = 86_400_000_000_000
_LIMITS = np.iinfo(np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowSelection:
    """One window of the run."""

    name: str
    """newest or matured."""
    selected: Bools
    """Storage positions that belong to it, shape (n,)."""
    count: int
    """How many."""
    eligible: int
    """How many the rule would take if each had all that it needs, a label in time above all."""
    first_ts_ns: int
    """Earliest request; 0 when empty."""
    last_ts_ns: int
    """Latest; 0 when empty."""
    left_out: tuple[tuple[str, int], ...]
    """(reason, count) of exchanges that the window's rule leaves out."""
    refusal: str
    """Why the window may not be used at all; "" when it may."""


def needed_windows(policy: Policy) -> tuple[str, ...]:
    """Windows that the policy's guardrails read, newest first."""
    used = {g.window for g in policy.guardrails}
    return tuple(w.value for w in WindowName if w in used)


def maturity_in_ns(policy: Policy) -> int:
    """Age at which a label counts, in nanoseconds."""
    return round(policy.windows.maturity_s * 1e9)


def newest(
    ts_parts: Callable[[], Iterable[Ints]], n: int, policy: Policy, as_of_ns: int
) -> WindowSelection:
    """The last days before --as-of, counted back from the last exchange.

    Memory grows by a byte a request where something is left out, and not at all elsewhere.

    Args:
      ts_parts: gives request times in storage order, part after part; asked twice.
      n: requests in all.
      policy: gives the days.
      as_of_ns: the instant at which the gate pretends to be.
    """
    known, first, last = 0, _LIMITS.max, _LIMITS.min
    for ts_ns in ts_parts():
        before = ts_ns[ts_ns <= as_of_ns]
        known += len(before)
        first = min(first, int(before.min(initial=_LIMITS.max)))
        last = max(last, int(before.max(initial=_LIMITS.min)))
    since = last - round(policy.windows.newest_days * _DAY_NS) if known else 0
    selected: Bools = np.broadcast_to(np.True_, n)
    if known < n or first <= since:
        inside, first = [], _LIMITS.max
        for ts_ns in ts_parts():
            inside.append((ts_ns <= as_of_ns) & (ts_ns > since))
            first = min(first, int(ts_ns.min(where=inside[-1], initial=_LIMITS.max)))
        selected = np.concatenate(inside)
    count = int(np.count_nonzero(selected))
    left_out = (
        (f"after --as-of {iso(as_of_ns)}", n - known),
        (f"older than {policy.windows.newest_days:g} days", known - count),
    )
    return WindowSelection(
        name=WindowName.NEWEST.value,
        selected=selected,
        count=count,
        eligible=count,
        first_ts_ns=first if count else 0,
        last_ts_ns=last if count else 0,
        left_out=tuple((reason, k) for reason, k in left_out if k),
        refusal="",
    )


def matured(
    ts_ns: Ints,
    label: Floats,
    late: Bools,
    *,
    policy: Policy,
    as_of_ns: int,
    cutoffs: Sequence[tuple[str, int | None]],
) -> WindowSelection:
    """Labelled exchanges after both training cut-offs, in a cohort of fixed maturity.

    A label counts only when it arrived within the maturity, whenever one looks: otherwise the
    cohort would change with the day of the gate, and early labels are a biased sample.

    Args:
      ts_ns: request times, shape (n,).
      label: NaN where no label arrived within the maturity, shape (n,).
      late: where one arrived only after it, shape (n,).
      policy: gives the maturity.
      as_of_ns: the instant at which the gate pretends to be.
      cutoffs: (version as shown to the user, last instant it was trained on or None).
    """
    unknown = [name for name, cutoff in cutoffs if cutoff is None]
    refusal = ""
    if unknown:
        refusal = (
            f"the training cut-off of {' and '.join(unknown)} is not recorded, so requests it was "
            "trained on cannot be told apart; record it (tag harness.training_cutoff)"
        )
    cutoff = max((c for _, c in cutoffs if c is not None), default=0)
    maturity_ns = maturity_in_ns(policy)
    after = ts_ns > cutoff
    old_enough = ts_ns <= as_of_ns - maturity_ns  # no sum that could overflow
    eligible = after & old_enough
    labelled = ~np.isnan(label)
    selected = eligible & labelled
    left_out = (
        (f"up to the training cut-off {iso(cutoff)}", int((~after).sum())),
        ("younger than the labels' maturity", int((after & ~old_enough).sum())),
        ("no label", int((eligible & ~labelled & ~late).sum())),
        ("label later than the maturity", int((eligible & ~labelled & late).sum())),
    )
    if refusal:
        selected = eligible = np.zeros_like(selected)
    found = _window(WindowName.MATURED.value, ts_ns, selected, left_out, refusal)
    return replace(found, eligible=int(eligible.sum()))


def _window(
    name: str, ts_ns: Ints, selected: Bools, left_out: tuple[tuple[str, int], ...], refusal: str
) -> WindowSelection:
    count = int(np.count_nonzero(selected))
    latest = np.iinfo(np.int64).max
    return WindowSelection(
        name=name,
        selected=selected,
        count=count,
        eligible=count,
        first_ts_ns=int(ts_ns.min(where=selected, initial=latest)) if count else 0,
        last_ts_ns=int(ts_ns.max(where=selected, initial=-latest)) if count else 0,
        left_out=tuple((reason, n) for reason, n in left_out if n),
        refusal=refusal,
    )
