"""The whole story on real recorded flights: a good retrain, a broken one, and the truth afterwards."""

from __future__ import annotations

import json
import shutil
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness.core.clock import iso, ts_ns_from_iso
from harness.core.errors import GateError, UsageError
from harness.core.findings import Severity
from harness.core.jsonable import jsonable
from harness.core.policies import Metric
from harness.core.verdicts import Decision
from harness.decide.policy import policy_from_yaml
from harness.pipeline.assets import assets_root, default_cache_dir
from harness.pipeline.gate import GateResult, run_gate
from harness.pipeline.opening import LegRecipe
from harness.pipeline.progress import Listener, Progress, silent
from harness.pipeline.registry import register
from harness.pipeline.runtimes import running_packages
from harness.pipeline.truth import TrueLoss, true_losses
from harness.store.label_rows import label_paths
from harness.store.labels import read_labels
from harness.store.tables import open_traffic

NAME = "flights"
AS_OF = "2013-11-01T00:00:00Z"
TRAFFIC = "scenarios/traffic/flights"
POLICY = "scenarios/policies/flights-retrain.yaml"
_MARKER = ".demo"
_WIDTH = 100
_FINDINGS = 3
_VERSIONS = (("v1", "champion"), ("v2", "challenger"), ("utc_hour", None))
_CANDIDATES = (
    ("good-retrain", "models:/flights@challenger", "v2", Decision.PROMOTE),
    ("utc-hour", "models:/flights/3", "utc_hour", Decision.ROLLBACK),
)
_WHAT = {
    "v2": "a correct retrain on January to June",
    "utc_hour": "the same weights, but the departure hour is read in UTC instead of local time",
}

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """How the story ended."""

    out: Path
    runs: tuple[tuple[str, GateResult], ...]
    """(name, gate) of both candidates."""
    truth: tuple[TrueLoss, ...]
    """With all labels."""
    right: tuple[bool, ...]
    """Whether each verdict was right, by the labels that came later."""
    seconds: float

    @property
    def exit_code(self) -> int:
        """0 when both verdicts are the expected ones and were right, else 4."""
        expected = all(
            gate.decision is wanted
            for (_, gate), (_, _, _, wanted) in zip(self.runs, _CANDIDATES, strict=True)
        )
        return 0 if expected and all(self.right) else 4

    def to_json(self) -> str:
        """Decisions, truth and paths as JSON."""
        content = {
            "runs": {
                name: {
                    "decision": gate.decision, "reason": gate.record.reason,
                    "binding_guardrail": gate.record.binding_guardrail, "run": gate.run,
                    "seconds": gate.seconds,
                }
                for name, gate in self.runs
            },
            "truth": self.truth,
            "right": self.right,
            "seconds": self.seconds,
            "exit_code": self.exit_code,
        }  # fmt: skip
        return json.dumps(jsonable(content), indent=2)


def run_demo(
    out: Path,
    *,
    cache_dir: Path | None = None,
    listener: Listener = silent,
    say: Say = lambda _: None,
) -> DemoResult:
    """Registers three versions, gates two of them, and checks the verdicts against the late labels.

    Args:
      out: folder for the registry and both runs; an earlier demo there is replaced.
      cache_dir: where sealed windows are kept.
      listener: hears progress.
      say: told the story, a paragraph at a time.

    Raises:
      UsageError: `out` holds something else.
    """
    started = time.perf_counter()
    root = assets_root()
    _make_room(out)
    listener(Progress(stage="register", done=0, total=len(_VERSIONS)))
    registry = _register(root, out, listener)
    say(
        "A model says, one hour before departure, whether a flight will land more than 15 minutes late.\n"
        f"Version 1 is in production; 57,607 of its requests (July to October 2013) were recorded.\n"
        f"Registered: version 1 (champion), 2 (challenger), 3, in {registry}\n"
    )
    runs = []
    for name, reference, version, _ in _CANDIDATES:
        say(f"── Gate: {_WHAT[version]} ({reference}), as of {AS_OF[:10]} ──")
        gate = run_gate(
            "models:/flights@champion", reference, traffic=[root / TRAFFIC], policy=root / POLICY,
            as_of=AS_OF, out=out / name, registry_uri=registry, cache_dir=cache_dir,
            state_dir=out / "attempts", listener=listener,
        )  # fmt: skip
        runs.append((name, gate))
        say(_told(gate))
    truth = _truth(root, cache_dir, listener)
    margin = _margin(root)
    right = tuple(
        _is_right(gate.decision, [t for t in truth if t.candidate == version], margin)
        for (_, gate), (_, _, version, _) in zip(runs, _CANDIDATES, strict=True)
    )
    result = DemoResult(
        out=out,
        runs=tuple(runs),
        truth=tuple(truth),
        right=right,
        seconds=time.perf_counter() - started,
    )
    (out / "truth.json").write_text(json.dumps(jsonable(truth), indent=1))
    say(_closing(result, margin))
    return result


def _make_room(out: Path) -> None:
    if out.exists() and any(out.iterdir()):
        if not (out / _MARKER).exists():
            raise UsageError(
                str(out), "holds something that is no demo", "Name another folder with --out."
            )
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / _MARKER).write_text("Made by harness demo; the next demo here replaces it.\n")


def _register(root: Path, out: Path, listener: Listener) -> str:
    """Three versions in a fresh sqlite registry; returns its URI."""
    folder = root / "models" / "flights"
    about: dict[str, Any] = {
        v["name"]: v for v in yaml.safe_load((folder / "models.yaml").read_text())["versions"]
    }
    uri = f"sqlite:///{(out / 'mlflow.db').resolve()}"
    # They answer alike in whatever runs here: the demo needs no environments of their own.
    running = tuple(f"{package}=={version}" for package, version in running_packages().items())
    for number, (version, alias) in enumerate(_VERSIONS, start=1):
        got = register(
            folder / about[version]["file"], name=NAME, registry_uri=uri, alias=alias,
            training_cutoff=about[version]["training_cutoff"],
            requirements=running, tags={"what": about[version]["what"]},
        )  # fmt: skip
        if got != str(number):
            raise GateError(
                uri, f"registered as version {got}, expected {number}", "Use a fresh --out."
            )
        listener(Progress(stage="register", done=number, total=len(_VERSIONS)))
    return uri


def _told(gate: GateResult) -> str:
    """A verdict in a few lines."""
    lines = [f"{gate.decision}  ({gate.seconds:.1f} s)", _wrapped(gate.record.explanation)]
    harm = [f for f in gate.findings if f.severity is Severity.HARM][:_FINDINGS]
    lines += [_wrapped(f"! {f.what}") for f in harm]
    lines.append(f"  report: {_shown(gate.run / 'report.html')}\n")
    return "\n".join(lines)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _WIDTH, initial_indent="  ", subsequent_indent="  ")


def _shown(path: Path) -> str:
    """Relative to the current folder when it lies below it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _margin(root: Path) -> float:
    """The loss guardrail's margin in the demo's policy."""
    policy = policy_from_yaml((root / POLICY).read_text(), POLICY)
    return next(g.margin for g in policy.guardrails if g.metric is Metric.LOSS_DIFFERENCE)


def _truth(root: Path, cache_dir: Path | None, listener: Listener) -> list[TrueLoss]:
    """Both candidates against version 1 on everything that ever got a label."""
    policy = policy_from_yaml((root / POLICY).read_text(), POLICY)
    recipes = {v: _recipe(root, v) for v, _ in _VERSIONS}
    window = open_traffic([root / TRAFFIC], cache_dir or default_cache_dir(), None, None)
    index = window.index()
    label, _ = read_labels(label_paths(root / TRAFFIC), None).join(index.request_ids())
    border = ts_ns_from_iso("2013-09-01T04:00:00Z", "border")
    early = index.ts_ns() < border
    spans = [("July–August", early), ("September–October", ~early)]
    if policy.decision is None:
        raise GateError(POLICY, "names no decision", "Report this.")
    found: list[TrueLoss] = []
    for done, (_, _, version, _) in enumerate(_CANDIDATES, start=1):
        found += true_losses(
            window, label, spans, (recipes["v1"], recipes[version]), policy.decision, version
        )
        listener(Progress(stage="truth", done=done, total=len(_CANDIDATES)))
    return found


def _recipe(root: Path, version: str) -> LegRecipe:
    policy = policy_from_yaml((root / POLICY).read_text(), POLICY)
    model = root / "models" / "flights" / f"{version}.onnx"
    return LegRecipe(role=version, model=model, limits=policy.sandbox)


def _is_right(decision: Decision, rows: Sequence[TrueLoss], margin: float) -> bool:
    """PROMOTE was right when the loss stayed within the margin everywhere, ROLLBACK when nowhere."""
    if decision is Decision.PROMOTE:
        return all(r.difference <= margin for r in rows)
    return decision is Decision.ROLLBACK and all(r.difference > margin for r in rows)


def _closing(result: DemoResult, margin: float) -> str:
    lines = [
        "── Then the late labels come in: was each verdict right? ──",
        f"Brier score against version 1 on all labelled flights; the policy tolerates +{margin:g}",
        f"  {'candidate':<10} {'flights of':<18} {'n':>7}  {'difference':>10}  95 % interval",
    ]
    lines += [
        f"  {t.candidate:<10} {t.span:<18} {t.n:>7,}  {t.difference:>+10.4f}  [{t.lower:+.4f}, {t.upper:+.4f}]"
        for t in result.truth
    ]
    for (name, gate), right in zip(result.runs, result.right, strict=True):
        lines.append(f"  {gate.decision} of {name}: {'right' if right else 'WRONG'}")
    first, second = (gate.run for _, gate in result.runs)
    lines += [
        "",
        f"Done in {result.seconds:.0f} s ({iso(ts_ns_from_iso(AS_OF, 'as of'))[:10]} was the day of decision). Open next:",
        f"  {_shown(second / 'report.html')}   why the second was rolled back",
        f"  {_shown(first / 'report.html')}   what a promotion rests on",
        "  harness compare models/flights/v2.onnx models/flights/utc_hour.onnx --inputs scenarios/traffic/flights",
        "  harness scenario list   more planted faults with known answers",
    ]
    return "\n".join(lines)
