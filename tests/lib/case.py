# SPDX-License-Identifier: Apache-2.0
"""What a test file says about its tests.

A test is a function that takes a Scratch; its name is a sentence. tests/run starts each in a process of
its own, with a time limit. `each` makes one test per value: the value is passed as a second argument.
"""
import random
import time

TESTS = []


class Skip(Exception):
    """This machine cannot show it; the text says why."""


class Test:
    def __init__(self, function, name, limit, alone, full, sqlite, value, has_value):
        self.function, self.name, self.limit, self.alone, self.full = function, name, limit, alone, full
        self.sqlite, self.value, self.has_value = sqlite, value, has_value

    def run(self, scratch):
        if self.has_value:
            self.function(scratch, self.value)
        else:
            self.function(scratch)


def test(limit=60, alone=False, each=None, full=False, sqlite=False):
    """limit: seconds. alone: measures time, so no other test may run meanwhile. full: takes more than a minute, so
    it is run with --full only. sqlite: needs SQLite's own programs, which take minutes to build."""
    def add(function):
        if each is None:
            TESTS.append(Test(function, function.__name__, limit, alone, full, sqlite, None, False))
        else:
            for value in each:
                words = value if isinstance(value, tuple) else (value,)
                name = "%s[%s]" % (function.__name__, ",".join(str(w) for w in words))
                TESTS.append(Test(function, name, limit, alone, full, sqlite, value, True))
        return function
    return add


def need(condition, text, *values):
    """An assertion that says what was found."""
    if not condition:
        raise AssertionError(text % values if values else text)


def figure(text, *values):
    """Something measured, which is shown although the test passes."""
    print("figure: " + text % values, flush=True)


def equal(got, want, what):
    need(got == want, "%s: got %s, want %s", what, shorten(got), shorten(want))


def shorten(value):
    text = repr(value)
    return text if len(text) <= 300 else text[:300] + "..."


def wait_for(condition, limit, what, pause=0.01):
    """Waits until condition() gives something true and returns that. The text says what is waited for."""
    end = time.monotonic() + limit
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError("waited %g s in vain for %s" % (
                limit, what() if callable(what) else what))
        time.sleep(pause)


def dice(seed=None):
    """A random generator whose seed stands in the output of a failed test."""
    import os
    if seed is None:
        seed = int(os.environ.get("TANDEMFS_SEED") or random.SystemRandom().getrandbits(32))
    print("seed: %d (repeat with TANDEMFS_SEED=%d)" % (seed, seed), flush=True)
    return random.Random(seed)
