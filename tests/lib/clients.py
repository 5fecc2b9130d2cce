# SPDX-License-Identifier: Apache-2.0
"""Starts client.py processes and gathers what they did."""
import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys

from lib import client
from lib.case import need, wait_for

PROGRAM = os.path.abspath(client.__file__)


class Client:
    def __init__(self, scratch, kind, paths, *options, tag=None):
        self.tag = tag
        self.out = scratch.join("%s-%s-%d.out" % (kind, tag or "", len(os.listdir(scratch.path))))
        command = [sys.executable, PROGRAM, kind, *paths, *options]
        if tag:
            command += ["--tag", tag]
        with open(self.out, "wb") as out:
            self.process = scratch.popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
        self.wait_text("started")

    def text(self):
        with open(self.out, errors="replace") as f:
            return f.read()

    def acked(self):
        """Numbers of the rows whose COMMIT has returned. The last line may be cut while it runs."""
        return [int(line) for line in re.findall(r"^(\d+)\n", self.text(), re.M)]

    def said(self):
        """All but the numbers of its rows."""
        return re.sub(r"(?m)^\d+\n", "", self.text())[-3000:]

    def check_alive(self):
        need(self.process.poll() is None, "a client has ended early:\n%s", self.said())

    def wait_acked(self, more, limit=60):
        """Until so many more rows than now are acknowledged."""
        have = len(self.acked())

        def enough():
            self.check_alive()
            return len(self.acked()) >= have + more
        wait_for(enough, limit, lambda: "a writer to commit %d rows; it has %d more:\n%s" % (
            more, len(self.acked()) - have, self.said()), pause=0.02)

    def wait_text(self, pattern, limit=30):
        return wait_for(lambda: re.search(pattern, self.text()), limit, lambda: "%s in %s" % (
            pattern, self.text()[-500:]), pause=0.02)

    def wait_looked(self, times=1, limit=60):
        """Until a reader with --tell has told so many times more."""
        have = self.text().count("looked")

        def enough():
            self.check_alive()
            return self.text().count("looked") >= have + times
        wait_for(enough, limit, lambda: "a reader to look:\n%s" % self.said(), pause=0.02)

    def kill9(self):
        self.process.kill()
        self.process.wait()

    def stop(self, limit=60):
        """Ends it and returns what it says it did; fails if it had failed."""
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(limit)
        except subprocess.TimeoutExpired:
            raise AssertionError("a client does not end:\n%s" % self.said()) from None
        text = self.text()
        need(status == 0, "a client failed (status %s):\n%s", status, self.said())
        return json.loads(text.strip().splitlines()[-1])


def writers(scratch, paths, count, *options):
    # SQLite's writers wait by sleeping: without a pause the one that has the lock takes it again, for seconds.
    if count > 1 and "--pause" not in options:
        options += ("--pause", "0.003")
    return [Client(scratch, "writer", paths, *options, tag="w%d" % i) for i in range(count)]


def reader(scratch, path, *options):
    return Client(scratch, "reader", [path], *options)


def prepare(node, name, *pragmas):
    """A new database with the tables of client.py."""
    with contextlib.closing(node.connect(name)) as db:
        for pragma in pragmas:
            db.execute("PRAGMA " + pragma)
        client.create(db)


def need_rows(node, name, clients):
    """Every acknowledged row is there, on this node."""
    # Not only to read: a writer that was killed may have left a transaction to roll back.
    with contextlib.closing(sqlite3.connect("file:%s?mode=rw" % node.db(name), uri=True, timeout=20)) as db:
        for one in clients:
            # First what was promised, then what is there: the writer may still be at work.
            acked = one.acked()
            there = {n for n, in db.execute("SELECT n FROM acked WHERE tag = ?", (one.tag,))}
            need(acked, "writer %s has committed nothing:\n%s", one.tag, one.said())
            missing = [n for n in acked if n not in there]
            need(not missing, "%s: %d of %d acknowledged rows of %s are missing: %s", node.name, len(missing),
                 len(acked), one.tag, missing[:10])
        db.isolation_level = None
        client.check(db)
