# SPDX-License-Identifier: Apache-2.0
"""What is different if the program under test was built with sanitizers.

Each of its processes, whoever starts it and whatever becomes of it, writes what its sanitizer finds to a file of its own
in the folder of the test. The runner looks for these when the test is over: one is enough for it to have failed.
"""
import contextlib
import glob
import os
import re
import subprocess

from lib.cluster import PROGRAM, TOP

# A limit that a test has for itself is stretched by so much.
SLOWER = 4
LEAKS = os.path.join(TOP, "tests", "check", "lsan.suppressions")

# The distribution's nng is not built with the sanitizer: what its threads agree upon by its own atomics is not seen. Where
# both accesses are made by nng itself, the report says nothing about tandemfs. (A suppression by name would match every
# stack that has nng in it, those of tandemfs's own callbacks too.)
FOREIGN = "libnng.so"
RUNTIME = "libtsan.so"
COUNT = re.compile(r"ThreadSanitizer: reported \d+ warnings")
ACCESS = re.compile(r"^  (?:Previous |Atomic |Previous atomic )?(?:read|write|\w+) of size .*\n((?:    #.*\n)*)", re.M | re.I)


def kind():
    """"address", "thread", or "" if it was built without."""
    try:
        with open(PROGRAM, "rb") as f:
            program = f.read()
    except OSError:
        return ""
    return "address" if b"__asan_init" in program else "thread" if b"__tsan_init" in program else ""


KIND = kind()


def limit(seconds):
    return seconds * SLOWER if KIND else seconds


def environment(folder):
    """For the process of one test; `folder` is the test's own."""
    env = dict(os.environ)
    if not KIND:
        return env
    place = os.path.join(folder, "sanitizer")
    os.makedirs(place, exist_ok=True)
    os.chmod(place, 0o777)  # a program may run as another user
    log = 'log_path="%s/report"' % place
    options = {
        "ASAN_OPTIONS": log,
        "UBSAN_OPTIONS": log + ":print_stacktrace=1",
        "LSAN_OPTIONS": 'print_suppressions=0:suppressions="%s"' % LEAKS,
        # It goes on, so that one report does not hide the next, and it is the reports that count. The mutex that the guard
        # shares with the daemon is held over a fork, which its detector of deadlocks does not know; MUTEX_CHECK is there.
        "TSAN_OPTIONS": log + ":halt_on_error=0:exitcode=0:detect_deadlocks=0",
    }
    for name, value in options.items():
        env[name] = value + ":" + env[name] if env.get(name) else value
    return env


def command(words):
    """ThreadSanitizer of older compilers cannot place its shadow where newer kernels randomise mappings."""
    with contextlib.suppress(OSError):
        if KIND == "thread" and subprocess.call(["setarch", "-R", "true"], stderr=subprocess.DEVNULL) == 0:
            return ["setarch", "-R"] + words
    return words


def is_foreign(report):
    """A data race both sides of which are in the library that is not built with the sanitizer."""
    if "WARNING: ThreadSanitizer: data race" not in report:
        return False
    places = []
    for frames in ACCESS.findall(report):
        places += [line for line in frames.splitlines() if RUNTIME not in line][:1]
    return bool(places) and all(FOREIGN in place for place in places)


def reports(folder):
    """What has been found, as text; "" if nothing."""
    found = []
    for path in sorted(glob.glob(os.path.join(glob.escape(folder), "sanitizer", "report*"))):
        with open(path, errors="replace") as f:
            parts = re.split(r"^=====+$", f.read(), flags=re.M)
        parts = [p for p in parts if p.strip() and not is_foreign(p) and not COUNT.fullmatch(p.strip())]
        if parts:
            found.append("--- %s\n%s" % (os.path.basename(path), "\n".join(parts)[:20000]))
    return "\n".join(found)
