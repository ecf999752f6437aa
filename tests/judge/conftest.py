"""Small policies and pairs for the judge's tests."""

from __future__ import annotations

import numpy as np
import pytest

from harness.core.observations import Observations, Outcome, PairBatch
from harness.core.policies import (
    Approval,
    Claim,
    Mapping,
    Mode,
    Policy,
    Preset,
    SandboxPolicy,
    Windows,
)
from harness.core.traffic import RequestBatch


@pytest.fixture(scope="session")
def make_policy():
    """Guardrails → a Policy that holds them and defaults."""

    def make(*guardrails):
        return Policy(
            version=1,
            preset=Preset.RETRAIN,
            mode=Mode.ENFORCE,
            alpha_promote=0.05,
            alpha_rollback=0.05,
            claim=Claim.PROCESS,
            decision=None,
            windows=Windows(),
            guardrails=guardrails,
            sandbox=SandboxPolicy(),
            approval=Approval(),
            mapping=Mapping(),
            digest="",
        )

    return make


@pytest.fixture(scope="session")
def make_pair():
    """Outputs of both versions → a PairBatch; `rows` per request, outcomes OK unless given."""

    def make(baseline, candidate, *, rows=None, outcomes=(None, None), keys=({}, {})):
        total = len(next(iter(baseline.values() or candidate.values())))
        rows = np.ones(total, np.int64) if rows is None else np.asarray(rows, np.int64)
        n = len(rows)
        requests = RequestBatch(
            seq=np.arange(n),
            request_id=np.array([f"r{i}" for i in range(n)], dtype=object),
            ts_ns=np.arange(n),
            rows=rows,
            inputs={},
            recorded={},
            answered=np.ones(n, np.bool_),
            context={},
        )
        sides = [
            Observations(
                outcome=np.asarray(np.full(n, Outcome.OK) if outcome is None else outcome, np.int8),
                outputs={k: np.asarray(v) for k, v in outputs.items()},
                features={},
                trace_outputs={},
                latency_s=np.zeros(n),
                keys=names,
            )
            for outputs, outcome, names in zip((baseline, candidate), outcomes, keys, strict=True)
        ]
        return PairBatch(requests=requests, baseline=sides[0], candidate=sides[1])

    return make
