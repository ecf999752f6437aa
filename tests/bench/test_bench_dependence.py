"""Errors under dependence stay below their level, and the simulation would notice if not."""

from __future__ import annotations

import pytest

from harness.bench import dependence
from harness.bench.dependence import dependent_errors


@pytest.mark.usefixtures("few_points")
def test_errors_under_dependence_stay_below_their_level():
    figures = dependent_errors(15, 1)
    assert len(figures) == 12
    assert [f.name for f in figures if not f.kept] == []


def test_users_taken_request_by_request_are_noticed(monkeypatch):
    users = "20 requests a user, ICC .5"
    monkeypatch.setattr(dependence, "unit_means", lambda values, _: values)
    monkeypatch.setattr(dependence, "_CONDITIONS", {users: dependence._CONDITIONS[users]})
    kept = {f.name: f.kept for f in dependent_errors(40, 2)}
    assert not kept[f"{users}: false rollback"]
