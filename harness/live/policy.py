"""A policy file → the plan of a live judge."""

from __future__ import annotations

from pathlib import Path

from harness.core.errors import UsageError
from harness.core.live import Live
from harness.decide.policy import live_from_yaml
from harness.judge.live_plan import LivePlan


def read_live_policy(path: Path) -> Live:
    """Reads the `live` section of a policy file.

    Args:
      path: YAML, the same file that serves replay and tables.

    Raises:
      UsageError: the file cannot be read, or does not say what is tested on live traffic.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            str(path), f"the policy cannot be read: {error}", "Give a YAML text file."
        ) from error
    return live_from_yaml(text, str(path))


def live_plan(live: Live, *, names_recur: bool = True) -> LivePlan:
    """The tests of one live comparison.

    Args:
      live: from `read_live_policy`.
      names_recur: False where units' names are made up here, one a request.
    """
    return LivePlan(
        guardrails=live.guardrails,
        maturity_s=live.maturity_s,
        block_s=live.block_s,
        alpha_promote=live.alpha_promote,
        alpha_rollback=live.alpha_rollback,
        cycle_s=live.cycle_s,
        quiet_s=live.quiet_s,
        burst_gap_s=live.burst_gap_s,
        burst_longest_s=live.burst_longest_s,
        sample_ratio_alpha=live.sample_ratio_alpha,
        names_recur=names_recur,
    )
