"""A table and the policy that reads it: the columns that are asked for, in rows that can be judged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import yaml

from harness.core.errors import UsageError
from harness.core.jsonable import jsonable
from harness.core.policies import Policy
from harness.pipeline.judge_arms import ARM, PROPENSITY, check_arms
from harness.pipeline.observed import ObservedTable, read_observed
from harness.pipeline.table_units import unit_columns

if TYPE_CHECKING:
    from harness.pipeline.observed import TableLike


PolicyLike: TypeAlias = Path | str | Mapping[str, Any] | Policy
"""A YAML file, the same content as a mapping, or a policy that was read before."""


def policy_text(policy: object) -> tuple[str, str]:
    """(YAML text, where it came from).

    Raises:
      UsageError: neither a mapping of plain values nor a file that can be read.
    """
    if isinstance(policy, Mapping):
        try:
            # By way of JSON, so that numpy's numbers and words are as good as Python's.
            plain = json.loads(json.dumps(jsonable(dict(policy))))
        except TypeError as error:
            remedy = "Give numbers, texts, lists and mappings."
            raise UsageError("policy", str(error), remedy) from None
        return yaml.safe_dump(plain, sort_keys=False), "policy"
    if not isinstance(policy, str | Path):
        what = f"a {type(policy).__name__} is no policy"
        raise UsageError("policy", what, "Give a YAML file, or the same content as a mapping.")
    where = str(policy)
    try:
        return Path(policy).read_text(), where
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            where, f"the policy cannot be read: {error}", "Give a YAML text file."
        ) from error


def observed_of(policy: Policy, table: TableLike) -> ObservedTable:
    """Reads what a policy asks of a table; `judge` and `plan` refuse the same ones.

    Raises:
      UsageError: the table cannot be read, does not fit the policy, or repeats or mixes up rows.
    """
    numbers = [column for guardrail in policy.guardrails for column in guardrail.reads()]
    names = [column for guardrail in policy.guardrails for column in guardrail.slice_by]
    names += unit_columns(policy)
    if policy.unpaired:
        numbers.append(PROPENSITY)
        names.append(ARM)
    observed = read_observed(table, numbers, names)
    check_arms(policy, observed)
    observed.check_rows()
    return observed
