"""The system calls that a program under test may make: an allow-list, compiled by libseccomp.

What is not on it does not exist for the program (ENOSYS). It is what one process needs to compute,
to read and write files and to have threads. Not on it: children, other programs, other processes,
sockets but for pairs, leases, locks and watches of files (which the sandboxes share, read-only),
and every part of the kernel that no answer to a programming task needs.
"""

import ctypes
import errno
import os
import socket
from functools import lru_cache

from rlvr.errors import ConfigError

_ALLOWED = """
    read readv pread64 preadv preadv2 write writev pwrite64 pwritev pwritev2 lseek sendfile
    open openat close close_range dup dup2 dup3 pipe pipe2
    stat fstat lstat newfstatat statx access faccessat faccessat2 readlink readlinkat statfs fstatfs
    getdents getdents64 getcwd chdir fchdir mkdir mkdirat rmdir unlink unlinkat rename renameat
    renameat2 link linkat symlink symlinkat chmod fchmod fchmodat fchmodat2 umask utime utimes
    utimensat futimesat truncate ftruncate fallocate fadvise64 copy_file_range fsync fdatasync
    getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr
    brk mmap munmap mremap mprotect madvise msync mincore
    getpid getppid gettid getuid geteuid getgid getegid getgroups getresuid getresgid getpgrp
    getpgid getsid capget getrlimit setrlimit prlimit64 getrusage getpriority times sysinfo uname
    getcpu sched_yield sched_getaffinity sched_getparam sched_getscheduler
    sched_get_priority_max sched_get_priority_min
    arch_prctl set_tid_address set_robust_list get_robust_list rseq futex futex_waitv
    exit exit_group restart_syscall wait4 waitid
    rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigsuspend
    sigaltstack kill tkill tgkill pause alarm getitimer setitimer
    time gettimeofday clock_gettime clock_getres nanosleep clock_nanosleep
    poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait
    epoll_pwait2 eventfd eventfd2
    sendto recvfrom sendmsg recvmsg shutdown getsockname getpeername getsockopt
    getrandom
"""
_CLONE_THREAD, _CLONE_NEW = 0x10000, 0x7E020080  # within this process; CLONE_NEW* of any kind
# (call, which argument, the bits of it that count, what they may be)
_BY_ARGUMENT: list[tuple[str, int, int, list[int]]] = [
    ("clone", 0, _CLONE_THREAD | _CLONE_NEW, [_CLONE_THREAD]),
    ("socketpair", 0, 0xFFFFFFFF, [socket.AF_UNIX]),
    # Copies of a descriptor, its flags, the size of a pipe.
    ("fcntl", 1, 0xFFFFFFFF, [0, 1, 2, 3, 4, 1030, 1031, 1032]),
    # TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX
    ("ioctl", 1, 0xFFFFFFFF, [0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451]),
]

# libseccomp's seccomp.h
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_MASKED_EQUAL = 7
_OPTIMIZE, _BINARY_TREE = 8, 2
_UNKNOWN_CALL = -1

_MISSING = (
    "verifier 'code' needs libseccomp, which is not installed. Install the package 'libseccomp2' "
    "on every machine (apt-get install libseccomp2, dnf install libseccomp, conda install -c "
    "conda-forge libseccomp)."
)


class _Comparison(ctypes.Structure):
    _fields_ = [
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("mask", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
    ]


@lru_cache(maxsize=1)
def compiled() -> bytes:
    """The filter as a BPF program. Raises ConfigError without libseccomp."""
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        raise ConfigError(_MISSING) from None
    library.seccomp_init.restype = ctypes.c_void_p
    rules = ctypes.c_void_p(library.seccomp_init(_ERRNO | errno.ENOSYS))
    try:
        library.seccomp_attr_set(rules, _OPTIMIZE, _BINARY_TREE)  # from 2.5 on
        for name in _ALLOWED.split():
            _allow(library, rules, name)
        for name, argument, mask, values in _BY_ARGUMENT:
            for value in values:
                _allow(library, rules, name, _Comparison(argument, _MASKED_EQUAL, mask, value))
        file = os.memfd_create("filter")
        try:
            _check(library.seccomp_export_bpf(rules, file))
            return os.pread(file, 1 << 16, 0)
        finally:
            os.close(file)
    finally:
        library.seccomp_release(rules)


def _allow(library: ctypes.CDLL, rules: ctypes.c_void_p, name: str, *where: _Comparison) -> None:
    number = library.seccomp_syscall_resolve_name(name.encode())
    if number <= _UNKNOWN_CALL:  # not on this machine, or too new for this libseccomp
        return
    conditions = (_Comparison * len(where))(*where)
    _check(library.seccomp_rule_add_array(rules, _ALLOW, number, len(where), conditions))


def _check(result: int) -> None:
    if result < 0:
        raise OSError(-result, f"libseccomp: {os.strerror(-result)}")
