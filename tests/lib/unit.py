# SPDX-License-Identifier: Apache-2.0
"""Builds and runs the unit tests (cmocka programs) and the corpora of the fuzz targets: each test a line, under a
sanitizer each program a line."""
import concurrent.futures
import glob
import os
import re
import selectors
import subprocess
import time

from lib import scratch
from lib.cluster import TOP

LIMIT = 300
# Sweeps over faults and losses of power look at one in so many under a sanitizer: few bytes or threads differ from state to state.
SHARE = {"": 1, "address,undefined": 8, "thread": 24}
RESULT = re.compile(r"\[\s+(OK|FAILED|SKIPPED)\s+\] (\S.*)")


def folder(sanitize):
    return "build-" + sanitize if sanitize else "build"


def programs(patterns):
    """(name, path below the build folder) of each; a pattern of another file rules none out by itself."""
    found = []
    for pattern, above in (("tests/unit/*/test_*.c", "tests/unit/"), ("tests/fuzz/fuzz_*.c", "tests/")):
        for source in sorted(glob.glob(os.path.join(TOP, pattern))):
            path = os.path.relpath(source, TOP)[:-2]
            found.append((path[len(above):], path))
    return found


def build(results, sanitize, patterns):
    """make, quietly; its output is shown if it fails."""
    began = time.monotonic()
    wanted = [os.path.join(folder(sanitize), path) for _, path in programs(patterns)]
    if not sanitize:
        wanted = ["all"] + wanted
    command = ["make", "-s", "-k", "-j%d" % (os.cpu_count() or 1)]
    if sanitize:
        command.append("SANITIZE=" + sanitize)
    results.title("building" + (" with SANITIZE=" + sanitize if sanitize else ""))
    done = subprocess.run(command + wanted, cwd=TOP, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        results.failed("make", sanitize or "all", time.monotonic() - began, done.stdout)
    elif done.stdout.strip():
        print(done.stdout.rstrip())
    return done.returncode == 0


def clean_stale():
    """Removes the folders of programs that were killed: their names begin with the number of the process."""
    for path in glob.glob("/dev/shm/tandemfs-unit-*-*") + glob.glob("/tmp/tandemfs-unit-*-*"):
        pid = path.split("-")[2]
        if pid.isdigit() and not os.path.exists("/proc/" + pid):
            scratch.clean(path)


def run(results, sanitize, patterns, jobs=1):
    clean_stale()
    results.title("unit tests" + (" under " + sanitize if sanitize else ""))
    with concurrent.futures.ThreadPoolExecutor(max(1, jobs)) as pool:
        running = []
        for name, path in programs(patterns):
            program = os.path.join(TOP, folder(sanitize), path)
            if sanitize:
                running.append(pool.submit(_run_whole, results, sanitize, name, program, patterns))
            else:
                running.append(pool.submit(_run_each, results, name, program, patterns))
        for one in running:
            one.result()


def _wanted(patterns, name):
    return not patterns or any(p in name for p in patterns)


def _environment(sanitize=""):
    env = dict(os.environ, CMOCKA_MESSAGE_OUTPUT="STDOUT")
    env.setdefault("TANDEMFS_SHARE", str(SHARE[sanitize]))
    env.setdefault("TSAN_OPTIONS", "halt_on_error=1:second_deadlock_stack=1")
    env.setdefault("UBSAN_OPTIONS", "print_stacktrace=1")
    return env


def _run_each(results, name, program, patterns):
    """Runs a program and reports each test when its result line comes, with what was printed before it."""
    if not os.path.exists(program):
        results.failed(name, "the program", 0, "%s has not been built (make unit)" % program)
        return
    began = last = time.monotonic()
    process = subprocess.Popen([program], cwd=TOP, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, env=_environment())
    failures, output = 0, []
    summary = False
    for line in _lines(process, began + LIMIT):
        found = RESULT.search(line)
        # A program may hold several groups; what failed or was skipped is listed again behind each.
        summary = "test(s) run" in line or (summary and "Running" not in line)
        if not found or summary:
            output.append(line)
            continue
        now, test = time.monotonic(), found.group(2).strip()
        if _wanted(patterns, "%s: %s" % (name, test)):
            if found.group(1) == "OK":
                results.passed(name, test, now - last)
            elif found.group(1) == "SKIPPED":
                results.skipped(name, test, now - last, "as the test says")
            else:
                results.failed(name, test, now - last, "\n".join(output))
        failures += found.group(1) == "FAILED"
        last, output = now, []
    status = process.wait()
    # A program that died in a test, or that fails without naming a test, must not pass for silence.
    if status != 0 and not failures:
        results.failed(name, "the program", time.monotonic() - began,
                       "\n".join(output[-60:] + ["exit status %s" % status]))


def _lines(process, end):
    """The lines of a process's output as they come; the process is killed at the time `end`."""
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(max(0, end - time.monotonic())):
                process.kill()
                yield "killed: longer than %d s" % LIMIT
                return
            data = os.read(process.stdout.fileno(), 65536)
            if not data:
                if rest:
                    yield rest.decode(errors="replace")
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                yield line.decode(errors="replace")


def _run_whole(results, sanitize, name, program, patterns):
    test = "all its tests under " + sanitize
    if not _wanted(patterns, "%s: %s" % (name, test)):
        return
    command = [program]
    if "thread" in sanitize and _works(["setarch", "-R", "true"]):
        # ThreadSanitizer of older compilers cannot place its shadow where newer kernels randomise mappings.
        command = ["setarch", "-R", program]
    began = time.monotonic()
    try:
        done = subprocess.run(command, cwd=TOP, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, errors="replace", timeout=3 * LIMIT,
                              env=_environment(sanitize), check=False)
        status, output = done.returncode, done.stdout
    except subprocess.TimeoutExpired as late:
        status, output = "none: longer than %d s" % (3 * LIMIT), (late.stdout or b"").decode(errors="replace")
    seconds = time.monotonic() - began
    if status == 0:
        results.passed(name, test, seconds)
    else:
        results.failed(name, test, seconds, "%s\nexit status %s" % (output, status))


def _works(command):
    try:
        return subprocess.call(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0
    except OSError:
        return False
