"""A canary or a judge on the network, from its start to its last word."""

from __future__ import annotations

import asyncio
import secrets
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from harness.core.calls import Tap
from harness.core.errors import GateError, UsageError
from harness.core.live import Live, LiveKind, LiveMetric, Standing
from harness.core.verdicts import Decision
from harness.live.folder import CanaryFolder
from harness.live.folder_files import goes_on
from harness.live.identity import Identity, seed_in
from harness.live.judge_service import JudgeServer
from harness.live.keeper import JUDGE_FAILED, notes_of
from harness.live.label_file import LabelFile, check_label_file
from harness.live.metrics import CanaryExposition
from harness.live.observer import Observer
from harness.live.own_thread import STUCK, Patience, awaited, begun
from harness.live.policy import read_live_policy
from harness.live.steady_clock import SteadyClock
from harness.live.watcher import Watcher
from harness.record.listening import must_be_free
from harness.record.metrics import CallMetrics, serve_metrics
from harness.record.proxy import Proxy
from harness.record.tls import ClientTls, ServerTls
from harness.record.upstream import Upstream

Heard = Callable[[dict[str, Any]], None]
EXIT_CODES = {Decision.PROMOTE: 0, Decision.ROLLBACK: 1, Decision.HOLD: 3}
_GRACE_S = 5.0
_SLOW_S = 10.0
_STOOD_STILL_S = 1.0
"""A turn that comes so much too late finds answers that nobody has read yet."""
_CATCH_UP_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryOptions:
    """What the command was given."""

    policy: Path
    """YAML with a live section that has steps."""
    out: Path
    """The canary's folder: made, or gone on from."""
    seed: str
    """Of the split; "" = the folder's, or a new one."""
    listen: str = ""
    """Where clients come; "" = no proxy, only the judge."""
    baseline: str = ""
    """host:port."""
    candidate: str = ""
    """host:port."""
    candidate_id: str = ""
    """Version or digest of the candidate: a restart with another one is refused."""
    model: str = ""
    """The only one that is split; "" = whatever is asked for."""
    tls: ServerTls | None = None
    """Towards clients; None = plain text."""
    upstream_tls: ClientTls | None = None
    """Towards both versions; None = plain text."""
    labels: Path | None = None
    """JSON lines that somebody appends to."""
    judge_listen: str = ""
    """Where harness.v1.CanaryJudge is served; "" = nowhere."""
    metrics: str = ""
    """host:port of Prometheus metrics; "" = none."""
    batch_s: float = 0.5
    """Between two looks."""
    exit_when_decided: bool = False
    """Ends with the verdict, in place of serving on with it."""


def serve_canary(
    options: CanaryOptions,
    told: Callable[[str], None] = lambda _: None,
    new_seed: Callable[[], str] = lambda: secrets.token_hex(16),
    heard: Heard = lambda _: None,
) -> Standing:
    """Serves until it is stopped, or decided where that is asked for.

    Args:
      options: what the command was given.
      told: hears one line when it serves, with its ports.
      new_seed: makes one where neither the folder nor the options have one: secret, so that nobody
        can choose the arm of a unit.
      heard: hears of every event as followers read it, in the judging thread.

    Returns:
      Where it stands at the end; without a verdict it goes on when it is started again.

    Raises:
      UsageError: wrong options, or another canary than the folder's.
      GateError: the judge failed by a mistake of this program's; production was served all the time.
    """
    live = read_live_policy(options.policy)
    _check(options, live)
    if options.labels and not goes_on(options.out):
        check_label_file(options.labels)
    _check_sources(options, live)
    must_be_free(
        {
            "--listen": options.listen,
            "--judge-listen": options.judge_listen,
            "--metrics": options.metrics,
        }
    )
    for line in _unseen(live):
        told(f"canary: {line}")
    seed = options.seed or seed_in(options.out) or new_seed()
    candidate = f"{options.candidate} {options.candidate_id}".strip()
    identity = Identity.of(
        live, seed=seed, baseline=options.baseline, candidate=candidate, model=options.model
    )
    text = options.policy.read_text(encoding="utf-8")
    folder, canary = CanaryFolder.start(options.out, live, identity, text)
    folder.heard = heard
    clock = SteadyClock(canary.last_ns)
    labels = LabelFile(options.labels, *canary.labels_taken) if options.labels else None

    async def served() -> Standing:
        upstreams = (
            Upstream(options.baseline, name="baseline", tls=options.upstream_tls),
            Upstream(options.candidate, name="candidate", tls=options.upstream_tls),
        )
        watcher = Watcher(
            canary, folder, live, upstreams, clock, labels=labels, model=options.model
        )
        return await _Served(options, watcher, upstreams).until_the_end(told)

    standing = asyncio.run(served())
    if standing.reason == JUDGE_FAILED:
        raise GateError(
            str(options.out), standing.explanation.rstrip("."), "The log has the traceback."
        )
    return standing


def serve_judge(
    options: CanaryOptions,
    told: Callable[[str], None] = lambda _: None,
    heard: Heard = lambda _: None,
) -> Standing:
    """Serves harness.v1.CanaryJudge for whoever splits traffic by other means.

    Args:
      options: `listen`, the versions' addresses and the labels' file are not used.
      told: hears one line when it serves, with its port.
      heard: hears of every event as followers read it.

    Returns:
      Where it stands at the end; without a verdict it goes on when it is started again.

    Raises:
      UsageError: wrong options, or another comparison than the folder's.
    """
    live = read_live_policy(options.policy)
    _check(options, live)
    must_be_free({"--judge-listen": options.judge_listen, "--metrics": options.metrics})
    identity = Identity.of(live, seed="", baseline="", candidate=options.candidate_id)
    text = options.policy.read_text(encoding="utf-8")
    folder, canary = CanaryFolder.start(options.out, live, identity, text)
    folder.heard = heard
    observer = Observer(canary, folder, live)

    async def served() -> Standing:
        server = JudgeServer(lambda: (observer.standing, canary.next_batch), observer.observe)
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        shown = CanaryExposition(lambda: observer.standing, None)
        end_metrics = serve_metrics(shown, options.metrics) if options.metrics else None
        told(f"canary: judge on port {await server.start(options.judge_listen)}")
        while not stop.is_set():
            if options.exit_when_decided and observer.standing.final:
                # Whoever watches hears the last word first.
                await asyncio.sleep(options.batch_s)
                break
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), options.batch_s)
        patience = Patience()
        await server.stop()
        if end_metrics is not None:
            await asyncio.to_thread(end_metrics)
        closed = begun(observer.close)
        if not await patience.ended(closed):
            return replace(observer.standing, notes=(STUCK,))
        return closed.result()

    return asyncio.run(served())


def _unseen(live: Live) -> list[str]:
    """Harms that no gating guardrail looks at, each as a sentence."""
    gating = [g for g in live.guardrails if g.gating]
    said = []
    if not any(g.metric is LiveMetric.FAILURE or g.kind is LiveKind.ERRORS for g in gating):
        said.append(
            "no gating guardrail looks at failures: a candidate that fails is never rolled back for it"
        )
    if not any(g.metric is LiveMetric.NAN for g in gating):
        said.append(
            "no gating guardrail looks at NaN (`metric: nan_rate`): a candidate that answers NaN, or scores "
            "outside of 0 and 1, stays where it is on the ramp, and is never rolled back for it"
        )
    return said


def _check(options: CanaryOptions, live: Live) -> None:
    if not live.steps:
        what = "the live section has no steps, and a canary splits traffic"
        remedy = "Add `steps: [0.01, 0.1, 0.5]`, or use `harness shadow`."
        raise UsageError(str(options.policy), what, remedy)


def _check_sources(options: CanaryOptions, live: Live) -> None:
    """Every value has to come from somewhere: an answer, or a label."""
    where = str(options.policy)
    labelled = [g for g in live.guardrails if g.label_maturity_s is not None]
    for rail in live.guardrails:
        if rail.metric is LiveMetric.GIVEN and rail not in labelled:
            what = f"guardrail '{rail.name}' has no `metric`, so nothing says what is measured"
            remedy = (
                "Add `metric: score_shift` or another one; values that others measure go to "
                "--judge-listen."
            )
            raise UsageError(where, what, remedy)
    if options.labels is not None and not labelled:
        what = "no guardrail of the policy takes labels"
        remedy = "Add `label_maturity` to one, or leave --labels out."
        raise UsageError(f"--labels {options.labels}", what, remedy)
    gating = [g.name for g in labelled if g.gating]
    if options.labels is None and gating:
        what = f"guardrail '{gating[0]}' needs labels, and none come: nothing could be promoted"
        raise UsageError(where, what, "Give --labels FILE, or write `gating: false`.")


class _Served:
    """The proxy, the service and the turns, while they run."""

    def __init__(
        self, options: CanaryOptions, watcher: Watcher, upstreams: tuple[Upstream, Upstream]
    ) -> None:
        self._options = options
        self._watcher = watcher
        self._calls = CallMetrics()
        taps: list[Tap] = [watcher, self._calls] if options.metrics else [watcher]
        self._proxy = Proxy(watcher.route, taps, upstreams=upstreams, tls=options.tls)
        self._judge = JudgeServer(lambda: (watcher.standing, 0), None)
        self._stop = asyncio.Event()
        self._end_metrics: Callable[[], None] | None = None

    async def until_the_end(self, told: Callable[[str], None]) -> Standing:
        """Starts everything, waits, and stops it in order."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        turns: asyncio.Task[None] | None = None
        heart = asyncio.create_task(self._watcher.heartbeat.beat())
        try:
            told(await self._started())
            turns = asyncio.create_task(self._turns(told))
            await self._stop.wait()
        finally:
            patience = Patience()
            self._watcher.stopping()
            await self._proxy.stop(_GRACE_S)
            heart.cancel()
            await self._judge.stop()
            stuck = turns is not None and not await patience.ended(turns)
            if self._end_metrics is not None:
                await asyncio.to_thread(self._end_metrics)
        if not stuck:
            await turns
        # A turn that does not come back has the canary, and nobody else may.
        closed = None if stuck else begun(self._watcher.close)
        if closed is None or not await patience.ended(closed):
            standing = self._watcher.standing
            return replace(standing, notes=(*notes_of(standing), STUCK))
        return closed.result()

    async def _started(self) -> str:
        """Listens everywhere; what is told of it."""
        port = await self._proxy.start(self._options.listen)
        said = f"canary: serving on port {port}"
        if self._options.judge_listen:
            said += f", judge on port {await self._judge.start(self._options.judge_listen)}"
        if self._options.metrics:
            shown = CanaryExposition(lambda: self._watcher.standing, self._calls)
            self._end_metrics = serve_metrics(shown, self._options.metrics)
        return said

    async def _turn(self, told: Callable[[str], None]) -> None:
        """One turn; says so where it does not come back."""
        turn = asyncio.wrap_future(begun(self._watcher.turn))
        done, _ = await asyncio.wait({turn}, timeout=_SLOW_S)
        if not done:
            told(
                f"canary: the folder has not answered for {_SLOW_S:g} s: nothing is judged meanwhile, and "
                "after a minute the baseline answers all"
            )
        await turn

    async def _turns(self, told: Callable[[str], None]) -> None:
        said = nameless = False
        while not self._stop.is_set():
            try:
                await self._turn(told)
            except Exception as trouble:  # noqa: BLE001 - production goes on with the baseline
                traceback.print_exception(trouble)
                await awaited(partial(self._watcher.give_up, trouble))
            standing = self._watcher.standing
            if (
                not nameless
                and not standing.n_requests
                and dict(standing.counts).get("without_unit")
            ):
                nameless = True
                told(
                    "canary: requests name no unit as the policy says: the baseline answers them, and nothing is judged"
                )
            if standing.final and not said:
                said = True
                told(f"canary: {standing.decision.value}: {standing.explanation}")
            if self._options.exit_when_decided and standing.final:
                self._stop.set()
            await self._until_the_next()

    async def _until_the_next(self) -> None:
        """Waits for the next turn; a process that stood still reads first what came meanwhile.

        Otherwise answers that have come would be taken for silence.
        """
        due = time.monotonic() + self._options.batch_s
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), self._options.batch_s)
        if time.monotonic() - due > _STOOD_STILL_S:
            await asyncio.sleep(_CATCH_UP_S)
