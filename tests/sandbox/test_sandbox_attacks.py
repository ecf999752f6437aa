"""Code that runs inside the locked process, as if a model had taken it over: nothing gets out.

Each attack is looked at from outside too: sockets that listen, files that are there, a parent that lives.
"""

import json
import socket
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import sandbox_models as models
from test_sandbox_external import adding

from harness.core.policies import SandboxPolicy
from harness.sandbox.hello import LoadFailure
from harness.sandbox.process import Sandbox

TESTS = Path(__file__).parents[1]
PRELUDE = f"""\
#!{sys.executable}
import encodings.idna
import ctypes, errno, json, mmap, os, resource, signal, socket, sys, threading
sys.path[:0] = [{str(TESTS)!r}, {str(TESTS.parent)!r}]
import emulation
from harness.sandbox.child import frames, kernel, lockdown, program
from harness.sandbox.child.syscalls import NUMBERS
if UNPRIVILEGED:
    emulation.leave_root()
numbers = NUMBERS[kernel.machine()]
reader, answers = frames.Reader(int(sys.argv[5])), int(sys.argv[6])
config = frames.read_frame(reader, 0).header
parent = config["parent"]
layers = lockdown.stage_a(parent, config["memory_bytes"], config["die_with_parent"])
import numpy, onnxruntime
from harness.sandbox.child import sessions
versions = dict.fromkeys(("python", "numpy", "onnxruntime"), "1")
program.locked(reader, answers, parent, layers, versions)
def say(text):
    program.send(answers, {{"kind": "hello", "ok": False, "error": text[:1900]}})
def call(name, *arguments):
    return kernel.syscall(numbers[name], *arguments)
def libc(name, *arguments):
    answer = getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments)
    if answer < 0:
        raise OSError(ctypes.get_errno(), name)
    return answer
"""
USERS = [pytest.param(False, id="as_is"), pytest.param(True, id="unprivileged")]


@pytest.fixture
def attacked(tmp_path, children):
    """Runs lines inside a locked process; what came of the start."""

    def run(lines: str, *, unprivileged: bool = False) -> LoadFailure:
        script = tmp_path / "attack.py"
        prelude = PRELUDE.replace("UNPRIVILEGED", str(unprivileged))
        script.write_text(prelude + textwrap.dedent(lines))
        script.chmod(0o755)
        model = models.identity(tmp_path / "m.onnx")
        # The policy's tier is S2: a process that had less would not get as far as the attack.
        failure = Sandbox.start(model, name="c", limits=SandboxPolicy(), python=script)
        assert isinstance(failure, LoadFailure)
        assert children() == set()
        return failure

    return run


@pytest.fixture
def open_folder(tmp_path):
    """A folder that anyone may write to, with a file that anyone may read and write."""
    folder = tmp_path / "open"
    folder.mkdir()
    (folder / "secret").write_text("secret")
    for path in (folder / "secret", folder, *folder.parents):
        if path.is_relative_to(tmp_path.parents[1]) and path.owner() == Path.home().owner():
            path.chmod(0o777)
    return folder


REFUSED_CALLS = """
    folder = FOLDER
    secret = folder + "/secret"
    attempts = {
        "read": lambda: os.open(secret, os.O_RDONLY),
        "read passwd": lambda: open("/etc/passwd").read(),
        "read shadow": lambda: open("/etc/shadow").read(),
        "read parent": lambda: os.open(f"/proc/{parent}/mem", os.O_RDONLY),
        "read environment": lambda: open(f"/proc/{parent}/environ").read(),
        "read self": lambda: os.open("/proc/self/mem", os.O_RDWR),
        "reopen a descriptor": lambda: os.open("/proc/self/fd/1", os.O_WRONLY),
        "read a device": lambda: os.open("/dev/mem", os.O_RDONLY),
        "stat": lambda: os.stat(secret),
        "list": lambda: os.listdir(folder),
        "link there": lambda: os.readlink("/proc/self/exe"),
        "write": lambda: os.open(secret, os.O_WRONLY | os.O_TRUNC),
        "create": lambda: os.open(folder + "/new", os.O_CREAT | os.O_WRONLY, 0o600),
        "unnamed file": lambda: os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o600),
        "truncate": lambda: os.truncate(secret, 0),
        "folder": lambda: os.mkdir(folder + "/new"),
        "link": lambda: os.link(secret, folder + "/new"),
        "symlink": lambda: os.symlink(secret, folder + "/new"),
        "rename": lambda: os.rename(secret, folder + "/new"),
        "remove": lambda: os.unlink(secret),
        "mode": lambda: os.chmod(secret, 0o4777),
        "times": lambda: os.utime(secret),
        "pipe by name": lambda: os.mkfifo(folder + "/new"),
        "go there": lambda: os.chdir("/"),
        "load a library": lambda: ctypes.CDLL(folder + "/new.so"),
        "import": lambda: __import__("sqlite3"),
        "executable memory": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC),
        "memory made executable": lambda: libc("mprotect", ctypes.c_void_p(page), 4096, 7),
        "more descriptors": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),
        "limits of the parent": lambda: resource.prlimit(parent, resource.RLIMIT_CPU, (1, 1)),
        "memory image": lambda: kernel.prctl(kernel.PR_SET_DUMPABLE, 1),
        "another filter": lambda: call("seccomp", 1, 0, None),
        "new process call": lambda: call("clone3", None, 0),
        "shared memory": lambda: libc("shmget", 0, 4096, 0o1666),
        "processor of the parent": lambda: os.sched_setaffinity(parent, {0}),
        "priority": lambda: os.setpriority(os.PRIO_PROCESS, 0, -1),
        "truncate the ring": lambda: os.ftruncate(int(sys.argv[7]), 0),
        "timer": lambda: signal.setitimer(signal.ITIMER_REAL, 1),
        "terminal": lambda: os.ttyname(0),
        "pipe": os.pipe,
        "event": lambda: os.eventfd(0),
    }
    page = ctypes.addressof(ctypes.c_char.from_buffer(mmap.mmap(-1, 4096)))
    found = {}
    for name, attempt in attempts.items():
        try:
            attempt()
            found[name] = "DONE"
        except OSError as error:
            found[name] = errno.errorcode.get(error.errno, str(error))
        except ImportError:
            found[name] = "ImportError"
        except ValueError as error:
            found[name] = str(error)
    say("JSON" + json.dumps(found, separators=(",", ":")))
"""
REFUSALS = {"EACCES", "EPERM", "ENOSYS"}
OTHER_WORDS = {
    # Not a call's answer: the dynamic loader, the import system and the C library put it their way.
    "load a library": "Permission denied",
    "import": "ImportError",
    "more descriptors": "not allowed to raise maximum limit",
    "limits of the parent": "not allowed to raise maximum limit",
}


@pytest.mark.parametrize("unprivileged", USERS)
def test_files_limits_and_memory_are_out_of_reach(attacked, open_folder, unprivileged):
    lines = textwrap.dedent(REFUSED_CALLS).replace("FOLDER", repr(str(open_folder)))
    failure = attacked(lines, unprivileged=unprivileged)
    assert failure.kind == "load", failure.message
    found = json.loads(failure.message.removeprefix("JSON"))
    assert len(found) > 40
    through = {
        name: answer
        for name, answer in found.items()
        if answer not in REFUSALS and OTHER_WORDS.get(name, "\0") not in answer
    }
    assert through == {}
    assert [p.name for p in open_folder.iterdir()] == ["secret"]
    assert (open_folder / "secret").read_text() == "secret"
    assert (open_folder / "secret").stat().st_mode & 0o7777 == 0o777


DEADLY = {
    "fork": "os.fork()",
    "fork by its number": "call('fork' if 'fork' in numbers else 'clone', 17, 0, 0, 0, 0)",
    "process by clone": "call('clone', 17, None, None, None, None)",
    "program": "os.execv('/bin/sh', ['sh', '-c', 'touch ' + FOLDER + '/new'])",
    "program beside": """
        os.posix_spawn('/bin/sh', ['sh', '-c', 'touch ' + FOLDER + '/new'], {})
    """,
    "program in memory": "call('execveat', int(sys.argv[8]), b'', None, None, 0x1000)",
    "memory file": "os.memfd_create('x')",
    "trace the parent": "call('ptrace', 16, parent, 0, 0)",
    "read the parent": "call('process_vm_readv', parent, None, 0, None, 0, 0)",
    "write the parent": "call('process_vm_writev', parent, None, 0, None, 0, 0)",
    "end the parent": "os.kill(parent, signal.SIGKILL)",
    "end everything": "os.kill(-1, signal.SIGKILL)",
    "end the parent's thread": "call('tgkill', parent, parent, 9)",
    "handle of the parent": "os.pidfd_open(parent)",
    "io_uring": "call('io_uring_setup', 1, None)",
    "local socket": "socket.socket(socket.AF_UNIX)",
    "network by packets": "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
    "socket pair": "socket.socketpair()",
    "root": "os.setuid(0)",
    "namespace": "kernel.unshare(0x10000000)",
    "mount": "call('mount', b'none', b'/', None, 0, None)",
    "kernel program": "call('bpf', 0, None, 0)",
    "counters": "call('perf_event_open', None, 0, 0, 0, 0)",
    "keys": "call('keyctl', 0, 0, 0, 0, 0)",
    "page faults": "call('userfaultfd', 0)",
    "file by handle": "call('open_by_handle_at', 0, None, 0)",
    "socket in spite of a handler": """
        signal.signal(signal.SIGSYS, signal.SIG_IGN)
        socket.socket()
    """,
    "socket in a thread": """
        thread = threading.Thread(target=socket.socket)
        thread.start()
        thread.join()
        say("went on")
    """,
}
_FEW = ("fork", "program", "end the parent", "local socket", "root")


@pytest.mark.parametrize(
    ("name", "unprivileged"),
    [*((name, False) for name in DEADLY), *((name, True) for name in _FEW)],
)
def test_a_way_out_ends_the_process(attacked, open_folder, name, unprivileged):
    lines = textwrap.dedent(DEADLY[name]).replace("FOLDER", repr(str(open_folder)))
    failure = attacked(f"{lines}\nsay('went on')", unprivileged=unprivileged)
    assert (failure.kind, "SIGSYS" in failure.message) == ("crash", True), failure.message
    assert "the sandbox forbids" in failure.message
    assert [p.name for p in open_folder.iterdir()] == ["secret"]


SENDS = {
    socket.SOCK_STREAM: """
        with socket.create_connection(('127.0.0.1', PORT)) as sender:
            sender.sendall(b'secret')
    """,
    socket.SOCK_DGRAM: """
        with socket.socket(type=socket.SOCK_DGRAM) as sender:
            sender.sendto(b'secret', ('127.0.0.1', PORT))
    """,
}


@pytest.mark.parametrize("unprivileged", USERS)
@pytest.mark.parametrize("kind", SENDS)
def test_nothing_is_sent(attacked, kind, unprivileged):
    with socket.socket(type=kind) as listener:
        listener.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            listener.listen()
        lines = textwrap.dedent(SENDS[kind]).replace("PORT", str(listener.getsockname()[1]))
        failure = attacked(f"{lines}\nsay('went on')", unprivileged=unprivileged)
        listener.settimeout(0.05)
        with pytest.raises(TimeoutError):
            listener.accept() if kind == socket.SOCK_STREAM else listener.recv(10)
    assert (failure.kind, "SIGSYS" in failure.message) == ("crash", True), failure.message


@pytest.mark.parametrize("kind", SENDS)
def test_the_listeners_of_these_tests_would_hear_it(kind):
    with socket.socket(type=kind) as listener:
        listener.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            listener.listen()
        lines = textwrap.dedent(SENDS[kind]).replace("PORT", str(listener.getsockname()[1]))
        exec(lines, {"socket": socket})  # noqa: S102 - our own line, as the attack has it
        listener.settimeout(5)
        sender = listener.accept()[0] if kind == socket.SOCK_STREAM else listener
        assert sender.recv(10) == b"secret"
        if sender is not listener:
            sender.close()


@pytest.mark.parametrize("location", ["{secret}", "../secret", "link", "/etc/passwd"])
def test_onnxruntime_itself_cannot_read_a_file(attacked, open_folder, location):
    """Without the refusal before it: what the runtime would do with the path is stopped by the lock."""
    secret = open_folder / "secret"
    secret.write_bytes(np.arange(4, dtype=np.float32).tobytes())
    (open_folder / "link").symlink_to(secret)
    model = adding(open_folder / "model.onnx", location.format(secret=secret)).read_bytes()
    failure = attacked(f"""
        try:
            session = onnxruntime.InferenceSession({model!r}, providers=["CPUExecutionProvider"])
            say("READ" + str(session.run(None, {{"x": numpy.zeros((1, 4), numpy.float32)}})))
        except Exception as error:
            say("raised " + type(error).__name__)
    """)
    assert failure.kind == "load", failure.message
    assert failure.message.startswith("raised"), failure.message
