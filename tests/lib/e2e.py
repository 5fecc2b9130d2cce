# SPDX-License-Identifier: Apache-2.0
"""Finds the end-to-end tests and runs each in a process of its own, with a time limit."""
import contextlib
import glob
import importlib.util
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
import traceback

from lib import autopsy, case, client, sanitizer, scratch
from lib.cluster import PROGRAM, TOP

SKIPPED = 77
RUNNING = set()


def load(path):
    case.TESTS.clear()
    spec = importlib.util.spec_from_file_location(os.path.basename(path)[:-3], path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return list(case.TESTS)


def collect(patterns, full=(False,)):
    """The tests to run; `full`: which kinds, of those for the full run only (True) and the others (False)."""
    found = []
    for path in sorted(glob.glob(os.path.join(TOP, "tests/e2e/test_*.py"))):
        file = os.path.relpath(path, os.path.join(TOP, "tests"))
        for test in load(path):
            if test.full in full and (not patterns or any(p in "%s: %s" % (file, test.name) for p in patterns)):
                found.append((file, test))
    return found


def run(results, patterns, jobs, keep, full=(False,)):
    tests = collect(patterns, full)
    if not tests:
        return
    results.title("end-to-end tests")
    if not os.path.exists(PROGRAM):
        results.failed("tests/run", "the program", 0, "%s has not been built" % PROGRAM)
        return
    waiting = queue.Queue()
    again = []
    # The long ones first, so that no worker waits for one at the end.
    for item in sorted((t for t in tests if not t[1].alone), key=lambda t: -t[1].limit):
        waiting.put(item)

    def work():
        while True:
            try:
                file, test = waiting.get_nowait()
            except queue.Empty:
                return
            if not _supervise(results, file, test, keep, False):
                again.append((file, test))
    workers = [threading.Thread(target=work) for _ in range(max(1, jobs))]
    for worker in workers:
        worker.start()
    try:
        for worker in workers:
            worker.join()
        for file, test in tests:
            if test.alone and not _supervise(results, file, test, keep, False):
                again.append((file, test))
        # Alone: a machine that is busy with other tests is no excuse then.
        for file, test in again:
            _supervise(results, file, test, keep, True)
    except KeyboardInterrupt:
        with contextlib.suppress(queue.Empty):
            while True:
                waiting.get_nowait()
        for process in list(RUNNING):
            process.send_signal(signal.SIGTERM)
        for worker in workers:
            worker.join()
        raise


def _supervise(results, file, test, keep, last):
    """One test in its own process group; its folder is cleaned here too, in case it could not do it itself.

    False if it failed and deserves a second try, which has not been the `last`."""
    began = time.monotonic()
    place = scratch.Scratch(re.sub(r"[^\w-]", "-", test.name))
    limit = sanitizer.limit(test.limit)
    process = subprocess.Popen(sanitizer.command([sys.executable, os.path.join(TOP, "tests/run"), "--one", file, test.name,
                                                  place.path]),
                               cwd=place.path, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, start_new_session=True, env=sanitizer.environment(place.path))
    place.record(process)
    RUNNING.add(process)
    late = threading.Event()
    found = []

    def end():
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            # It may hang in a call that only the end of a daemon lets return: end them all.
            scratch.clean(place.path, keep=True)

    def end_late():
        late.set()
        found.append(autopsy.report(place.path))
        end()
    timer = threading.Timer(limit, end_late)
    timer.start()
    # A program that the test has left running may hold the pipe open, so its end is not waited for.
    output = []
    reader = threading.Thread(target=lambda: output.append(process.stdout.read()), daemon=True)
    reader.start()
    try:
        status = process.wait()
    except KeyboardInterrupt:  # the main thread gets it, while it runs one that is alone
        timer.cancel()
        end()
        scratch.clean(place.path, keep)
        raise
    RUNNING.discard(process)
    timer.cancel()
    seconds = time.monotonic() - began
    # What a sanitizer has found is no accident of a busy machine: no second try.
    trouble = sanitizer.reports(place.path)
    if trouble:
        status, last = 1, True
    try:
        scratch.clean(place.path, keep and status not in (0, SKIPPED))
    except (OSError, RuntimeError) as error:
        trouble, status = "%s\ncould not be cleaned up: %s" % (trouble, error), 1
    reader.join(5)
    text = b"".join(output).decode(errors="replace") + trouble
    last = last or client.WRONG in text  # nor is a wrong answer
    if late.is_set():
        text = "%s\n%s\nended: longer than %d s" % ("".join(found), text, limit)
    if late.is_set() and status in (0, SKIPPED):
        status = 1
    if status == 0:
        results.passed(file, test.name, seconds, text)
    elif status == SKIPPED:
        results.skipped(file, test.name, seconds, text.strip().splitlines()[-1])
    elif last:
        results.failed(file, test.name, seconds, text)
    else:
        results.once_more(file, test.name, seconds, text)
        return False
    return True


def run_one(file, name, path):
    """What the process of one test does."""
    signal.signal(signal.SIGTERM, _ended)
    test = next(t for t in load(os.path.join(TOP, "tests", file)) if t.name == name)
    place = scratch.Scratch(name, path=path, keep=True)
    try:
        test.run(place)
        return 0
    except case.Skip as reason:
        print(reason)
        return SKIPPED
    except BaseException:  # pylint: disable=broad-except
        traceback.print_exc()
        return 1


def _ended(*unused):
    raise TimeoutError("the time of this test is over; it was here")
