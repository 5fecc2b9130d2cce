# SPDX-License-Identifier: Apache-2.0
"""Databases that are large: across 1 GiB, where SQLite leaves out the page of its locks, and far beyond."""
import contextlib
import filecmp
import os
import sqlite3
import struct
import subprocess
import time

from lib import check
from lib.case import equal, need, test
from lib.cluster import Cluster, Node

GIB = 1 << 30


def fill(db, size):
    """Rows of a megabyte; each begins with bytes of its own, so that no two pages of theirs are taken for one another."""
    db.execute("WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < %d) "
               "INSERT INTO big SELECT CAST(randomblob(5000) || zeroblob(995000) AS BLOB) FROM n" % (size // 1000000))


@test(limit=900, each=("wal", "delete"), full=True)
def a_database_that_crosses_one_gib_replicates(scratch, mode):
    with Cluster(scratch) as c:
        c[0].sql("app.db", "PRAGMA page_size=4096", "PRAGMA journal_mode=" + mode, "CREATE TABLE big(a)")
        c.wait_level("app.db", limit=60)
        with contextlib.closing(c[0].connect("app.db", timeout=60)) as db:
            fill(db, GIB - 30 * 1000000)
            need(db.execute("PRAGMA page_count").fetchone()[0] * 4096 < GIB, "it is across already")
            c.wait_level("app.db", limit=300)
            # The transaction that crosses it, some beyond it, and one that changes pages on both sides.
            fill(db, 60 * 1000000)
            need(db.execute("PRAGMA page_count").fetchone()[0] * 4096 > GIB, "it is not across")
            c.wait_level("app.db", limit=120)
            for _ in range(3):
                db.execute("INSERT INTO big VALUES(randomblob(20000))")
            db.execute("UPDATE big SET a = randomblob(100000) WHERE rowid % 100 = 0 OR rowid BETWEEN 1040 AND 1060")
            check.same_everywhere(c, "app.db")
            # A replica that is killed starts on it.
            c[1].kill9()
            db.execute("UPDATE big SET a = randomblob(1000000) WHERE rowid BETWEEN 1030 AND 1050")
            c[1].start()
            check.same_everywhere(c, "app.db")
            # Back below it.
            db.execute("DELETE FROM big WHERE rowid > 500")
            db.execute("VACUUM")
            equal(db.execute("SELECT count(*) FROM big").fetchone(), (500,), "rows")
        need(len(check.same_everywhere(c, "app.db")) < GIB, "it has not shrunk")
        need(os.path.getsize(c[1].db("app.db")) > 0, "there is a file")


def make_sparse(path, size, wal):
    """A database of that many bytes in which nearly all pages are free, and holes: as after punching out what was deleted."""
    page, leaves = 65536, 16000
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA page_size=%d" % page)
        db.execute("CREATE TABLE t(a INTEGER PRIMARY KEY, b)")
        db.execute("INSERT INTO t(b) VALUES('before')")
        db.commit()
        used = db.execute("PRAGMA page_count").fetchone()[0]
    count = size // page
    free = [pgno for pgno in range(used + 1, count + 1) if pgno != GIB // page + 1]
    with open(path, "r+b") as f:
        f.truncate(count * page)
        trunks = free[::leaves + 1]
        for i, trunk in enumerate(trunks):
            its = free[i * (leaves + 1) + 1:(i + 1) * (leaves + 1)]
            f.seek((trunk - 1) * page)
            f.write(struct.pack(">II%dI" % len(its), trunks[i + 1] if i + 1 < len(trunks) else 0, len(its), *its))
        f.seek(18)
        f.write(bytes([2, 2] if wal else [1, 1]))
        f.seek(28)
        f.write(struct.pack(">III", count, free[0], len(free)))


def stored(path):
    return os.stat(path).st_blocks * 512


@test(limit=1500, each=("wal", "delete"), full=True)
def a_sparse_database_of_a_hundred_gb_replicates(scratch, mode):
    size, source = 100 * 10**9 // 65536 * 65536, scratch.join("source.db")
    make_sparse(source, size, mode == "wal")
    with Cluster(scratch) as c:
        subprocess.run(["cp", "--sparse=always", source, c[0].db("app.db")], check=True)
        c.wait_level("app.db", limit=600)
        for _ in range(2):
            for i in range(20):
                c[0].sql("app.db", "INSERT INTO t(b) VALUES(randomblob(%d))" % (100000 * i), timeout=60)
            c.wait_level("app.db", limit=60)
            for node in c.nodes:
                rows = node.sql("app.db", "SELECT count(*), sum(length(b)) FROM t")
                equal(rows, c[0].sql("app.db", "SELECT count(*), sum(length(b)) FROM t"), "rows")
                equal(node.sql("app.db", "PRAGMA integrity_check", timeout=60), [("ok",)], "integrity")
                equal(os.path.getsize(node.db("app.db")), size, "size")
                need(stored(os.path.join(node.data, "tree", "app.db")) < GIB, "the file is not sparse on " + node.name)
            for node in c.nodes:
                node.kill9()
                node.start()
        # One that comes later gets it page by page.
        late = Node(scratch, "late").start("--replica-of", c[0].listen, wait=False)
        c.nodes.append(late)
        late.wait_ready(limit=600)
        c.wait_level("app.db", limit=600)
        equal(late.sql("app.db", "PRAGMA integrity_check", timeout=60), [("ok",)], "integrity")
        need(stored(os.path.join(late.data, "tree", "app.db")) < GIB, "the file is not sparse on the late node")


@test(limit=240, each=(False, True))
def zeros_that_were_never_written_take_no_room_in_a_replicas_wal(scratch, rested):
    """As SQLite's walbig.test: the file gets long, and a transaction takes that for its size."""
    size, page = 200 << 20, 4096
    with Cluster(scratch) as c:
        c[0].sql("app.db", "PRAGMA page_size=%d" % page, "PRAGMA journal_mode=wal", "CREATE TABLE t(a INTEGER PRIMARY KEY, b)",
                 "INSERT INTO t(b) VALUES(randomblob(100000))")
        c.wait_level("app.db")
        if rested:
            time.sleep(12)  # the replica closes what it has open
        with open(c[0].db("app.db"), "r+b") as f:
            f.seek(size - 11)
            f.write(b"far behind\0")
            f.seek(28)
            f.write(bytes(4))
        c[0].sql("app.db", "INSERT INTO t(b) VALUES(randomblob(100000))", timeout=60)
        c[0].sql("app.db", "INSERT INTO t(b) VALUES(randomblob(100000))", timeout=60)
        c.wait_level("app.db", limit=60)
        exports = [scratch.join(node.name + ".export") for node in c.nodes]
        for node, path in zip(c.nodes, exports):
            node.cli("export", "app.db", path, limit=60)
        need(os.path.getsize(exports[0]) >= size, "the file is not long: %d", os.path.getsize(exports[0]))
        need(filecmp.cmp(*exports, shallow=False), "the nodes have different bytes")
        need(stored(exports[0]) < size // 10, "the export takes %d bytes", stored(exports[0]))
        tree = os.path.join(c[1].data, "tree")
        for name in os.listdir(tree):
            need(stored(os.path.join(tree, name)) < size // 10, "%s takes %d bytes", name, stored(os.path.join(tree, name)))
        # What is written into the hole, and what is cut off and comes again, is right too.
        c[0].sql("app.db", "DELETE FROM t WHERE a = 1", "VACUUM", "INSERT INTO t(b) VALUES(zeroblob(5000000))", timeout=60)
        check.same_everywhere(c, "app.db")
        # Zeros that take the place of something else are no hole.
        c[0].sql("app.db", "INSERT INTO t(b) VALUES(randomblob(300000))")
        c.wait_level("app.db")
        c[0].sql("app.db", "PRAGMA secure_delete=ON", "DELETE FROM t WHERE a = (SELECT max(a) FROM t)")
        check.same_everywhere(c, "app.db")
        c[1].kill9()
        c[1].start()
        check.same_everywhere(c, "app.db")
