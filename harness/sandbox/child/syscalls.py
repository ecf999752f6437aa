"""System call numbers, and what the filter does with each.

x86-64 and 64-bit ARM, as the kernel's headers have them; a call that a machine does not have is not in
its table. What stands in no group is refused with EPERM.
"""

from __future__ import annotations

# fmt: off
ALLOWED = (
    "read", "write", "readv", "writev", "futex", "madvise", "munmap", "pread64", "preadv",
    "clock_gettime", "gettimeofday", "time", "sched_yield", "brk", "mremap", "close", "fstat",
    "lseek", "poll", "ppoll", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack",
    "sched_getaffinity", "nanosleep", "clock_nanosleep", "clock_getres", "getpid", "getppid",
    "gettid", "getuid", "geteuid", "getgid", "getegid", "uname", "sysinfo", "getrusage",
    "getcpu", "getrandom", "set_robust_list", "rseq", "membarrier", "restart_syscall", "exit",
    "exit_group",
)
# fmt: on
"""What a model at work needs: the pipes, memory, time, threads, its own end. Most frequent first."""

# fmt: off
FILES = (
    "open", "openat", "openat2", "creat", "stat", "lstat", "statx", "access", "faccessat",
    "faccessat2", "readlink", "readlinkat", "getdents", "getdents64", "getcwd", "statfs",
    "truncate", "mkdir", "mkdirat", "unlink", "unlinkat", "rmdir", "rename", "renameat",
    "renameat2", "link", "linkat", "symlink", "symlinkat", "mknod", "mknodat", "chmod",
    "fchmodat", "chown", "lchown", "fchownat", "chdir", "name_to_handle_at",
)
# fmt: on
"""Whatever takes a path: answered with EACCES, as a file without permission would be."""

# fmt: off
DEADLY = (
    "socket", "socketpair", "connect", "bind", "listen", "accept", "accept4", "sendto",
    "sendmsg", "sendmmsg", "execve", "execveat", "fork", "vfork", "ptrace", "process_vm_readv",
    "process_vm_writev", "kill", "tkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_open",
    "pidfd_send_signal", "pidfd_getfd", "io_uring_setup", "io_uring_enter", "io_uring_register",
    "bpf", "userfaultfd", "perf_event_open", "unshare", "setns", "mount", "umount2",
    "pivot_root", "chroot", "move_mount", "open_tree", "fsopen", "fsmount", "init_module",
    "finit_module", "delete_module", "kexec_load", "keyctl", "add_key", "request_key",
    "open_by_handle_at", "memfd_create", "memfd_secret", "setuid", "setgid", "setreuid",
    "setregid", "setresuid", "setresgid", "setgroups",
)
# fmt: on
"""What no model has an honest use for: the process ends with SIGSYS."""

# fmt: off
BY_ARGUMENT = (
    "mmap", "mprotect", "clone", "clone3", "tgkill", "newfstatat", "fcntl", "prlimit64",
    "prctl", "seccomp",
)
# fmt: on
"""Allowed or not by what they are given; `seccomp` says how."""

# Landlock came after the tables were made the same everywhere.
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446

# fmt: off
NUMBERS: dict[str, dict[str, int]] = {
    "x86_64": {
        "read": 0, "write": 1, "readv": 19, "writev": 20, "futex": 202, "madvise": 28,
        "munmap": 11, "pread64": 17, "preadv": 295, "clock_gettime": 228,
        "gettimeofday": 96, "time": 201, "sched_yield": 24, "brk": 12, "mremap": 25,
        "close": 3, "fstat": 5, "lseek": 8, "poll": 7, "ppoll": 271, "rt_sigaction": 13,
        "rt_sigprocmask": 14, "rt_sigreturn": 15, "sigaltstack": 131,
        "sched_getaffinity": 204, "nanosleep": 35, "clock_nanosleep": 230,
        "clock_getres": 229, "getpid": 39, "getppid": 110, "gettid": 186, "getuid": 102,
        "geteuid": 107, "getgid": 104, "getegid": 108, "uname": 63, "sysinfo": 99,
        "getrusage": 98, "getcpu": 309, "getrandom": 318, "set_robust_list": 273,
        "rseq": 334, "membarrier": 324, "restart_syscall": 219, "exit": 60,
        "exit_group": 231, "open": 2, "openat": 257, "openat2": 437, "creat": 85, "stat": 4,
        "lstat": 6, "statx": 332, "access": 21, "faccessat": 269, "faccessat2": 439,
        "readlink": 89, "readlinkat": 267, "getdents": 78, "getdents64": 217, "getcwd": 79,
        "statfs": 137, "truncate": 76, "mkdir": 83, "mkdirat": 258, "unlink": 87,
        "unlinkat": 263, "rmdir": 84, "rename": 82, "renameat": 264, "renameat2": 316,
        "link": 86, "linkat": 265, "symlink": 88, "symlinkat": 266, "mknod": 133,
        "mknodat": 259, "chmod": 90, "fchmodat": 268, "chown": 92, "lchown": 94,
        "fchownat": 260, "chdir": 80, "name_to_handle_at": 303, "socket": 41,
        "socketpair": 53, "connect": 42, "bind": 49, "listen": 50, "accept": 43,
        "accept4": 288, "sendto": 44, "sendmsg": 46, "sendmmsg": 307, "execve": 59,
        "execveat": 322, "fork": 57, "vfork": 58, "ptrace": 101, "process_vm_readv": 310,
        "process_vm_writev": 311, "kill": 62, "tkill": 200, "rt_sigqueueinfo": 129,
        "rt_tgsigqueueinfo": 297, "pidfd_open": 434, "pidfd_send_signal": 424,
        "pidfd_getfd": 438, "io_uring_setup": 425, "io_uring_enter": 426,
        "io_uring_register": 427, "bpf": 321, "userfaultfd": 323, "perf_event_open": 298,
        "unshare": 272, "setns": 308, "mount": 165, "umount2": 166, "pivot_root": 155,
        "chroot": 161, "move_mount": 429, "open_tree": 428, "fsopen": 430, "fsmount": 432,
        "init_module": 175, "finit_module": 313, "delete_module": 176, "kexec_load": 246,
        "keyctl": 250, "add_key": 248, "request_key": 249, "open_by_handle_at": 304,
        "memfd_create": 319, "memfd_secret": 447, "setuid": 105, "setgid": 106,
        "setreuid": 113, "setregid": 114, "setresuid": 117, "setresgid": 119,
        "setgroups": 116, "mmap": 9, "mprotect": 10, "clone": 56, "clone3": 435,
        "tgkill": 234, "newfstatat": 262, "fcntl": 72, "prlimit64": 302, "prctl": 157,
        "seccomp": 317,
    },
    "aarch64": {
        "read": 63, "write": 64, "readv": 65, "writev": 66, "futex": 98, "madvise": 233,
        "munmap": 215, "pread64": 67, "preadv": 69, "clock_gettime": 113,
        "gettimeofday": 169, "sched_yield": 124, "brk": 214, "mremap": 216, "close": 57,
        "fstat": 80, "lseek": 62, "ppoll": 73, "rt_sigaction": 134, "rt_sigprocmask": 135,
        "rt_sigreturn": 139, "sigaltstack": 132, "sched_getaffinity": 123, "nanosleep": 101,
        "clock_nanosleep": 115, "clock_getres": 114, "getpid": 172, "getppid": 173,
        "gettid": 178, "getuid": 174, "geteuid": 175, "getgid": 176, "getegid": 177,
        "uname": 160, "sysinfo": 179, "getrusage": 165, "getcpu": 168, "getrandom": 278,
        "set_robust_list": 99, "rseq": 293, "membarrier": 283, "restart_syscall": 128,
        "exit": 93, "exit_group": 94, "openat": 56, "openat2": 437, "statx": 291,
        "faccessat": 48, "faccessat2": 439, "readlinkat": 78, "getdents64": 61,
        "getcwd": 17, "statfs": 43, "truncate": 45, "mkdirat": 34, "unlinkat": 35,
        "renameat": 38, "renameat2": 276, "linkat": 37, "symlinkat": 36, "mknodat": 33,
        "fchmodat": 53, "fchownat": 54, "chdir": 49, "name_to_handle_at": 264,
        "socket": 198, "socketpair": 199, "connect": 203, "bind": 200, "listen": 201,
        "accept": 202, "accept4": 242, "sendto": 206, "sendmsg": 211, "sendmmsg": 269,
        "execve": 221, "execveat": 281, "ptrace": 117, "process_vm_readv": 270,
        "process_vm_writev": 271, "kill": 129, "tkill": 130, "rt_sigqueueinfo": 138,
        "rt_tgsigqueueinfo": 240, "pidfd_open": 434, "pidfd_send_signal": 424,
        "pidfd_getfd": 438, "io_uring_setup": 425, "io_uring_enter": 426,
        "io_uring_register": 427, "bpf": 280, "userfaultfd": 282, "perf_event_open": 241,
        "unshare": 97, "setns": 268, "mount": 40, "umount2": 39, "pivot_root": 41,
        "chroot": 51, "move_mount": 429, "open_tree": 428, "fsopen": 430, "fsmount": 432,
        "init_module": 105, "finit_module": 273, "delete_module": 106, "kexec_load": 104,
        "keyctl": 219, "add_key": 217, "request_key": 218, "open_by_handle_at": 265,
        "memfd_create": 279, "memfd_secret": 447, "setuid": 146, "setgid": 144,
        "setreuid": 145, "setregid": 143, "setresuid": 147, "setresgid": 149,
        "setgroups": 159, "mmap": 222, "mprotect": 226, "clone": 220, "clone3": 435,
        "tgkill": 131, "newfstatat": 79, "fcntl": 25, "prlimit64": 261, "prctl": 167,
        "seccomp": 277,
    },
}
# fmt: on
"""Machine → name → number."""
