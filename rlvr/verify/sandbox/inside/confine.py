"""What a program under test loses before its first line runs.

Its view of everything else, by namespaces of its own; its capabilities; processor time, memory and
the size of files, by limits; and system calls, by a seccomp filter. The filter's main point is that
a program stays one process: threads yes, children no. So the limits, which hold for one process
each, hold for all of it, and there is no fork bomb to survive. (``RLIMIT_NPROC`` would not do: it
counts a user's processes everywhere, and does not bind root.)
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct

_NEW_NAMESPACES = 0x6E020000  # mounts, cgroup, UTS, IPC, processes, network: CLONE_NEW*
_PRIVATE, _NO_SUID, _NO_DEVICES = 0x44000, 2, 4  # MS_REC | MS_PRIVATE, MS_NOSUID, MS_NODEV
_CAPABILITY_VERSION = 0x20080522
_NO_NEW_PRIVILEGES = 38  # PR_SET_NO_NEW_PRIVS
_SET_SECCOMP, _FILTER = 22, 2  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
_CLONE_THREAD = 0x00010000

# Classic BPF: load a word of the system call's description, jump, return.
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _MACHINE, _FIRST_ARGUMENT = 0, 4, 16
_ALLOW, _KILL, _FAIL = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS = 1, 38
_CLONE3 = 435  # its flags are out of a filter's sight; without it the C library uses clone

# name: (x86_64, aarch64). Children; other processes; memory that no limit counts; and parts of
# the kernel that no answer to a programming task needs.
_DENIED = {
    "fork": (57, None),
    "vfork": (58, None),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
}
# machine: (column above, clone, AUDIT_ARCH)
MACHINES = {"x86_64": (0, 56, 0xC000003E), "aarch64": (1, 220, 0xC00000B7)}


_libc = ctypes.CDLL(None, use_errno=True)


def isolate(disk: int) -> None:
    """Move into fresh namespaces with a ``/tmp`` of ``disk`` bytes.

    The next child is the first process of its own. Needs CAP_SYS_ADMIN; raises OSError.
    """
    _check(_libc.unshare(_NEW_NAMESPACES))
    _check(_libc.mount(None, b"/", None, _PRIVATE, None))
    options = b"mode=755,size=%d" % disk
    _check(_libc.mount(b"tmpfs", b"/tmp", b"tmpfs", _NO_SUID | _NO_DEVICES, options))


def drop_capabilities() -> None:
    """Give up every capability, for good: bubblewrap has forbidden new privileges."""
    header = struct.pack("Ii", _CAPABILITY_VERSION, 0)
    _check(_libc.capset(header, bytes(24)))


def _check(failed: int) -> None:
    if failed:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def silence() -> None:
    """Let the standard streams lead nowhere."""
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)


def limit(cpu_s: int, memory: int, file_size: int) -> None:
    """Bind this process: seconds of processor time, bytes of address space, bytes of a file."""
    for kind, value in (
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, file_size),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        resource.setrlimit(kind, (value, value))


def forbid() -> None:
    """Install the filter, for good. Raises OSError if the kernel refuses."""
    program = _program()

    class Filter(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("program", ctypes.c_char_p)]

    code = Filter(len(program) // 8, program)
    _check(_libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    _check(_libc.prctl(_SET_SECCOMP, _FILTER, ctypes.byref(code), 0, 0))


def _program() -> bytes:
    column, clone, machine = MACHINES[os.uname().machine]
    lines = [
        (_LOAD, 0, 0, _MACHINE),
        (_EQUAL, 1, 0, machine),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    for numbers in _DENIED.values():
        if (number := numbers[column]) is not None:
            lines += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _FAIL | _EPERM)]
    lines += [
        (_EQUAL, 0, 1, _CLONE3),
        (_RETURN, 0, 0, _FAIL | _ENOSYS),
        (_AT_LEAST, 0, 1, 0x40000000),  # the same calls again under x32's numbers
        (_RETURN, 0, 0, _FAIL | _ENOSYS),
        (_EQUAL, 1, 0, clone),
        (_RETURN, 0, 0, _ALLOW),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_ANY_BIT, 0, 1, _CLONE_THREAD),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _FAIL | _EPERM),
    ]
    return b"".join(
        code.to_bytes(2, "little") + bytes([yes, no]) + value.to_bytes(4, "little")
        for code, yes, no, value in lines
    )
