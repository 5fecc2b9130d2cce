# SPDX-License-Identifier: Apache-2.0
"""PRAGMAs that change how SQLite writes, one after the other, with a replica attached and connections that stay open."""
import contextlib
import os
import random

from lib import check, clients
from lib.case import equal, need, test, wait_for
from lib.cluster import Cluster

ALL = ("delete", "truncate", "persist", "memory", "off", "wal")
LAST = "SELECT count(*), max(n), sum(length(filler)) FROM acked"


class Writer:
    """One connection to the primary that stays open, and one to the replica that must see the same."""

    def __init__(self, stack, c, name, *pragmas):
        self.c, self.name, self.n = c, name, 0
        clients.prepare(c[0], name, *pragmas)
        c.wait_level(name)
        self.db = stack.enter_context(contextlib.closing(c[0].connect(name)))
        self.there = stack.enter_context(contextlib.closing(c[1].connect(name)))

    def pragma(self, name, value, got=None):
        rows = self.db.execute("PRAGMA %s=%s" % (name, value)).fetchall()
        if got is not None:
            equal(rows, [(got,)], "PRAGMA %s=%s" % (name, value))

    def write(self, count, filler=600):
        for _ in range(count):
            self.n += 1
            clients.client.transaction(self.db, random.Random(self.n), "w", self.n)
        self.db.execute("UPDATE acked SET filler = randomblob(%d) WHERE n > %d" % (filler, self.n - count))

    def compare(self):
        # Without a journal on disk and without a sync nothing says when a transaction has ended.
        want = self.db.execute(LAST).fetchone()
        wait_for(lambda: self.there.execute(LAST).fetchone() == want, 20, lambda: "the replica to see %s; it sees %s" % (
            want, self.there.execute(LAST).fetchone()))
        self.c.wait_level(self.name)
        clients.client.check(self.there)

    def end(self, scratch):
        equal(self.db.execute(LAST).fetchone()[:2], (self.n, self.n), "rows on the primary")
        self.compare()
        check.chain_gives(scratch, self.c[0], self.name, check.same_everywhere(self.c, self.name))


@test(limit=120)
def a_database_leaves_wal_mode_and_comes_back_under_open_connections(scratch):
    with Cluster(scratch) as c, contextlib.ExitStack() as stack:
        w = Writer(stack, c, "app.db", "journal_mode=wal")
        reader = clients.reader(scratch, c[1].db("app.db"), "--pause", "0.002")
        largest = 0
        for mode in ("delete", "wal", "truncate", "wal", "persist", "memory", "wal", "delete", "wal", "delete"):
            # The connections to the replica have the WAL open all the time; the one on the primary changes the mode.
            w.pragma("journal_mode", mode, mode)
            w.write(12)
            w.compare()
            # More than a WAL holds: what is applied there as long as they are open is brought into the database.
            for _ in range(3):
                w.db.execute("UPDATE acked SET filler = randomblob(60000) WHERE n > %d" % (w.n - 12))
            w.compare()
            largest = max(largest, os.path.getsize(c[1].db("app.db-wal")))
            w.db.execute("UPDATE acked SET filler = NULL")
            check.same_everywhere(c, "app.db")
        need(reader.stop()["checks"] > 0, "the reader has not looked once")
        # 24 MB were written in this time.
        need(largest < 9 << 20, "the replica's -wal has grown to %d bytes", largest)
        w.there.close()
        wait_for(lambda: not os.path.exists(c[1].db("app.db-wal")), 10, "the -wal on the replica to go with its readers")
        w.there = stack.enter_context(contextlib.closing(c[1].connect("app.db")))
        w.end(scratch)
        equal(c[1].sql("app.db", "PRAGMA journal_mode"), [("delete",)], "the mode on the replica when they have gone")


@test(limit=60, each=("memory", "off"))
def journal_mode_memory_and_off_replicate(scratch, mode):
    with Cluster(scratch) as c, contextlib.ExitStack() as stack:
        w = Writer(stack, c, "app.db")
        w.pragma("journal_mode", mode, mode)
        reader = clients.reader(scratch, c[1].db("app.db"), "--pause", "0.002")
        for turn in range(4):
            w.write(10)
            # More than the cache holds, so that SQLite writes in the middle of the transaction.
            w.pragma("cache_size", 10)
            w.db.execute("BEGIN")
            w.db.execute("UPDATE acked SET filler = randomblob(%d)" % (3000 + turn))
            w.db.execute("CREATE TABLE t%d AS SELECT filler FROM acked" % turn)
            w.db.execute("COMMIT")
            w.compare()
            equal(w.there.execute("SELECT count(*) FROM t%d" % turn).fetchone(), (w.n,), "rows of the new table there")
            if mode == "memory":
                w.db.execute("BEGIN")
                w.db.execute("DELETE FROM acked")
                w.db.execute("ROLLBACK")
            if turn == 2:
                # A program that ends without closing anything.
                pid = os.fork()
                if pid == 0:
                    db = c[0].connect("app.db")
                    db.execute("PRAGMA journal_mode=" + mode)
                    clients.client.transaction(db, random.Random(1), "child", 1)
                    os._exit(0)
                equal(os.waitpid(pid, 0)[1], 0, "the child's end")
                c.wait_level("app.db")
                equal(c[1].sql("app.db", "SELECT count(*) FROM acked WHERE tag = 'child'"), [(1,)], "the child's row there")
                w.db.execute("BEGIN")
                w.db.execute("DELETE FROM acked WHERE tag = 'child'")
                w.db.execute("UPDATE total SET v = v - 1")
                w.db.execute("COMMIT")
        w.c.wait_level("app.db")
        reader.stop()
        w.end(scratch)


@test(limit=60)
def persist_with_a_journal_size_limit_replicates(scratch):
    with Cluster(scratch) as c, contextlib.ExitStack() as stack:
        w = Writer(stack, c, "app.db")
        w.pragma("journal_mode", "persist", "persist")
        w.write(20, filler=4000)
        for limit in (-1, 20000, 512, 0, 4096, -1):
            w.pragma("journal_size_limit", limit, limit)
            w.write(3)
            w.db.execute("UPDATE acked SET filler = randomblob(5000)")
            size = os.path.getsize(c[0].db("app.db-journal"))
            if limit >= 0:
                need(size <= limit, "the journal has %d bytes, and a limit of %d", size, limit)
            else:
                need(size > 50000, "the journal has %d bytes only", size)
            w.compare()
            with contextlib.suppress(ZeroDivisionError):
                w.db.execute("BEGIN")
                w.db.execute("UPDATE acked SET filler = NULL")
                w.db.execute("ROLLBACK")
            w.compare()
        # The same word limits the -wal.
        w.pragma("journal_mode", "wal", "wal")
        w.pragma("journal_size_limit", 10000, 10000)
        w.db.execute("UPDATE acked SET filler = randomblob(9000)")
        need(os.path.getsize(c[0].db("app.db-wal")) > 200000, "the -wal is short anyway")
        equal(w.db.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()[0], 0, "the checkpoint")
        w.write(1)
        need(os.path.getsize(c[0].db("app.db-wal")) <= 60000, "the -wal was not cut")
        w.end(scratch)


@test(limit=90, each=ALL)
def exclusive_locking_mode_replicates(scratch, mode):
    with Cluster(scratch) as c, contextlib.ExitStack() as stack:
        w = Writer(stack, c, "app.db")
        reader = clients.reader(scratch, c[1].db("app.db"), "--pause", "0.002")
        w.pragma("locking_mode", "exclusive", "exclusive")
        w.pragma("journal_mode", mode, mode)
        w.write(10)
        if mode == "wal":
            need(not os.path.exists(c[0].db("app.db-shm")), "there is a wal-index: this is not what was to be tried")
        w.compare()
        if mode != "off":
            w.db.execute("BEGIN")
            w.db.execute("DELETE FROM acked")
            w.db.execute("ROLLBACK")
        if mode == "wal":
            # Without a wal-index there is no way back but another connection.
            w.db.close()
            w.db = stack.enter_context(contextlib.closing(c[0].connect("app.db")))
            w.db.execute(LAST).fetchone()
        else:
            w.pragma("locking_mode", "normal", "normal")
        w.write(10)
        w.compare()
        # In WAL mode, with a wal-index that is there already.
        w.pragma("locking_mode", "exclusive", "exclusive")
        w.write(10)
        if mode == "wal":
            equal(w.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0], 0, "the checkpoint")
            w.write(3)
        w.compare()
        w.db.close()
        w.db = stack.enter_context(contextlib.closing(c[0].connect("app.db")))
        need(reader.stop()["checks"] > 0, "the reader has not looked once")
        w.end(scratch)


@test(limit=60, each=("delete", "persist", "memory", "off"))
def what_an_exclusive_writer_changes_is_noticed_by_idle_connections(scratch, mode):
    """It counts its first change alone, and a connection in a rollback mode looks at nothing but that counter."""
    with Cluster(scratch) as c, contextlib.ExitStack() as stack:
        state = "SELECT sum(amount), count(DISTINCT amount) FROM acct"
        # Several, because the connection shall look when the replica has done all that follows from the change, and no
        # event tells of that.
        for i in range(5):
            w = Writer(stack, c, "app%d.db" % i)
            w.pragma("locking_mode", "exclusive", "exclusive")
            w.pragma("journal_mode", mode, mode)
            for turn in range(1, 4):
                w.there.execute(state).fetchall()
                before = c[0].pos(w.name)
                w.db.execute("UPDATE acct SET amount = %d" % (100 + turn))
                want = w.db.execute(state).fetchone()
                wait_for(lambda: c[0].pos(w.name) != before, 10, "a record of the change")
                c.wait_level(w.name)
                equal(w.there.execute(state).fetchone(), want, "what a connection sees that was idle meanwhile")
            w.db.close()
            if i < 4:
                w.there.close()
        # An ordinary writer counts, and then the replica needs no WAL any more.
        for name in c[0].databases():
            c[0].sql(name, "UPDATE acct SET amount = 100")
        c.wait_level()
        need(os.path.exists(c[1].db(w.name + "-wal")), "the -wal has gone under a connection that has it open")
        w.there.close()
        for name in c[0].databases():
            wait_for(lambda name=name: not os.path.exists(c[1].db(name + "-wal")), 10, "the -wal on the replica to go")
            check.same_everywhere(c, name)


@test(limit=60, each=ALL)
def synchronous_off_replicates(scratch, mode):
    with Cluster(scratch) as c, contextlib.ExitStack() as stack:
        w = Writer(stack, c, "app.db")
        w.pragma("journal_mode", mode, mode)
        w.pragma("synchronous", "off")
        equal(w.db.execute("PRAGMA synchronous").fetchone(), (0,), "synchronous")
        for _ in range(3):
            w.write(15)
            w.compare()
        w.db.execute("VACUUM")
        w.write(2)
        if mode == "wal":
            equal(w.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0], 0, "the checkpoint")
        w.compare()
        w.db.close()
        w.there.close()
        # Nobody has asked for anything to be on disk; a kill of the daemon alone loses nothing all the same.
        for node in c.nodes:
            node.restart(kill=True)
        w.db = stack.enter_context(contextlib.closing(c[0].connect("app.db")))
        w.there = stack.enter_context(contextlib.closing(c[1].connect("app.db")))
        w.end(scratch)


@test(limit=60, each=("wal", "delete"))
def mmap_size_on_primary_and_replica_shows_every_change(scratch, mode):
    with Cluster(scratch) as c, contextlib.ExitStack() as stack:
        w = Writer(stack, c, "app.db", "journal_mode=" + mode)
        other = stack.enter_context(contextlib.closing(c[0].connect("app.db")))
        for db in (w.db, other, w.there):
            equal(db.execute("PRAGMA mmap_size=%d" % (64 << 20)).fetchone(), (64 << 20,), "mmap_size")
        w.pragma("journal_mode", mode, mode)
        w.db.execute("CREATE TABLE still AS SELECT randomblob(3000) AS a FROM acct")
        for turn in range(4):
            w.write(20, filler=3000)
            if mode == "wal":
                # Enough for the replica to bring its WAL into the database file.
                for _ in range(4):
                    w.db.execute("UPDATE acked SET filler = randomblob(60000) WHERE n > %d" % (w.n - 20))
            if turn == 2:
                # The file shrinks under the mappings, then grows again.
                w.db.execute("DELETE FROM acked WHERE n <= %d" % (w.n - 5))
                w.db.execute("UPDATE total SET v = 5")
                w.db.execute("VACUUM")
            if mode == "wal":
                # What is in the database file is read through the mapping.
                equal(w.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0], 0, "the checkpoint")
            w.compare()
            equal(other.execute(LAST).fetchone(), w.db.execute(LAST).fetchone(), "another connection's view")
            for node, db in ((c[0], other), (c[1], w.there)):
                equal(db.execute("SELECT sum(length(a)) FROM still").fetchone(), (50 * 3000,), "what has not changed")
                with open("/proc/self/maps") as f:
                    mapped = any(line.rstrip().endswith(node.db("app.db")) for line in f)
                # After the VACUUM all of it may be in the replica's WAL.
                need(mapped or turn > 1, "%s: it is not mapped", node.name)
        data = check.same_everywhere(c, "app.db")
        check.chain_gives(scratch, c[0], "app.db", data)
