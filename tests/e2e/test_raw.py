# SPDX-License-Identifier: Apache-2.0
"""Files of a database that are changed by programs that are not SQLite: what a connection would find in them counts."""
import contextlib
import os
import shutil
import sqlite3
import struct

from lib import check
from lib.case import equal, test, wait_for
from lib.cluster import Cluster

COUNT = "SELECT count(*), max(a) FROM t"


def unfinished(scratch, mode):
    """The files of a database as a killed program leaves them: {suffix: path}. In WAL mode 30 rows, 20 of them in the
    -wal alone; else 10 rows, and a journal that takes a large transaction back."""
    path = scratch.join("source-%s.db" % mode)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=" + mode)
        db.execute("CREATE TABLE t(a, b)")
        for i in range(1, 11):
            db.execute("INSERT INTO t VALUES(?, randomblob(2000))", (i,))
        if mode == "wal":
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            for i in range(11, 31):
                db.execute("INSERT INTO t VALUES(?, randomblob(2000))", (i,))
        else:
            db.execute("PRAGMA cache_size=2")
            db.execute("BEGIN IMMEDIATE")
            db.execute("UPDATE t SET a = a + 1000, b = randomblob(2000)")
        files = {}
        for suffix in ("", "-wal", "-shm", "-journal"):
            if os.path.exists(path + suffix):
                files[suffix] = "%s.copy%s" % (path, suffix)
                shutil.copyfile(path + suffix, files[suffix])
    return files


def put(node, name, files, order):
    for suffix in order:
        shutil.copyfile(files[suffix], node.db(name) + suffix)


def wait_rows(node, name, want):
    def rows():
        try:
            return node.sql(name, COUNT) == [want]
        except sqlite3.Error:
            return False
    wait_for(rows, 15, lambda: "%s on %s to hold %s" % (name, node.name, want))


@test(limit=90)
def a_database_and_its_wal_are_copied_in_any_order(scratch):
    files = unfinished(scratch, "wal")
    orders = {"a.db": ("", "-wal"), "b.db": ("-wal", ""), "c.db": ("-shm", "-wal", ""), "d.db": ("", "-shm", "-wal")}
    with Cluster(scratch) as c:
        for name, order in orders.items():
            put(c[0], name, files, order)
            # Nobody has opened it on the primary.
            wait_rows(c[1], name, (30, 30))
        for name in orders:
            equal(c[0].sql(name, COUNT), [(30, 30)], "rows of %s on the primary" % name)
            c[0].sql(name, "INSERT INTO t VALUES(31, 0)")
            c.wait_level(name)
            equal(c[1].sql(name, COUNT), [(31, 31)], "rows of %s on the replica" % name)
            check.chain_gives(scratch, c[0], name, check.same_everywhere(c, name))


@test(limit=60, each=("nobody has it open", "an older file of the name is open"))
def what_is_cut_off_a_wal_by_hand_is_gone_everywhere(scratch, case):
    files = unfinished(scratch, "wal")
    with Cluster(scratch) as c, contextlib.ExitStack() as held:
        if case.startswith("an older"):
            put(c[0], "app.db", files, ("", "-wal"))
            for suffix in ("", "-wal"):
                held.enter_context(open(c[0].db("app.db" + suffix), "rb"))
                os.unlink(c[0].db("app.db" + suffix))
        put(c[0], "app.db", files, ("", "-wal"))
        wait_rows(c[1], "app.db", (30, 30))
        with open(files["-wal"], "rb") as f:
            page_size = struct.unpack(">I", f.read(12)[8:])[0]
        frames = (os.path.getsize(files["-wal"]) - 32) // (24 + page_size)
        commits = []
        with open(files["-wal"], "rb") as f:
            for i in range(frames):
                f.seek(32 + i * (24 + page_size))
                if struct.unpack(">II", f.read(8))[1]:
                    commits.append(i)
        # The checksum of the frame after the eleventh commit is no longer right.
        with open(c[0].db("app.db-wal"), "r+b") as f:
            f.seek(32 + (commits[10] + 1) * (24 + page_size) + 16)
            f.write(b"\0" * 8)
        wait_rows(c[1], "app.db", (21, 21))
        equal(c[0].sql("app.db", COUNT), [(21, 21)], "rows on the primary")
        c[0].sql("app.db", "INSERT INTO t VALUES(22, 0)")
        c.wait_level("app.db")
        equal(c[1].sql("app.db", COUNT), [(22, 22)], "rows on the replica")
        c[0].integrity("app.db")
        check.same_everywhere(c, "app.db")


@test(limit=60)
def a_wal_is_moved_away_and_back(scratch):
    files = unfinished(scratch, "wal")
    with Cluster(scratch) as c:
        put(c[0], "app.db", files, ("", "-wal"))
        wait_rows(c[1], "app.db", (30, 30))
        os.rename(c[0].db("app.db-wal"), c[0].db("kept"))
        wait_rows(c[1], "app.db", (10, 10))
        os.rename(c[0].db("kept"), c[0].db("app.db-wal"))
        wait_rows(c[1], "app.db", (30, 30))
        equal(c[0].sql("app.db", COUNT), [(30, 30)], "rows on the primary")
        check.same_everywhere(c, "app.db")


@test(limit=60)
def a_hot_journal_that_is_put_there_takes_the_transaction_back_everywhere(scratch):
    files = unfinished(scratch, "delete")
    with Cluster(scratch) as c:
        put(c[0], "copied.db", files, ("-journal", ""))
        shutil.copyfile(files["-journal"], c[0].db("other"))
        shutil.copyfile(files[""], c[0].db("moved.db"))
        os.rename(c[0].db("other"), c[0].db("moved.db-journal"))
        shutil.copyfile(files["-journal"], c[0].db("z.db-journal"))
        os.rename(c[0].db("z.db-journal"), c[0].db("moved.db-journal"))
        for name in ("copied.db", "moved.db"):
            equal(c[0].sql(name, COUNT), [(10, 10)], "rows of %s on the primary" % name)
            wait_rows(c[1], name, (10, 10))
            c[0].sql(name, "INSERT INTO t VALUES(11, 0)")
            c.wait_level(name)
            equal(c[1].sql(name, COUNT), [(11, 11)], "rows of %s on the replica" % name)
            check.same_everywhere(c, name)


@test(limit=60)
def a_page_that_is_written_by_hand_beside_a_wal_replicates(scratch):
    files = unfinished(scratch, "wal")
    with Cluster(scratch) as c:
        put(c[0], "app.db", files, ("", "-wal"))
        wait_rows(c[1], "app.db", (30, 30))
        # As rsync --inplace does it: bytes in the middle of the file's last page, which the -wal does not hold.
        with open(c[0].db("app.db"), "r+b") as f:
            f.seek(0, os.SEEK_END)
            at = f.tell() - 1000
            f.seek(at)
            f.write(b"by hand")
            f.flush()
            os.fsync(f.fileno())
        c.wait_level("app.db")
        check.same_everywhere(c, "app.db")
        copy = c[1].export("app.db")
        equal(copy[at:at + 7], b"by hand", "the bytes on the replica")
        equal(c[0].sql("app.db", COUNT), [(30, 30)], "rows on the primary")


def write_at(node, name, at, data):
    with open(node.db(name), "r+b") as f:
        f.seek(at)
        f.write(data)


@test(limit=60, each=("a newer schema format", "an impossible payload fraction"))
def a_header_that_sqlite_refuses_replicates(scratch, header):
    at, wrong, right = {"a newer schema format": (44, b"\0\0\0\5", b"\0\0\0\4"),
                        "an impossible payload fraction": (21, b"\7", b"\x40")}[header]
    with Cluster(scratch) as c:
        c[0].sql("app.db", "PRAGMA journal_mode=WAL", "CREATE TABLE t(a, b)", "INSERT INTO t VALUES(1, randomblob(20000))")
        write_at(c[0], "app.db", at, wrong)
        c.wait_level("app.db")
        for restarts in (False, True):
            if restarts:
                c[1].restart()
            for i in range(3):
                write_at(c[0], "app.db", 10000 + i, b"by hand")
                c.wait_level("app.db")
        write_at(c[0], "app.db", at, right)
        check.same_everywhere(c, "app.db")
        c[0].sql("app.db", "INSERT INTO t VALUES(2, 3)")
        c.wait_level("app.db")
        equal(c[1].sql("app.db", COUNT), [(2, 2)], "rows on the replica")


@test(limit=60, each=("longer", "shorter"))
def a_file_that_is_not_as_long_as_its_header_says_is_the_same_everywhere(scratch, case):
    files = unfinished(scratch, "delete")
    with Cluster(scratch) as c:
        shutil.copyfile(files[""], c[0].db("app.db"))
        size = os.path.getsize(files[""]) + (3 if case == "longer" else -1) * 4096
        os.truncate(c[0].db("app.db"), size)
        wait_for(lambda: os.path.exists(c[1].db("app.db")) and len(c[1].export("app.db")) == size, 15,
                 "the file on the replica")
        c.wait_level("app.db")
        with open(c[0].db("app.db"), "rb") as f:
            equal(c[1].export("app.db") == f.read(), True, "the bytes are the same")


@test(limit=60, each=("between pages", "within a page"))
def a_file_that_is_cut_and_gets_its_length_again_is_the_same_everywhere(scratch, where):
    """What was cut off is zeros then, although nobody wrote these pages."""
    with Cluster(scratch) as c:
        c[0].sql("app.db", "CREATE TABLE t(a INTEGER PRIMARY KEY, b)", "INSERT INTO t(b) VALUES(randomblob(200000))")
        path = c[0].db("app.db")
        size, before = os.path.getsize(path), c.wait_level("app.db")["app.db"]
        with open(path, "r+b") as f:
            f.truncate(size // 8192 * 4096 + (1000 if where == "within a page" else 0))
            f.seek(size - 4)
            f.write(b"tail")
        with open(path, "rb") as f:
            want = f.read()
        wait_for(lambda: c.wait_level("app.db")["app.db"] != before, 15, "a record of it")
        c.wait_level("app.db")
        for restarted in (False, True):
            for node in c.nodes:
                if restarted:
                    node.restart(kill=True)
                check.matches(node, "app.db")
                equal(node.export("app.db") == want, True, "the bytes on " + node.name)


@test(limit=90)
def raw_changes_survive_a_restart(scratch):
    files = unfinished(scratch, "wal")
    with Cluster(scratch) as c:
        for name, kill in (("killed.db", True), ("ended.db", False)):
            put(c[0], name, files, ("", "-wal"))
            wait_rows(c[1], name, (30, 30))
            c[0].restart(kill=kill)
            c.wait_level(name)
            equal(c[0].sql(name, COUNT), [(30, 30)], "rows of %s on the primary" % name)
            c[0].integrity(name)
            check.same_everywhere(c, name)
