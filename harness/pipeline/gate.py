"""The gate: resolve → seal → sandbox → replay → diff → judge → decide → report, in one call."""

from __future__ import annotations

import json
import shlex
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.clock import iso, now_ns, ts_ns_from_iso
from harness.core.errors import UsageError
from harness.core.findings import Finding
from harness.core.interruption import stop_if_interrupted
from harness.core.jsonable import jsonable
from harness.core.places import Place, absolute
from harness.core.plain_text import printable
from harness.core.policies import Mode
from harness.core.verdicts import Decision, DecisionRecord, Evidence
from harness.decide.decision import SOUND_HOLDS
from harness.pipeline.assets import default_cache_dir, default_state_dir
from harness.pipeline.judgement import conclude
from harness.pipeline.prepare import prepare, restore, slug
from harness.pipeline.progress import Listener, silent
from harness.pipeline.publish import Outcome, publish, write_reports
from harness.pipeline.request import GateRequest
from harness.sandbox.pool import Pool
from harness.store.attempts import ANSWERED, HELD, PROMOTED, UNSEEN, AttemptLedger
from harness.store.files import machine_trouble_is_a_gate_error, sha256_of_file
from harness.store.runs import RunFolder

if TYPE_CHECKING:
    import pandas as pd

EXIT_CODES = {Decision.PROMOTE: 0, Decision.ROLLBACK: 1, Decision.HOLD: 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """A finished gate."""

    run: Path
    """The run folder."""
    record: DecisionRecord
    """The decision and its reason."""
    evidence: tuple[Evidence, ...]
    """Per guardrail and slice."""
    findings: tuple[Finding, ...]
    """What was found on the way."""
    evidence_sha256: str
    """What an approval binds to."""
    mode: Mode
    """Under advise the exit code is 0 whatever the decision."""
    seconds: float
    """Wall-clock time of this call."""

    @property
    def decision(self) -> Decision:
        """PROMOTE, ROLLBACK or HOLD."""
        return self.record.decision

    @property
    def exit_code(self) -> int:
        """0 PROMOTE, 1 ROLLBACK, 3 HOLD; 0 under advise."""
        return 0 if self.mode is Mode.ADVISE else EXIT_CODES[self.record.decision]

    def to_text(self) -> str:
        """The command's last screen."""
        return printable(write_reports(self.run, "terminal"))

    def to_json(self) -> str:
        """decision.json, with the run folder and the exit code."""
        content: dict[str, Any] = json.loads((self.run / "decision.json").read_text())
        return json.dumps({**content, "run": str(self.run), "exit_code": self.exit_code}, indent=2)

    def evidence_frame(self) -> pd.DataFrame:
        """One row a guardrail or slice, without the paths."""
        import pandas as pd

        rows = [{k: v for k, v in row.items() if k != "path"} for row in jsonable(self.evidence)]
        return pd.DataFrame(rows)

    def pairs_frame(self) -> pd.DataFrame:
        """One row a judged request, in test order."""
        import pandas as pd

        run = RunFolder.open(self.run)
        chunks = [pd.DataFrame(run.read_pairs(n)) for n in run.pairs_chunks()]
        return pd.concat(chunks, ignore_index=True) if chunks else pd.DataFrame()


def run_gate(
    baseline: str,
    candidate: str,
    *,
    traffic: Sequence[Place],
    policy: Path,
    labels: Sequence[Place] = (),
    as_of: str | None = None,
    out: Path | None = None,
    registry_uri: str | None = None,
    cache_dir: Path | None = None,
    state_dir: Path | None = None,
    allow_lower_isolation: bool = False,
    listener: Listener = silent,
) -> GateResult:
    """Replays traffic through two versions and decides.

    Args:
      baseline: models:/name@alias, models:/name/3, a .onnx file or an MLflow model folder.
      candidate: the same.
      traffic: traffic folders (here or in an object store), sealed window, .npz, .parquet or .jsonl.
      policy: YAML file.
      labels: label files besides those in the traffic folders.
      as_of: ISO 8601 instant whose knowledge counts; None = now.
      out: run folder to create; None = runs/<time>-<candidate>.
      registry_uri: MLflow registry; None = as MLflow itself is configured.
      cache_dir: where sealed windows are kept; None = the user's cache folder.
      state_dir: where attempts are counted; None = HARNESS_STATE_DIR or the user's state folder.
      allow_lower_isolation: run below the policy's isolation tier; every page says so.
      listener: hears progress.

    Raises:
      UsageError: something the user gave is wrong; no run folder is left behind.
      Interrupted, KeyboardInterrupt: the run folder can be gone on with when it is still there.
      SandboxError, GateError: the gate itself failed.
    """
    started = time.perf_counter()
    request = GateRequest(
        baseline=_absolute(baseline),
        candidate=_absolute(candidate),
        traffic=tuple(absolute(p) for p in traffic),
        labels=tuple(absolute(p) for p in labels),
        policy=policy.resolve(),
        as_of_ns=now_ns() if as_of is None else ts_ns_from_iso(as_of, "--as-of"),
        registry_uri=registry_uri,
        cache_dir=(cache_dir or default_cache_dir()).resolve(),
        state_dir=(state_dir or default_state_dir()).resolve(),
        allow_lower_isolation=allow_lower_isolation,
    )
    path = (out or _default_run(candidate)).resolve()
    was_there = path.exists()
    with RunFolder.create(path) as run, machine_trouble_is_a_gate_error(path), Pool() as pool:
        try:
            prepared = prepare(request, run, listener, pool)
            return _finish(run, conclude(prepared, listener, pool), started)
        except BaseException as error:
            # Interrupted before anything was fixed, or wrong arguments, which will never be judged:
            # leave no half a run, so that the same command can be given again.
            hopeless = isinstance(error, UsageError) and not run.pairs_chunks()
            if hopeless or not run.has("manifest.json"):
                _close_attempt(run, UNSEEN)
                shutil.rmtree(path)
                if was_there:
                    path.mkdir()
            else:
                _note_resume(error, path)
            raise


def resume_gate(path: Path, *, listener: Listener = silent) -> GateResult:
    """Goes on with an interrupted run and gives the verdict it would have reached anyway.

    Args:
      path: the run folder.
      listener: hears progress.

    Raises:
      UsageError: no such run, or it was interrupted before it was prepared, or it is finished.
    """
    started = time.perf_counter()
    with (
        RunFolder.open(path, write=True) as run,
        machine_trouble_is_a_gate_error(path),
        Pool() as pool,
    ):
        if run.has("decision.json"):
            raise UsageError(
                str(path),
                "this run is finished",
                "Look at it with `harness report`, or start a new run.",
            )
        if not run.has("manifest.json"):
            raise UsageError(
                str(path), "the run was interrupted before anything was fixed",
                "Start it again with the same arguments in a new folder.",
            )  # fmt: skip
        try:
            return _finish(run, conclude(restore(run, listener), listener, pool), started)
        except KeyboardInterrupt as error:
            _note_resume(error, path)
            raise


def _note_resume(error: BaseException, path: Path) -> None:
    """Tells an interrupted user how to go on."""
    if isinstance(error, KeyboardInterrupt):
        error.add_note(f"Go on with: harness gate --resume {shlex.quote(str(path))}")


def _finish(run: RunFolder, outcome: Outcome, started: float) -> GateResult:
    stop_if_interrupted()
    digest = publish(run, outcome)
    _close_attempt(run, _state_after(outcome))
    return GateResult(
        run=run.path,
        record=outcome.record,
        evidence=outcome.evidence,
        findings=outcome.findings,
        evidence_sha256=digest,
        mode=Mode(outcome.manifest["policy"]["mode"]),
        seconds=time.perf_counter() - started,
    )


def _state_after(outcome: Outcome) -> str:
    """How an attempt that ended counts."""
    record = outcome.record
    if not record.n_requests:
        return UNSEEN
    if record.decision is Decision.PROMOTE:
        return PROMOTED
    return HELD if record.reason in SOUND_HOLDS else ANSWERED


def _close_attempt(run: RunFolder, state: str) -> None:
    """Says in the count of attempts how this run ended."""
    if run.has("manifest.json"):
        manifest = run.read_json("manifest.json")
        folder = Path(manifest["request"]["state_dir"])
        ended = run.path / "decision.json"
        digest = sha256_of_file(ended) if ended.exists() else ""
        AttemptLedger(folder, manifest["lineage"]).close(manifest["attempt_token"], state, digest)


def _absolute(reference: str) -> str:
    """A path reference made absolute, so that a resumed run finds it from anywhere."""
    return reference if reference.startswith("models:/") else str(Path(reference).resolve())


def _default_run(candidate: str) -> Path:
    stamp = iso(now_ns()).replace(":", "").replace("-", "")
    return Path("runs") / f"{stamp}-{slug(candidate.removeprefix('models:/'))}"
