"""What a program under test loses before its first line runs.

The filter of system calls (``syscalls``) has one main point: a program stays one process, with
threads, but no children. So the limits, most of which hold for one process, hold for all of it.
"""

import ctypes
import os
import resource
import struct
from typing import Any

NOBODY = 65534
_NEW_NAMESPACES = 0x6E020000  # mounts, cgroup, UTS, IPC, processes, network: CLONE_NEW*
_PRIVATE, _NO_SUID, _NO_DEVICES = 0x44000, 2, 4  # MS_REC | MS_PRIVATE, MS_NOSUID, MS_NODEV
_READ_ONLY = 0x1021  # MS_REMOUNT | MS_BIND | MS_RDONLY
_FLAGS = 0xC0E  # of a mount, which it must keep: nosuid, nodev, noexec, noatime, nodiratime
_DETACH = 2  # MNT_DETACH
_CAPABILITY_VERSION = 0x20080522
_NO_NEW_PRIVILEGES = 38  # PR_SET_NO_NEW_PRIVS
_SET_SECCOMP, _FILTER = 22, 2  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
_THREADS = 256  # of all that this fork server's sandboxes run at a time
_INODE = 4096  # bytes of /tmp for each file that may be in it

_libc = ctypes.CDLL(None, use_errno=True)


def isolate() -> None:
    """Move into fresh namespaces; the next child is the first process of its own.

    Needs CAP_SYS_ADMIN, and CAP_SETUID and CAP_SETGID of a superuser, who stops being one. Raises
    OSError.
    """
    if os.getuid() != NOBODY:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    release = tuple(int(number) for number in os.uname().release.split(".")[:2])
    if release >= (5, 14):  # older ones count the threads of other namespaces, too
        _limit(resource.RLIMIT_NPROC, _THREADS)
    _check(_libc.unshare(_NEW_NAMESPACES))
    _check(_libc.mount(None, b"/", None, _PRIVATE, None))
    # The device nodes are the machine's own. (Bubblewrap's --remount-ro would make them useless.)
    for path in (b"/dev/null", b"/dev/zero", b"/dev/urandom"):
        flags = os.statvfs(path).f_flag & _FLAGS
        _check(_libc.mount(None, path, None, _READ_ONLY | flags, None))


def mount_tmp(limits: dict[str, Any]) -> tuple[int, ...]:
    """An empty ``/tmp`` of ``disk`` bytes, instead of the one that was there; its state."""
    if disk := limits["disk"]:
        _libc.umount2(b"/tmp", _DETACH)
        options = b"mode=755,size=%d,nr_inodes=%d" % (disk, max(64, disk // _INODE))
        _check(_libc.mount(b"tmpfs", b"/tmp", b"tmpfs", _NO_SUID | _NO_DEVICES, options))
        os.chdir("/tmp")
    return tmp_state(limits)


def tmp_state(limits: dict[str, Any]) -> tuple[int, ...]:
    """What changes when anything is put into ``/tmp`` or done to it."""
    state = os.stat("/tmp")
    return (state.st_mode, state.st_size, state.st_ctime_ns) if limits["disk"] else ()


def drop_capabilities(limits: dict[str, Any]) -> None:
    """Give up every capability, for good: bubblewrap has forbidden new privileges."""
    if limits["disk"] is None:  # unsafe
        return
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


def limit(limits: dict[str, Any], file_size: int) -> None:
    """Bind this process: processor time and memory as in ``limits``, and the bytes of a file."""
    _limit(resource.RLIMIT_CPU, limits["cpu_s"])
    _limit(resource.RLIMIT_AS, limits["memory"])
    _limit(resource.RLIMIT_FSIZE, file_size)
    _limit(resource.RLIMIT_NOFILE, 64)
    _limit(resource.RLIMIT_CORE, 0)


def close_from(first: int) -> None:
    """Close every descriptor from ``first`` on; bubblewrap leaves some that have high numbers."""
    os.closerange(first, 2**31 - 1)


def _limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, value))


def forbid(program: bytes) -> None:
    """Install a filter of system calls, for good. Raises OSError if the kernel refuses."""

    class Filter(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("program", ctypes.c_char_p)]

    code = Filter(len(program) // 8, program)
    _check(_libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    _check(_libc.prctl(_SET_SECCOMP, _FILTER, ctypes.byref(code), 0, 0))
