# SPDX-License-Identifier: Apache-2.0
"""A thousand databases on one node, and a thousand connections to one of them."""
import concurrent.futures
import contextlib
import os
import re
import resource
import subprocess
import sys

from lib import check
from lib.case import equal, figure, need, test, wait_for
from lib.cluster import Cluster

COUNT = 1000


def status(pid, field):
    with open("/proc/%d/status" % pid) as f:
        return int(re.search(r"(?m)^%s:\s+(\d+)" % field, f.read()).group(1))


def show(c, when):
    for node in c.nodes:
        pid = node.process.pid
        figure("%s, %s: %.1f MB resident, %d descriptors, %d threads", node.name, when, status(pid, "VmRSS") / 1e3,
               len(os.listdir("/proc/%d/fd" % pid)), status(pid, "Threads"))


@test(limit=240)
def a_thousand_databases_on_one_node_replicate(scratch):
    names = ["folder%d/%03d.db" % (i % 10, i) for i in range(COUNT)]
    with Cluster(scratch) as c, concurrent.futures.ThreadPoolExecutor(8) as pool:
        for i in range(10):
            os.mkdir(c[0].db("folder%d" % i))

        def create(i):
            c[0].sql(names[i], "PRAGMA synchronous=off", "PRAGMA journal_mode=" + ("wal" if i % 2 else "delete"),
                     "CREATE TABLE t(a)", "INSERT INTO t VALUES(%d)" % i)

        def add(i):
            c[0].sql(names[i], "PRAGMA synchronous=off", "INSERT INTO t VALUES(%d)" % -i)

        def look(i):
            return c[1].sql(names[i], "SELECT count(*), sum(a), max(a) FROM t")[0]
        list(pool.map(create, range(COUNT)))
        c.wait_level(*names, limit=60)
        show(c, "with %d databases" % COUNT)
        equal(len(c[0].info()["databases"]), COUNT, "databases in /info")
        c[0].restart()
        list(pool.map(add, range(COUNT)))
        c.wait_level(*names, limit=60)
        equal(list(pool.map(look, range(COUNT))), [(2, 0, i) for i in range(COUNT)], "rows on the replica")
        for name in names[::250] + names[1::250]:
            check.same_everywhere(c, name)
        c[1].restart(kill=True)
        show(c, "after a restart")
        c[0].sql(names[-1], "INSERT INTO t VALUES(7)")
        c.wait_level(*names, limit=30)


@test(limit=90)
def a_quiet_replica_gives_its_descriptors_back(scratch):
    names = ["%02d.db" % i for i in range(40)]
    with Cluster(scratch) as c, contextlib.ExitStack() as stack:
        def write(value):
            for name in names:
                c[0].sql(name, "PRAGMA synchronous=off", "PRAGMA journal_mode=wal", "CREATE TABLE IF NOT EXISTS t(a)",
                         "INSERT INTO t VALUES(%d)" % value)
            c.wait_level(*names)
        write(1)

        def descriptors():
            return len(os.listdir("/proc/%d/fd" % c[1].process.pid))
        busy = descriptors()
        need(busy > 9 * len(names), "only %d descriptors are in use", busy)
        # Connections that stay open keep theirs; what they read stays right when the replica has let go.
        readers = [stack.enter_context(contextlib.closing(c[1].connect(name))) for name in names[:5]]
        for reader in readers:
            reader.execute("BEGIN")
            equal(reader.execute("SELECT sum(a) FROM t").fetchone(), (1,), "the sum")
        wait_for(lambda: descriptors() < 5 * len(names), 40, "descriptors to be given back: %d of them" % busy, pause=0.2)
        figure("%d databases in WAL mode: %d descriptors, then %d", len(names), busy, descriptors())
        write(2)
        for reader in readers:
            equal(reader.execute("SELECT sum(a) FROM t").fetchone(), (1,), "the sum in the old transaction")
            reader.execute("COMMIT")
            equal(reader.execute("SELECT sum(a) FROM t").fetchone(), (3,), "the sum after it")
        for name in names[::8]:
            check.chain_gives(scratch, c[0], name, check.same_everywhere(c, name))
        c[1].restart(kill=True)
        equal([c[1].sql(name, "SELECT sum(a) FROM t") for name in names], [[(3,)]] * len(names), "sums after a kill")


CONNECTIONS = """
import sqlite3, sys
path, count = sys.argv[1], int(sys.argv[2])
all = []
for i in range(count):
    all.append(sqlite3.connect(path, timeout=60, isolation_level=None))
    all[-1].execute("SELECT count(*) FROM t").fetchone()
print("open", flush=True)
for line in sys.stdin:
    word, number = line.split()
    seen = set()
    for db in all:
        if word == "begin":
            db.execute("BEGIN")
        if word != "write":
            seen.add(db.execute("SELECT count(*) FROM t").fetchone()[0])
        if word == "end":
            db.execute("COMMIT")
    if word == "write":
        for db in all[:3]:
            db.execute("INSERT INTO t VALUES(?)", (int(number),))
    print(word, *sorted(seen), flush=True)
"""


class Crowd:
    """Processes with many connections each, in step."""

    def __init__(self, scratch, path, processes, connections):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.processes = [scratch.popen([sys.executable, "-c", CONNECTIONS, path, str(connections)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, bufsize=1,
                                        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard)))
                          for _ in range(processes)]
        self.answers("open")

    def answers(self, word):
        found = set()
        for process in self.processes:
            line = process.stdout.readline().split()
            need(line and line[0] == word, "a process with connections answers %r to %s", line, word)
            found |= set(map(int, line[1:]))
        return found

    def ask(self, word, number=0):
        for process in self.processes:
            process.stdin.write("%s %d\n" % (word, number))
        return self.answers(word)

    def end(self):
        for process in self.processes:
            process.stdin.close()
        for process in self.processes:
            equal(process.wait(60), 0, "the end of a process with connections")


@test(limit=240, each=("wal", "delete"))
def a_thousand_open_connections_see_every_change(scratch, mode):
    with Cluster(scratch) as c:
        c[0].sql("app.db", "PRAGMA journal_mode=" + mode, "CREATE TABLE t(a)", "INSERT INTO t VALUES(0)")
        c.wait_level("app.db")
        here = Crowd(scratch, c[0].db("app.db"), 10, COUNT // 10)
        there = Crowd(scratch, c[1].db("app.db"), 10, COUNT // 10)
        show(c, "with %d connections to each" % COUNT)
        rows = 1
        for turn in range(2):
            equal(here.ask("look"), {rows}, "rows that connections on the primary see")
            equal(there.ask("look"), {rows}, "rows that connections on the replica see")
            if mode == "wal":
                # All of them in a transaction at once, while others write: each keeps what it sees.
                equal(here.ask("begin") | there.ask("begin"), {rows}, "rows in transactions")
                for i in range(5):
                    c[0].sql("app.db", "INSERT INTO t VALUES(%d)" % i)
                c.wait_level("app.db")
                equal(here.ask("end") | there.ask("end"), {rows}, "rows in the same transactions later")
            else:
                for i in range(5):
                    c[0].sql("app.db", "INSERT INTO t VALUES(%d)" % i)
            # Thirty of them write, ten at a time.
            here.ask("write", turn)
            rows += 35
            c.wait_level("app.db")
        equal(here.ask("look") | there.ask("look"), {rows}, "rows that everybody sees")
        here.end()
        there.end()
        wait_for(lambda: c[0].pos("app.db") is not None, 5, "the position")
        with contextlib.closing(c[1].connect("app.db")) as db:
            equal(db.execute("SELECT count(*) FROM t").fetchone(), (rows,), "rows on the replica")
        check.chain_gives(scratch, c[0], "app.db", check.same_everywhere(c, "app.db"))
