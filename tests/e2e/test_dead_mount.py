# SPDX-License-Identifier: Apache-2.0
"""A daemon that was killed: what connections that are still open see of the files that the kernel has cached."""
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time

from lib.case import dice, figure, need, test, wait_for
from lib.cluster import Cluster

ROWS = 1500
LOOK = """
import os, sys
while True:
    try:
        os.stat(sys.argv[1])
    except OSError:
        pass
"""
SPILL = """
import sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA journal_mode=" + sys.argv[2])
db.execute("PRAGMA cache_size=5")
db.execute("BEGIN")
db.execute("UPDATE t SET v=v+1 WHERE id<=100")
print("spilled", flush=True)
time.sleep(60)
"""
KILLS = int(os.environ.get("TANDEMFS_KILLS") or 8)


def prepare(c, mode, rows=ROWS):
    c[0].sql("app.db", "PRAGMA page_size=4096", "PRAGMA journal_mode=" + mode,
             "CREATE TABLE t(id INTEGER PRIMARY KEY, v, filler)",
             "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i<%d)"
             "INSERT INTO t SELECT i, 0, zeroblob(3500) FROM n" % rows)
    c.wait_level("app.db")


def connect(node):
    return sqlite3.connect("file:%s?mode=ro" % node.db("app.db"), uri=True, isolation_level=None, timeout=5,
                           check_same_thread=False)


def is_served(db):
    try:
        need(db.execute("SELECT count(*), max(v) FROM t").fetchone() == (20, 0), "wrong content")
    except sqlite3.Error:
        return False
    return True


@test(limit=120, each=[(mode, node, how) for mode in ("wal", "delete", "truncate", "persist") for node in (0, 1)
                       for how in ("killed", "ended")])
def no_transaction_begins_without_its_daemon(scratch, case):
    mode, which, how = case
    with Cluster(scratch, nodes=2) as c:
        prepare(c, mode, 20)
        node = c[which]
        open_all = [connect(node) for _ in range(4)]
        open_all[1].execute("PRAGMA cache_size=0")  # all comes from the kernel's cache
        open_all[2].execute("PRAGMA mmap_size=%d" % (1 << 20))
        for db in open_all[:3]:  # the fourth begins only afterwards
            need(is_served(db), "a connection is not served")
        open_all[2].execute("PRAGMA mmap_size=0")  # or a fault would end this process, as SQLite's documents warn
        if how == "killed":
            node.kill9()
        else:
            node.term()
        for i, db in enumerate(open_all):
            wait_for(lambda: not is_served(db), 10, "an error in connection %d" % i)  # pylint: disable=cell-var-from-loop
            time.sleep(0.05)
            need(not is_served(db), "connection %d is served again", i)


@test(limit=60)
def a_transaction_that_has_begun_keeps_its_snapshot_without_its_daemon(scratch):
    with Cluster(scratch, nodes=2) as c:
        prepare(c, "wal", 20)
        db = connect(c[1])
        db.execute("BEGIN")
        need(is_served(db), "not served")
        c[0].sql("app.db", "UPDATE t SET v = 1")
        c.wait_level("app.db")
        need(connect(c[1]).execute("SELECT max(v) FROM t").fetchone() == (1,), "the replica has not applied it")
        c[1].kill9()
        for _ in range(20):
            if not is_served(db):  # what is not cached is an error; is_served fails at the new content
                break
            time.sleep(0.01)


def kill_guard(node):
    """The process that watches the daemon, which then has nobody to make the kernel forget."""
    with open("/proc/%d/task/%d/children" % (node.process.pid, node.process.pid), encoding="ascii") as f:
        for child in map(int, f.read().split()):
            with open("/proc/%d/comm" % child, encoding="ascii") as name:
                if name.read().strip() == "tandemfs-guard":
                    os.kill(child, signal.SIGKILL)
                    return
    raise AssertionError("the daemon has no guard")


@test(limit=60, each=[(mode, guard) for mode in ("delete", "truncate", "persist") for guard in (True, False)])
def nobody_reads_half_a_transaction_of_a_writer_that_died_after_its_daemon(scratch, case):
    """Its lock goes with it, and whether there is a journal to roll back nobody can tell any more."""
    mode, guard = case
    with Cluster(scratch, nodes=1) as c:
        prepare(c, mode, 200)
        reader = connect(c[0])
        reader.execute("PRAGMA cache_size=0")
        need(reader.execute("SELECT min(v), max(v), count(filler) FROM t").fetchone() == (0, 0, 200), "wrong content")
        writer = scratch.popen([sys.executable, "-c", SPILL, c[0].db("app.db"), mode], stdout=subprocess.PIPE)
        need(writer.stdout.readline() == b"spilled\n", "the writer has not come to the file")
        os.stat(c[0].db("app.db"))  # from now on the kernel would know the size of the file
        if not guard:
            kill_guard(c[0])
        c[0].kill9()
        writer.kill()
        writer.wait()
        try:
            found = reader.execute("SELECT min(v), max(v), count(filler) FROM t").fetchone()
        except sqlite3.Error:
            found = None
        need(found is None, "half a transaction was read: %s", found)
        c[0].start()
        need(c[0].sql("app.db", "SELECT min(v), max(v) FROM t") == [(0, 0)], "the transaction is not rolled back")


@test(limit=120 + 12 * KILLS, each=("delete", "truncate"))
def nobody_reads_half_a_record_when_the_applying_daemon_is_killed(scratch, mode):
    rng = dice()
    with Cluster(scratch, nodes=2) as c:
        prepare(c, mode, ROWS)
        going, begun, wrong, halves = True, 0, [], 0

        def write():
            db = sqlite3.connect(c[0].db("app.db"), timeout=30, isolation_level=None)
            db.execute("PRAGMA synchronous=OFF")
            while going:
                db.execute("UPDATE t SET v=v+1")

        def read():
            db, since = None, 0
            while going:
                try:
                    if db is None or since != begun:
                        db, since = connect(c[1]), begun
                        db.execute("PRAGMA busy_timeout=10")
                    got = db.execute("SELECT min(v), max(v) FROM t").fetchone()
                    if got[0] != got[1]:
                        wrong.append(got)
                    time.sleep(0.005)  # so that records are applied in place
                except sqlite3.Error:
                    db = None
                    time.sleep(0.001)

        # The kernel asks for the attributes again, between one write and the next.
        look = scratch.popen([sys.executable, "-c", LOOK, c[1].db("app.db")])
        threads = [threading.Thread(target=f) for f in (write, read)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(KILLS):
                time.sleep(0.2 + rng.random() * 0.3)
                c[1].kill9()
                with contextlib.closing(sqlite3.connect("file:%s?immutable=1" % os.path.join(c[1].data, "tree", "app.db"),
                                                        uri=True)) as db:
                    halves += db.execute("SELECT min(v) < max(v) FROM t").fetchone()[0]
                time.sleep(0.1)
                c[1].start()
                begun += 1
        finally:
            going = False
            for thread in threads:
                thread.join()
            look.kill()
            look.wait()
        need(not wrong, "half a record was read: %s", wrong[:5])
        figure("%s: killed within a record %d of %d times", mode, halves, KILLS)
        c.wait_level("app.db")
