# SPDX-License-Identifier: Apache-2.0
"""A writer in WAL mode that dies, or fails, between its commit frame and its entry in the wal-index, while others have the
database open: what was captured is what they see (I11), and they notice nothing.

build/tests/walstop.so is preloaded into the writer and ends it at exactly that point.
"""
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys

from lib import check
from lib.case import equal, need, test, wait_for
from lib.cluster import Cluster, TOP

WALSTOP = os.path.join(TOP, "build", "tests", "walstop.so")

# With "index" the wal-index has the lowest number of its descriptors: the kernel closes it first, and that drops the locks.
WRITER = """
import os, sqlite3, sys
if sys.argv[4] == "index":
    os.open(sys.argv[1] + "-shm", os.O_RDWR)
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
db.execute("PRAGMA synchronous=" + sys.argv[2])
first = int(sys.argv[3])
for n in range(first, first + 1000):
    db.execute("INSERT INTO t VALUES('victim', ?, randomblob(?))", (n, n * 700 % 9000))
    print(n, flush=True)
"""

# Writes as fast as it can; SQLITE_BUSY is an answer, anything else an error.
SURVIVOR = """
import json, signal, sqlite3, sys, time
stop = []
signal.signal(signal.SIGTERM, lambda *unused: stop.append(1))
path, timeout, tag = sys.argv[1], float(sys.argv[2]), sys.argv[3]
db = sqlite3.connect(path, isolation_level=None, timeout=timeout)
db.execute("SELECT count(*) FROM t").fetchall()
print("started", flush=True)
n, busy, errors = 0, 0, []
while not stop:
    try:
        if n % 3 == 0:
            db.execute("BEGIN")
            before = db.execute("SELECT count(*), max(n) FROM t").fetchone()
            db.execute("INSERT INTO t VALUES(?, ?, NULL)", (tag, n))
            if db.execute("SELECT count(*) FROM t").fetchone()[0] != before[0] + 1:
                errors.append("a transaction sees what others do")
            db.execute("COMMIT")
        else:
            db.execute("INSERT INTO t VALUES(?, ?, NULL)", (tag, n))
        n += 1
    except sqlite3.OperationalError as error:
        if error.sqlite_errorname.startswith("SQLITE_BUSY") if hasattr(error, "sqlite_errorname") else "locked" in str(error):
            busy += 1
        else:
            errors.append(str(error))
        if db.in_transaction:
            db.execute("ROLLBACK")
    time.sleep(0.0003 if timeout else 0)
print(json.dumps({"ok": n, "busy": busy, "errors": errors}), flush=True)
db.close()
"""


class Victim:
    """Runs until its n-th commit of this process, counted from 1; rows from `first` on."""

    def __init__(self, scratch, path, commit, after, signal_name="KILL", sync="FULL", first=1, how="main"):
        need(os.path.exists(WALSTOP), "%s has not been built", WALSTOP)
        self.first, self.commit = first, commit
        environment = dict(os.environ, LD_PRELOAD=WALSTOP, WALSTOP_COMMIT=str(commit), WALSTOP_AFTER=after,
                           WALSTOP_SIGNAL=signal_name)
        self.process = scratch.popen([sys.executable, "-c", WRITER, path, sync, str(first), how], env=environment,
                                     stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def die(self):
        """Waits until it has been killed; the numbers that were acknowledged, and the one that was not."""
        out, err = self.process.communicate(timeout=30)
        equal(self.process.returncode, -signal.SIGKILL, "the writer's end (%s)" % err[-500:])
        acked = [int(word) for word in out.split()]
        last = self.first + self.commit - 1
        equal(acked, list(range(self.first, last)), "what the writer had acknowledged")
        return acked, last


class Survivor:
    def __init__(self, scratch, path, timeout, tag):
        self.tag = tag
        self.process = scratch.popen([sys.executable, "-c", SURVIVOR, path, str(timeout), tag],
                                     stdout=subprocess.PIPE, text=True)
        equal(self.process.stdout.readline(), "started\n", "the survivor's first line")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        out = self.process.communicate(timeout=30)[0]
        result = json.loads(out.splitlines()[-1])
        equal(result["errors"], [], "what the survivor %s met" % self.tag)
        need(result["ok"] > 0, "the survivor %s wrote nothing", self.tag)
        return result


def create(node, name):
    node.sql(name, "PRAGMA journal_mode=wal", "CREATE TABLE t(tag, n, filler)")


def rows(node, name, tag):
    return [n for n, in node.sql(name, "SELECT n FROM t WHERE tag = '%s' ORDER BY n" % tag)]


@test(limit=120, each=[("write", "NORMAL", "main"), ("write", "FULL", "index"), ("sync", "FULL", "main")])
def a_writer_that_dies_before_its_wal_index_entry_is_not_noticed_by_the_others(scratch, case):
    after, sync, how = case
    with Cluster(scratch) as c:
        create(c[0], "app.db")
        path = c[0].db("app.db")
        survivors = [Survivor(scratch, path, 30, "patient"), Survivor(scratch, path, 0, "impatient")]
        want = []
        for turn in range(4):
            victim = Victim(scratch, path, 1 + turn % 4, after, sync=sync, first=100 * turn, how=how)
            acked, last = victim.die()
            want += acked + [last]
        done = [one.stop() for one in survivors]
        print("the survivors: %s" % done)
        c.wait_level("app.db")
        for node in c.nodes:
            # The last one was never acknowledged, but it is in the log: so it is there, everywhere.
            equal(rows(node, "app.db", "victim"), want, "rows of the dead on %s" % node.name)
            for one, result in zip(survivors, done):
                equal(rows(node, "app.db", one.tag), list(range(result["ok"])), "rows of a survivor on %s" % node.name)
        data = check.same_everywhere(c, "app.db")
        check.chain_gives(scratch, c[0], "app.db", data)


@test(limit=60)
def the_first_transaction_of_a_wal_survives_its_writer(scratch):
    """Until the wal-index says otherwise the next writer would begin the WAL anew, with other salts."""
    with Cluster(scratch) as c:
        for turn in range(6):
            name = "app%d.db" % turn
            create(c[0], name)
            with contextlib.closing(c[0].connect(name)) as keeps:
                keeps.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                survivors = [Survivor(scratch, c[0].db(name), 0, "a")] if turn % 2 else []
                Victim(scratch, c[0].db(name), 1, "write").die()
                keeps.execute("INSERT INTO t VALUES('keeps', 1, NULL)")
                for one in survivors:
                    one.stop()
            c.wait_level(name)
            for node in c.nodes:
                equal(rows(node, name, "victim"), [1], "rows of the dead in %s on %s" % (name, node.name))
                equal(rows(node, name, "keeps"), [1], "rows of the living in %s on %s" % (name, node.name))
            check.same_everywhere(c, name)


@test(limit=60)
def a_writer_that_stands_still_before_its_wal_index_entry_only_keeps_others_waiting(scratch):
    with Cluster(scratch) as c:
        create(c[0], "app.db")
        path = c[0].db("app.db")
        with contextlib.closing(c[0].connect("app.db", timeout=0)) as survivor:
            count = "SELECT count(*) FROM t"
            equal(survivor.execute(count).fetchone(), (0,), "rows before")
            victim = Victim(scratch, path, 3, "write", signal_name="STOP")
            wait_for(lambda: state_of(victim.process.pid) == "T", 30, "the writer to stand still")
            # Its commit is in the log, and with that on the replica; here nobody can see it yet.
            wait_for(lambda: os.path.exists(c[1].db("app.db")), 10, "the database on the replica")
            wait_for(lambda: rows(c[1], "app.db", "victim") == [1, 2, 3], 10, "the commit on the replica")
            equal(survivor.execute(count).fetchone(), (2,), "rows that a reader sees meanwhile")
            for _ in range(20):
                try:
                    survivor.execute("INSERT INTO t VALUES('survivor', 1, NULL)")
                    raise AssertionError("somebody else can write meanwhile")
                except sqlite3.OperationalError as error:
                    equal(str(error), "database is locked", "what another writer is told")
            before = c[0].log_text()
            victim.process.kill()
            # With no wait at all: whoever gets the lock after the dead one sees what it has written.
            def wrote():
                try:
                    survivor.execute("INSERT INTO t VALUES('survivor', 1, NULL)")
                    return True
                except sqlite3.OperationalError as error:
                    equal(str(error), "database is locked", "what another writer is told at the end")
            wait_for(wrote, 30, "the lock of the dead writer to be free", pause=0)
            victim.die()
            equal(survivor.execute(count).fetchone(), (4,), "rows after")
            need("of a writer that died" in c[0].log_text()[len(before):], "it is not said:\n%s", c[0].log_tail())
        check.same_everywhere(c, "app.db")


TRIES = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0)
db.execute("SELECT * FROM t").fetchone()
print("ready", flush=True)
for line in sys.stdin:
    try:
        db.execute("BEGIN IMMEDIATE")
        print("got", db.execute("SELECT count(*) FROM t").fetchone()[0], flush=True)
        db.execute("ROLLBACK")
    except sqlite3.OperationalError as error:
        print(error, flush=True)
"""


@test(limit=60, each=["main", "index"])
def the_lock_of_a_dying_writer_is_kept_until_the_daemon_has_seen_to_it(scratch, how):
    with Cluster(scratch, nodes=1) as c:
        create(c[0], "app.db")
        path = c[0].db("app.db")
        other = scratch.popen([sys.executable, "-c", TRIES, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                              bufsize=1)
        equal(other.stdout.readline(), "ready\n", "the other connection")
        victim = Victim(scratch, path, 2, "write", signal_name="STOP", how=how)
        pid = victim.process.pid
        wait_for(lambda: state_of(pid) == "T", 30, "the writer to stand still")
        files = [os.readlink("/proc/%d/fd/%d" % (pid, fd)) for fd in sorted(map(int, os.listdir("/proc/%d/fd" % pid)))]
        equal([name for name in files if name.startswith(path)][0], path + ("-shm" if how == "index" else ""),
              "the file that the kernel closes first")
        # With nothing to write back the kernel gets as far as the first file that it asks the daemon about.
        subprocess.run(["sync", "-d", path + "-shm"], check=True, timeout=20)
        c[0].stop_signal()
        try:
            victim.process.kill()
            wait_for(lambda: state_of(pid) in "DZ", 10, "the writer to die")
            answers = set()
            for _ in range(200):
                other.stdin.write("try\n")
                answers.add(other.stdout.readline())
            equal(answers, {"database is locked\n"}, "what others get while the daemon has not answered")
        finally:
            c[0].cont_signal()

        def got():
            other.stdin.write("try\n")
            line = other.stdout.readline()
            return line if line != "database is locked\n" else None
        equal(wait_for(got, 20, "the lock to be free", pause=0), "got 2\n", "what the next one with the lock sees")
        victim.die()
        other.stdin.close()
        equal(other.wait(10), 0, "the other's end")


def state_of(pid):
    with open("/proc/%d/stat" % pid) as f:
        return f.read().rsplit(")", 1)[1].split()[0]


FAILING = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
db.execute("PRAGMA synchronous=FULL")
first, after = sys.argv[2], sys.argv[3]
for n in range(int(first)):
    db.execute("INSERT INTO t VALUES('kept', ?, randomblob(3000))", (n,))
try:
    db.execute("BEGIN")
    db.execute("UPDATE t SET filler = zeroblob(500)")
    db.execute("INSERT INTO t SELECT 'failed', n, randomblob(9000) FROM t")
    db.execute("CREATE TABLE other(a)")
    db.execute("COMMIT")
    raise AssertionError("the commit has not failed")
except sqlite3.OperationalError as error:
    if str(error) != "disk I/O error":
        raise
if db.in_transaction:
    db.execute("ROLLBACK")
if after != "nothing":
    db.execute(after).fetchall()
print("ready", flush=True)
sys.stdin.readline()
db.close()
"""


@test(limit=90)
def a_commit_that_failed_after_its_frame_is_taken_back_everywhere(scratch):
    """Its writer lives, and has been told that it failed: the log follows what SQLite's connections see."""
    insert = "INSERT INTO t VALUES('kept', -1, NULL)"
    cases = [(3, insert), (0, insert), (3, "PRAGMA wal_checkpoint(TRUNCATE)"), (3, "DELETE FROM t WHERE n = 0"), (3, "VACUUM"),
             (3, "nothing")]
    with Cluster(scratch) as c:
        for i, (first, after) in enumerate(cases):
            name = "app%d.db" % i
            create(c[0], name)
            c[0].sql(name, "INSERT INTO t VALUES('old', 0, randomblob(20000))", "PRAGMA wal_checkpoint(TRUNCATE)")
            c.wait_level(name)
            with contextlib.closing(c[0].connect(name)) as other:
                other.execute("SELECT * FROM t").fetchone()
                environment = dict(os.environ, LD_PRELOAD=WALSTOP, WALSTOP_COMMIT=str(first + 1), WALSTOP_AFTER="sync",
                                   WALSTOP_SIGNAL="FAIL")
                process = scratch.popen([sys.executable, "-c", FAILING, c[0].db(name), str(first), after], env=environment,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                line = process.stdout.readline()
                need(line == "ready\n", "%s: %s", after, "" if line else process.stderr.read())
                want = other.execute("SELECT tag, n, length(filler) FROM t ORDER BY tag, n").fetchall()
                equal([row for row in want if row[0] == "failed"], [], "rows of the failed transaction, after %s" % after)
                if after != "nothing":
                    # No other write is needed for that.
                    wait_for(lambda: c[1].sql(name, "SELECT tag, n, length(filler) FROM t ORDER BY tag, n") == want, 10,
                             "%s on the replica to be as here, after %s" % (name, after))
                    other.execute("INSERT INTO t VALUES('later', 1, NULL)")
                process.communicate("\n", timeout=30)
                equal(process.returncode, 0, "the end of the process")
            data = check.same_everywhere(c, name)
            check.chain_gives(scratch, c[0], name, data)
            equal(c[0].sql(name, "SELECT count(*) FROM t WHERE tag = 'later'"), [(int(after != "nothing"),)], "later rows")


# The new process has the descriptors of the database until its program begins, and the kernel closes them then.
PARENT = """
import sqlite3, subprocess, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
for n in range(200):
    db.execute("INSERT INTO t VALUES('parent', ?, NULL)", (n,))
    subprocess.run(["true"], close_fds=False, check=True)
db.close()
"""


@test(limit=90)
def a_writer_may_start_programs(scratch):
    """What a close waits for must not be what the start of a program waits for (fs/db/dying.c)."""
    with Cluster(scratch) as c:
        create(c[0], "app.db")
        process = scratch.popen([sys.executable, "-c", PARENT, c[0].db("app.db")], stderr=subprocess.PIPE, text=True)
        try:
            _, said = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError("the writer hangs at the start of a program") from None
        equal((process.returncode, said), (0, ""), "the end of the writer")
        equal(len(rows(c[0], "app.db", "parent")), 200, "rows")
        check.same_everywhere(c, "app.db")
