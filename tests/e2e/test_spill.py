# SPDX-License-Identifier: Apache-2.0
"""Transactions larger than the page cache: SQLite writes before it commits, writes the same frames again, and leaves frames
of transactions behind that were rolled back."""
import contextlib
import os
import struct
import subprocess
import sys

from lib import check, clients
from lib.case import dice, equal, need, test, wait_for
from lib.cluster import Cluster

PAGES = 60  # the table takes about so many pages of 1 kB; the cache has 5
STATE = "SELECT count(*), sum(n), sum(length(a)), group_concat(substr(hex(a), 1, 8)) FROM t"


class Database:
    def __init__(self, stack, c, mode, rng):
        self.c, self.mode, self.rng = c, mode, rng
        clients.prepare(c[0], "app.db", "page_size=1024", "journal_mode=" + mode)
        self.db = stack.enter_context(contextlib.closing(c[0].connect("app.db")))
        self.db.execute("PRAGMA journal_mode=" + mode)
        self.db.execute("PRAGMA cache_size=5")
        self.db.execute("PRAGMA wal_autocheckpoint=0")
        self.db.execute("CREATE TABLE t(n INTEGER PRIMARY KEY, a)")
        self.db.execute("BEGIN")
        for n in range(PAGES):
            self.db.execute("INSERT INTO t VALUES(?, ?)", (n, self.content()))
        self.db.execute("COMMIT")
        c.wait_level("app.db")
        self.there = stack.enter_context(contextlib.closing(c[1].connect("app.db")))
        self.beside = stack.enter_context(contextlib.closing(c[0].connect("app.db")))

    def content(self):
        return self.rng.randbytes(700)

    def change(self, first=0, last=PAGES):
        for n in range(first, last):
            self.db.execute("UPDATE t SET a = ? WHERE n = ?", (self.content(), n))

    def written(self):
        """Bytes that SQLite has written for a transaction so far: frames, or the journal."""
        name = self.c[0].db("app.db-wal" if self.mode == "wal" else "app.db-journal")
        return os.path.getsize(name) if os.path.exists(name) else 0

    def pos(self):
        return self.c[0].pos("app.db")

    def compare(self):
        self.c.wait_level("app.db")
        want = self.db.execute(STATE).fetchone()
        for db, who in ((self.beside, "another connection"), (self.there, "the replica")):
            equal(db.execute(STATE).fetchone() == want, True, "%s sees what the writer sees" % who)

    def end(self, scratch):
        self.compare()
        check.chain_gives(scratch, self.c[0], "app.db", check.same_everywhere(self.c, "app.db"))


@test(limit=60, each=("wal", "delete", "truncate", "persist"))
def a_spilled_transaction_that_writes_its_frames_again_is_one_record(scratch, mode):
    with Cluster(scratch) as c, contextlib.ExitStack() as stack:
        d = Database(stack, c, mode, dice())
        reader = clients.reader(scratch, c[1].db("app.db"), "--pause", "0.002")
        for turn in range(6):
            before, empty = d.pos(), d.written()
            d.db.execute("BEGIN")
            d.change()
            spilled = d.written()
            need(spilled > empty + PAGES * 512 or mode != "wal" and spilled > PAGES * 512, "nothing was spilled: %d, %d",
                 empty, spilled)
            for _ in range(3):
                d.change()
            if mode == "wal":
                # What is written again goes over the frames that are there.
                need(d.written() <= spilled + 20 * 1048, "the -wal has grown from %d to %d bytes", spilled, d.written())
            equal(d.pos(), before, "the position in the middle of a transaction")
            if turn % 2:
                d.db.execute("INSERT INTO t VALUES(?, ?)", (PAGES + turn, d.content()))
            d.db.execute("COMMIT")
            equal(d.pos()[0], before[0] + 1, "the TXID after the commit")
            d.compare()
            if mode == "wal" and turn == 3:
                equal(d.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0], 0, "the checkpoint")
        need(reader.stop()["checks"] > 0, "the reader has not looked once")
        d.end(scratch)


@test(limit=60, each=("wal", "delete", "persist", "memory"))
def a_savepoint_that_is_rolled_back_after_a_spill_leaves_nothing(scratch, mode):
    with Cluster(scratch) as c, contextlib.ExitStack() as stack:
        d = Database(stack, c, mode, dice())
        for turn in range(6):
            before = d.pos()
            d.db.execute("BEGIN")
            d.change(0, 10)
            kept = d.db.execute(STATE).fetchone()
            d.db.execute("SAVEPOINT outer")
            d.change()
            d.db.execute("SAVEPOINT inner")
            d.db.execute("DELETE FROM t WHERE n % 2")
            d.db.execute("CREATE TABLE u%d AS SELECT * FROM t" % turn)
            d.db.execute("ROLLBACK TO inner")
            d.change(20, 40)
            d.db.execute("ROLLBACK TO outer")
            equal(d.db.execute(STATE).fetchone() == kept, True, "the writer sees what was before the savepoint")
            if turn % 3 == 0:
                # Frames of the savepoint lie behind those of the transaction, or their pages are in the file.
                d.db.execute("COMMIT")
            elif turn % 3 == 1:
                d.change(40, 60)
                d.db.execute("RELEASE outer")
                d.db.execute("COMMIT")
            else:
                d.db.execute("ROLLBACK")
            if turn % 3 == 2:
                # (Without a journal on disk nothing says that it was a rollback; what it leaves is compared.)
                need(mode != "wal" or d.pos() == before, "a record of a transaction that was rolled back")
            elif mode != "memory":
                equal(d.pos()[0], before[0] + 1, "the TXID after the commit")
            wait_seen(d)
            d.compare()
        equal(d.db.execute("SELECT count(*) FROM sqlite_schema WHERE name LIKE 'u%'").fetchone(), (0,), "tables")
        d.end(scratch)


# Ends with a commit that SQLite 3.40 leaves unsealed in a new WAL: it meant to seal from the frame on that it wrote twice,
# and after the savepoint the transaction ends before it.
UNSEALED = ["PRAGMA cache_size=1", "BEGIN", "SAVEPOINT s",
            *("INSERT INTO t VALUES(%d, zeroblob(400)); UPDATE t SET b = '%d' WHERE a = 12" % (n, n) for n in range(2, 40)),
            "ROLLBACK TO s", "UPDATE t SET b = '%s' WHERE a = 1", "COMMIT"]


def prepare_one_row(c):
    clients.prepare(c[0], "app.db", "page_size=512", "journal_mode=WAL")
    with contextlib.closing(c[0].connect("app.db")) as db:
        db.execute("CREATE TABLE t(a INTEGER PRIMARY KEY, b)")
        db.execute("INSERT INTO t VALUES(1, 'one')")
    c.wait_level("app.db")


@test(limit=60)
def a_savepoint_that_is_rolled_back_to_the_first_frame_of_a_new_wal_leaves_nothing(scratch):
    with Cluster(scratch) as c, contextlib.ExitStack() as stack:
        prepare_one_row(c)
        there = stack.enter_context(contextlib.closing(c[1].connect("app.db")))
        for turn in range(4):
            with contextlib.closing(c[0].connect("app.db")) as db:
                db.execute("PRAGMA journal_mode=WAL")
                before = c[0].pos("app.db")
                db.executescript("; ".join(UNSEALED) % turn)
                equal(c[0].pos("app.db")[0], before[0] + 1, "the TXID after the commit")
                c.wait_level("app.db")
                equal(there.execute("SELECT * FROM t").fetchall(), [(1, str(turn))], "what the replica has")
                if turn % 2:
                    db.execute("UPDATE t SET b = 'more'")
                    c.wait_level("app.db")
                    equal(there.execute("SELECT * FROM t").fetchall(), [(1, "more")], "what the replica has")
                if turn == 2:
                    equal(db.execute("PRAGMA journal_mode=DELETE").fetchone(), ("delete",), "the mode")
        check.chain_gives(scratch, c[0], "app.db", check.same_everywhere(c, "app.db"))


WRITER = """
import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA locking_mode=" + sys.argv[2])
db.executescript(sys.argv[3])
os._exit(3)
"""


@test(limit=60, each=("killed", "exclusive", "no checkpoint"))
def a_commit_that_sqlite_leaves_unsealed_outlasts_its_writer(scratch, how):
    with Cluster(scratch) as c:
        prepare_one_row(c)
        for turn in range(6):
            script = "; ".join(UNSEALED) % turn
            if how == "no checkpoint":
                command = ["sqlite3", c[0].db("app.db"), ".dbconfig no_ckpt_on_close on", script]
            else:
                command = [sys.executable, "-c", WRITER, c[0].db("app.db"), how if how == "exclusive" else "normal", script]
            process = scratch.popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            equal(process.wait(30), 0 if how == "no checkpoint" else 3, "how the writer ended")
            # Nobody has the wal-index any more: the next connection reads the file.
            with contextlib.closing(c[0].connect("app.db")) as db:
                equal(db.execute("SELECT * FROM t").fetchall(), [(1, str(turn))], "what the next connection sees")
                if turn % 2:
                    db.execute("UPDATE t SET b = 'more'")
            c.wait_level("app.db")
        check.chain_gives(scratch, c[0], "app.db", check.same_everywhere(c, "app.db"))


def wait_seen(d):
    """journal_mode=MEMORY: its end shows when it is quiet."""
    if d.mode == "memory":
        want = d.db.execute(STATE).fetchone()
        wait_for(lambda: d.there.execute(STATE).fetchone() == want, 20, "the replica to see the same")


def frames(node, page_size=1024):
    """(page, commit size, salts) of every frame in the -wal, whatever transaction it belongs to, and the salts of the header."""
    with open(node.db("app.db-wal"), "rb") as f:
        data = f.read()
    found = [struct.unpack_from(">II8s", data, at) for at in range(32, len(data) - page_size - 23, page_size + 24)]
    return [(pgno, commit) for pgno, commit, salts in found if salts == data[16:24]]


@test(limit=60)
def frames_of_a_rolled_back_transaction_are_overwritten_by_the_next(scratch):
    with Cluster(scratch) as c, contextlib.ExitStack() as stack:
        d = Database(stack, c, "wal", dice())
        for turn in range(8):
            same = [d.content() for _ in range(PAGES)]

            def change(count):
                d.db.execute("BEGIN")
                for n in range(count):
                    d.db.execute("UPDATE t SET a = ? WHERE n = ?", (same[n], n))

            before, there = d.pos(), len(frames(c[0]))
            change(PAGES)
            need(len(frames(c[0])) >= there + PAGES // 2 if turn == 0 else True, "nothing was spilled")
            d.db.execute("ROLLBACK")
            equal(d.pos(), before, "the position after a rollback")
            left = len(frames(c[0]))
            d.compare()
            # The next begins with the same frames, to the byte, or with others; it is shorter, as long, or longer; then
            # frames of the one that was rolled back follow on its commit frame.
            if turn % 2:
                same = [d.content() for _ in range(PAGES)]
            change((3, PAGES // 2, PAGES)[turn % 3])
            if turn % 3 == 2:
                d.db.execute("INSERT INTO t SELECT n + %d, a FROM t" % (1000 * (turn + 1)))
            d.db.execute("COMMIT")
            equal(d.pos()[0], before[0] + 1, "the TXID after the commit")
            if turn % 3 == 0:
                last = max(i for i, (_, commit) in enumerate(frames(c[0])) if commit)
                need(last < left - 1, "no frame of the transaction before lies behind the commit: the test shows nothing")
            d.compare()
            if turn == 4:
                # The same connection goes on; the frames are what a start finds.
                d.db.execute("BEGIN")
                d.change()
                c[0].kill9()
                for db in (d.db, d.beside):
                    with contextlib.suppress(Exception):
                        db.close()
                c[0].start()
                d.db, d.beside = (stack.enter_context(contextlib.closing(c[0].connect("app.db"))) for _ in range(2))
                d.db.execute("PRAGMA cache_size=5")
                d.db.execute("PRAGMA wal_autocheckpoint=0")
                d.db.execute("INSERT INTO t VALUES(-1, NULL)")
                d.compare()
        d.end(scratch)
