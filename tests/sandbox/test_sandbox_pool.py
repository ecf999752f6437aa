"""Processes that wait: taken once, replaced, ended with the pool, and no slower than what they save."""

import os
import signal
import time

import numpy as np
import psutil
import sandbox_models as models

from harness.core.policies import SandboxPolicy
from harness.sandbox.answers import BatchAnswer
from harness.sandbox.model_files import ModelFiles
from harness.sandbox.pool import Pool
from harness.sandbox.process import Sandbox
from harness.sandbox.starting import Start

LIMITS = SandboxPolicy()


def started(files: ModelFiles, pool: Pool) -> Sandbox:
    sandbox = Sandbox.started(Start(files, limits=LIMITS, allow_weaker=True, pool=pool), name="c")
    assert isinstance(sandbox, Sandbox), sandbox
    return sandbox


def test_a_start_takes_the_process_that_waits(tmp_path, children):
    with ModelFiles(models.identity(tmp_path / "m.onnx")) as files, Pool() as pool:
        pool.begin(2, LIMITS.memory_bytes)
        there = children()
        with started(files, pool) as one, started(files, pool) as two:
            assert {one.pid, two.pid} == there
            one.submit({"x": np.ones((1, 2), np.float32)}, 1, trace=False)
            assert isinstance(one.collect(), BatchAnswer)


def test_no_process_serves_two_models(tmp_path):
    with ModelFiles(models.identity(tmp_path / "m.onnx")) as files, Pool() as pool:
        pool.begin(1, LIMITS.memory_bytes)
        with started(files, pool) as one:
            first = one.pid
        with started(files, pool) as two:
            assert two.pid != first


def test_a_process_with_another_memory_limit_is_not_taken(tmp_path, children):
    with ModelFiles(models.identity(tmp_path / "m.onnx")) as files, Pool() as pool:
        pool.begin(1, 2 * LIMITS.memory_bytes)
        there = children()
        with started(files, pool) as sandbox:
            assert sandbox.pid not in there


def test_a_process_that_died_while_it_waited_is_not_taken(tmp_path, children):
    with ModelFiles(models.identity(tmp_path / "m.onnx")) as files, Pool() as pool:
        pool.begin(1, LIMITS.memory_bytes)
        (pid,) = children()
        os.kill(pid, signal.SIGKILL)
        while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.001)
        with started(files, pool) as sandbox:
            assert sandbox.pid != pid


def test_what_nobody_took_is_ended_and_leaves_nothing(children, descriptors):
    before = descriptors()
    with Pool() as pool:
        pool.begin(2, LIMITS.memory_bytes)
        assert len(children()) == 2
    assert children() == set()
    assert descriptors() == before
