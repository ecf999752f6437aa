"""A release gate for models: recorded requests, two versions, one verdict that may be watched.

The Python API is loaded when a name is first used, so that importing the package stays cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.live.serving import serve_canary
    from harness.live.shadow import serve_shadow
    from harness.pipeline.compare import compare_models
    from harness.pipeline.gate import resume_gate, run_gate
    from harness.pipeline.golden import make_golden
    from harness.pipeline.imports import import_traffic
    from harness.pipeline.judge_table import judge_table
    from harness.pipeline.labels import import_labels, label_delays
    from harness.pipeline.plan import plan
    from harness.pipeline.recording import record_traffic
    from harness.pipeline.scenario import run_scenarios

_API = {
    "compare_models": "harness.pipeline.compare",
    "import_labels": "harness.pipeline.labels",
    "import_traffic": "harness.pipeline.imports",
    "judge_table": "harness.pipeline.judge_table",
    "label_delays": "harness.pipeline.labels",
    "make_golden": "harness.pipeline.golden",
    "plan": "harness.pipeline.plan",
    "record_traffic": "harness.pipeline.recording",
    "resume_gate": "harness.pipeline.gate",
    "run_gate": "harness.pipeline.gate",
    "run_scenarios": "harness.pipeline.scenario",
    "serve_canary": "harness.live.serving",
    "serve_shadow": "harness.live.shadow",
}

__all__ = [
    "compare_models",
    "import_labels",
    "import_traffic",
    "judge_table",
    "label_delays",
    "make_golden",
    "plan",
    "record_traffic",
    "resume_gate",
    "run_gate",
    "run_scenarios",
    "serve_canary",
    "serve_shadow",
]


def __getattr__(name: str) -> object:
    """Loads an API function when it is first used."""
    if name not in _API:
        msg = f"module 'harness' has no attribute '{name}'"
        raise AttributeError(msg)
    return getattr(importlib.import_module(_API[name]), name)
