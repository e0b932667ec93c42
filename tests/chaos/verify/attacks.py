"""Programs that attack their verifier, by what they do; ``double`` is what they should define."""

NEVER_ENDING = {
    "an infinite loop": "while True: pass",
    "sleep": "import time\ntime.sleep(1000)",
    "a signal handler against the limit": (
        "import signal\nfor s in range(1, 32):\n"
        "    try: signal.signal(s, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\nwhile True: pass"
    ),
    "a pattern that explodes": "import re\nre.match(r'(a+)+$', 'a' * 50 + 'b')",
    "a power tower": "9**9**9",
    "threads that wait": (
        "import threading\nthreading.Thread(target=threading.Event().wait).start()\n"
        "threading.Event().wait()"
    ),
}

WASTEFUL = {
    "a fork bomb": "import os\nwhile True: os.fork()",
    "a fork bomb that does not give up": (
        "import os\nfor _ in range(1000):\n    try: os.fork()\n    except OSError: pass\n"
        "raise SystemExit(1)"
    ),
    "a bomb of threads": (
        "import threading\nthreading.stack_size(32768)\n"
        "while True: threading.Thread(target=threading.Event().wait, daemon=True).start()"
    ),
    "a flood of threads by system call": (
        "import ctypes\nlibc, stack = ctypes.CDLL(None), ctypes.create_string_buffer(1 << 20)\n"
        "waiting = ctypes.cast(libc.pause, ctypes.c_void_p)\n"
        "for i in range(10**5):\n"
        "    place = ctypes.c_void_p(ctypes.addressof(stack) + 4096 + i % 4096 * 128 & ~15)\n"
        "    libc.clone(waiting, place, 0x50F00, None)\n"
        "raise SystemExit(1)"
    ),
    "links without end": (
        "import itertools, os\nfor i in itertools.count(): os.symlink('x' * 99, f'/tmp/left{i}')"
    ),
    "a shell": "import os\nassert os.system('true') == 0",
    "a subprocess": "import subprocess\nsubprocess.run(['/bin/sh', '-c', 'sleep 1000'])",
    "a memory bomb": "hoard = []\nwhile True: hoard.append(bytearray(2**24))",
    "one great allocation": "bytearray(2**40)",
    "anonymous files": "import os\nwhile True: os.memfd_create('x')",
    "deep recursion": "def f(): f()\nf()",
    "deep recursion without a limit": (
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return [f(x) for _ in x]\nf([1])"
    ),
    "a deeply nested source": "x = " + "(" * 5000 + ")" * 5000,
    "a constant that is expensive to fold": "x = " + "-" * 100_000 + "1",
    "writing gigabytes": (
        "for i in range(10**9):\n    with open(f'/tmp/left{i}', 'wb') as f: f.write(bytes(2**20))"
    ),
    "one file of gigabytes": "f = open('/tmp/left', 'wb')\nwhile True: f.write(bytes(2**20))",
}

FORGED = {
    "os._exit(0)": "import os\nos._exit(0)",
    "sys.exit(0)": "import sys\nsys.exit(0)",
    "os._exit(0) when called": "import os\ndef double(x): os._exit(0)",
    "sys.exit(0) when called": "import sys\ndef double(x): sys.exit(0)",
    "end of the interpreter": "import atexit, os\natexit.register(os._exit, 0)",
    "printed results": "print('passed'); print('[\"passed\"]'); print('OK')\nraise SystemExit(0)",
    "a result on every descriptor": (
        "import os\nfor d in range(64):\n"
        "    for m in (b'[\"passed\"]', b'[\"returned\",true]', b'[\"ready\"]'):\n"
        "        try: os.write(d, len(m).to_bytes(4, 'little') + m)\n"
        "        except OSError: pass\n"
    ),
    "an object equal to everything": (
        "class Yes(int):\n    def __eq__(self, other): return True\n    __hash__ = None\n"
        "    def __ne__(self, other): return False\n    def __rsub__(self, other): return 0\n"
        "def double(x): return Yes(1)"
    ),
    "a bare object equal to everything": (
        "class Yes:\n    def __eq__(self, other): return True\n    def __repr__(self): return '0'\n"
        "def double(x): return Yes()"
    ),
    "a list equal to everything": (
        "class Yes(list):\n    def __eq__(self, other): return True\ndef double(x): return Yes()"
    ),
    "builtins replaced": (
        "import builtins\n"
        "for name in ('print', 'open', 'all', 'len', 'isinstance', 'repr', 'AssertionError'):\n"
        "    setattr(builtins, name, lambda *a, **k: True)\n"
        "def double(x): return True"
    ),
    "AssertionError is no exception any more": (
        "import builtins\nclass Quiet(Exception):\n    def __new__(cls, *a): raise SystemExit(0)\n"
        "builtins.AssertionError = Quiet\ndef double(x): raise Quiet"
    ),
    "unittest replaced": (
        "import unittest, sys\nunittest.TestCase.assertEqual = lambda *a: None\n"
        "unittest.TestCase.run = lambda *a: None\ndef double(x): return None"
    ),
    "the host's own functions replaced": (
        "import sys\n"
        "plain = sys.modules['rlvr.verify.sandbox.inside.plain']\n"
        "plain.encode = lambda value: b'[\"passed\"]'\n"
        "def double(x): return None"
    ),
    "a look at the caller": (
        "import sys\ndef double(x):\n    frame = sys._getframe()\n    while frame:\n"
        "        for value in [*frame.f_locals.values(), *frame.f_globals.values()]:\n"
        "            if isinstance(value, dict) and 'tests' in value: return value\n"
        "        frame = frame.f_back"
    ),
    "a trace function": (
        "import sys\nsys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: None)\n"
        "def double(x): return None"
    ),
    "NUL in the source": "x = 1\0\n",
    "half a surrogate pair": "print('\ud800')",
    "the other direction": "# \u202e\nprint('\u202e\ufeff\0' * 100)",
    "no text": "",
    "a cycle": "def double(x):\n    a = []\n    a.append(a)\n    return a",
    "depth": "def double(x):\n    a = []\n    for _ in range(10**5): a = [a]\n    return a",
    "not a number": "def double(x): return float('nan')",
    "no function": "double = 3",
    "itself": "def double(x): return double",
    "a generator": "def double(x):\n    while True: yield x",
    "an exception with a will of its own": (
        "class Cross(Exception):\n    def __str__(self): raise SystemExit(0)\n"
        "def double(x): raise Cross"
    ),
    "the exception that means a broken test": "def double(x): raise ImportError('numpy')",
    "StopIteration": "def double(x): raise StopIteration",
    "the mode of a device": (
        "import os\nfor d in ('null', 'zero', 'urandom'): os.chmod('/dev/' + d, 0)\n"
        "def double(x): return 2 * x"
    ),
    "killing its parent": "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)",
    "killing everybody": "import os, signal\nos.kill(-1, signal.SIGKILL)",
    "killing its group": "import os, signal\nos.kill(0, signal.SIGKILL)",
    "stopping its parent": (
        "import os, signal\n"
        "try: os.kill(os.getppid(), signal.SIGSTOP)\nfinally: os.kill(os.getpid(), signal.SIGKILL)"
    ),
    "closed descriptors": "import os\nos.closerange(0, 64)",
    "a crash": "import ctypes\nctypes.string_at(0)",
}
