"""A saved live judge, bound to its plan: what was damaged or belongs elsewhere is not believed.

The digest is sha256 over the canonical state and the plan's digest. It finds damage: a file cut
short, a value changed by hand, a state of another plan or of another version of this program. It is
no security boundary: whoever can write the state can compute the digest too.
"""

from __future__ import annotations

from typing import Any

from harness.core.errors import GateError
from harness.core.jsonable import sha256
from harness.judge.live_plan import LivePlan

_WHERE = "live judge"
_FORM = 3
"""Of the state; another form is refused instead of half understood."""


def sealed(plan: LivePlan, body: dict[str, Any]) -> dict[str, Any]:
    """The state with its plan, form and digest.

    Args:
      plan: of the judge.
      body: plain JSON values.
    """
    bound = {"plan": plan.digest(), "form": _FORM, **body}
    return {**bound, "sha256": sha256(bound)}


def unsealed(plan: LivePlan, state: Any) -> dict[str, Any]:  # noqa: ANN401 - whatever was kept
    """The state, once it is known to be what `sealed` gave.

    Args:
      plan: of the judge that is to go on.
      state: as read back, by way of JSON or not.

    Raises:
      GateError: no state, a damaged one, or one of another plan.
    """
    anew = "Start anew, or give the state as it was saved."
    if not isinstance(state, dict) or "plan" not in state or "sha256" not in state:
        raise GateError(_WHERE, "this is no saved live judge", anew)
    if state["plan"] != plan.digest():
        what = "the saved evidence belongs to another plan"
        remedy = "Start anew: evidence cannot be carried over to other questions."
        raise GateError(_WHERE, what, remedy)
    bound = {key: value for key, value in state.items() if key != "sha256"}
    try:
        found = sha256(bound)
    except (TypeError, ValueError):
        found = ""
    if found != state["sha256"] or state.get("form") != _FORM:
        what = "the saved evidence was damaged or changed since it was saved"
        raise GateError(_WHERE, what, anew)
    return bound
