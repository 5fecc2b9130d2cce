# SPDX-License-Identifier: Apache-2.0
"""Databases that shrink by thousands of pages, and that change their page size, while others have them open."""
import contextlib
import os
import sqlite3

from lib import check, clients
from lib.case import equal, need, test
from lib.cluster import Cluster

PAGE, ROWS = 512, 4500  # a row takes a page
STATE = "SELECT count(*), sum(length(a)), total(rowid) FROM big"


def fill(db, rows=ROWS, size=450):
    db.execute("WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i < %d) "
               "INSERT INTO big SELECT randomblob(%d) FROM n" % (rows, size))


def pages(db):
    return db.execute("PRAGMA page_count").fetchone()[0]


def shrink(db, how):
    """Deletes nearly everything; the file shrinks by that much."""
    kept = "DELETE FROM big WHERE rowid % 50 <> 0"
    if how == "vacuum":
        db.execute(kept)
        db.execute("VACUUM")
    elif how == "auto_vacuum":
        db.execute(kept)
    else:
        db.execute(kept)
        for step in (1, 1000, 2500, 0):
            # Each step of this statement frees one page, and the module takes the first step alone.
            db.executescript("PRAGMA incremental_vacuum(%d)" % step)


@test(limit=120, each=[(how, mode) for how in ("vacuum", "incremental_vacuum", "auto_vacuum") for mode in ("wal", "delete")])
def a_database_that_shrinks_by_thousands_of_pages_replicates(scratch, case):
    how, mode = case
    auto = {"vacuum": 0, "auto_vacuum": 1, "incremental_vacuum": 2}[how]
    with Cluster(scratch) as c, contextlib.ExitStack() as stack:
        clients.prepare(c[0], "app.db", "page_size=%d" % PAGE, "auto_vacuum=%d" % auto, "journal_mode=" + mode)
        c[0].sql("app.db", "CREATE TABLE big(a)")
        c.wait_level("app.db")
        # They stay open: one beside the writer, and two on the replica, one of them in and out of transactions.
        beside = stack.enter_context(contextlib.closing(c[0].connect("app.db")))
        there = stack.enter_context(contextlib.closing(c[1].connect("app.db")))
        reader = clients.reader(scratch, c[1].db("app.db"), "--pause", "0.002")
        db = stack.enter_context(contextlib.closing(c[0].connect("app.db")))
        for turn in range(2):
            fill(db)
            c.wait_level("app.db")
            large = pages(db)
            equal(pages(there), large, "pages on the replica")
            if mode == "wal":
                # A read transaction that is open there keeps what it sees.
                there.execute("BEGIN")
                before = there.execute(STATE).fetchone()
            shrink(db, how)
            c.wait_level("app.db")
            small = pages(db)
            need(small <= large - 3000, "it has shrunk from %d to %d pages only", large, small)
            if mode == "wal":
                equal(there.execute(STATE).fetchone(), before, "what a transaction of before sees on the replica")
                there.execute("COMMIT")
            for other in (beside, there):
                equal(other.execute(STATE).fetchone(), db.execute(STATE).fetchone(), "rows seen by others")
                equal(pages(other), small, "pages seen by others")
            data = check.same_everywhere(c, "app.db")
            equal(len(data), small * PAGE, "the size of the export")
            db.execute("INSERT INTO big VALUES('after')")
            if mode == "wal" and turn == 0:
                equal(db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0], 0, "the checkpoint")
        need(reader.stop()["checks"] > 0, "the reader has not looked once")
        check.chain_gives(scratch, c[0], "app.db", check.same_everywhere(c, "app.db"))
        for node in c.nodes:
            size = os.path.getsize(node.db("app.db"))
            need(mode == "wal" or size == pages(db) * PAGE, "%s: the file has %d bytes", node.name, size)


@test(limit=120, each=("delete", "truncate", "persist", "memory", "off", "wal"))
def a_vacuum_with_a_new_page_size_replicates(scratch, mode):
    with Cluster(scratch) as c, contextlib.ExitStack() as stack:
        clients.prepare(c[0], "app.db", "page_size=1024", "journal_mode=" + mode)
        c[0].sql("app.db", "CREATE TABLE big(a)")
        c.wait_level("app.db")
        there = stack.enter_context(contextlib.closing(c[1].connect("app.db")))
        reader = clients.reader(scratch, c[1].db("app.db"), "--pause", "0.002")
        db = stack.enter_context(contextlib.closing(c[0].connect("app.db")))
        equal(db.execute("PRAGMA journal_mode=" + mode).fetchone()[0], mode, "journal_mode")
        fill(db, 300)
        for size in (8192, 512, 65536, 4096, 1024):
            db.execute("PRAGMA page_size=%d" % size)
            if mode == "wal":
                # In WAL mode SQLite leaves the page size as it is.
                db.execute("VACUUM")
                equal(db.execute("PRAGMA journal_mode=delete").fetchone()[0], "delete", "journal_mode")
                db.execute("PRAGMA page_size=%d" % size)
            db.execute("VACUUM")
            equal(db.execute("PRAGMA page_size").fetchone()[0], size, "page_size")
            if mode == "wal":
                equal(db.execute("PRAGMA journal_mode=wal").fetchone()[0], "wal", "journal_mode")
            db.execute("INSERT INTO big VALUES(randomblob(5000))")
            c.wait_level("app.db")
            equal(there.execute(STATE).fetchone(), db.execute(STATE).fetchone(), "rows seen on the replica")
            equal(there.execute("PRAGMA page_size").fetchone()[0], size, "page_size seen on the replica")
            data = check.same_everywhere(c, "app.db")
            equal(len(data) % size, 0, "the size of the export modulo the page size")
        need(reader.stop()["checks"] > 0, "the reader has not looked once")
        check.chain_gives(scratch, c[0], "app.db", check.same_everywhere(c, "app.db"))


@test(limit=90)
def a_new_page_size_waits_for_read_transactions_on_the_replica_and_for_no_connection(scratch):
    with Cluster(scratch, nodes=2) as c:
        for name in ("app.db", "other.db"):
            c[0].sql(name, "PRAGMA page_size=1024", "PRAGMA journal_mode=wal", "CREATE TABLE big(a)")
        for size, end in ((8192, "kill"), (512, "promotion")):
            with contextlib.closing(c[0].connect("app.db")) as db:
                fill(db, 200)
                c.wait_level("app.db")
                before = db.execute(STATE).fetchone()
                there, idle = c[1].connect("app.db"), c[1].connect("app.db")
                equal(idle.execute(STATE).fetchone(), before, "rows on the replica")
                there.execute("BEGIN")
                equal(there.execute(STATE).fetchone(), before, "rows on the replica, in a transaction")
                db.execute("PRAGMA journal_mode=delete")
                db.execute("PRAGMA page_size=%d" % size)
                db.execute("VACUUM")
                equal(db.execute("PRAGMA journal_mode=wal").fetchone()[0], "wal", "journal_mode")
                db.execute("INSERT INTO big VALUES('new')")
                want = db.execute(STATE).fetchone()
                # Frames of two sizes are never in one WAL, and the transaction needs those of before.
                c[0].sql("other.db", "INSERT INTO big VALUES('meanwhile')")
                c.wait_level("other.db")
                equal(there.execute(STATE).fetchone(), before, "rows that the transaction goes on to see")
                equal(idle.execute("PRAGMA page_size").fetchone()[0] != size, True, "the page size is the old one there")
                there.execute("COMMIT")
                c.wait_level("app.db", limit=10)
                for other in (there, idle):
                    equal(other.execute(STATE).fetchone(), want, "rows on connections that were open before")
                    equal(other.execute("PRAGMA page_size").fetchone()[0], size, "page_size on them")
                    if end == "kill":
                        other.close()
            if end == "kill":
                c[1].restart(kill=True)
            else:
                c[1].promote()
                equal(c[1].sql("app.db", "INSERT INTO big VALUES('as primary')", STATE)[0][0], want[0] + 1, "rows as primary")
                there.close()
                idle.close()
            data = check.same_everywhere(c, "app.db")
            equal(len(data) % size, 0, "the size of the export modulo the page size")
            equal(c[1].sql("app.db", STATE, "PRAGMA page_size"), [(size,)], "page_size")
        check.chain_gives(scratch, c[1], "app.db", data)


@test(limit=90)
def an_import_over_a_database_of_another_page_size_replicates(scratch):
    sources = {}
    for size in (512, 8192, 65536):
        sources[size] = scratch.join("source-%d.db" % size)
        with contextlib.closing(sqlite3.connect(sources[size], isolation_level=None)) as db:
            db.execute("PRAGMA page_size=%d" % size)
            db.execute("CREATE TABLE big(a)")
            fill(db, 700 if size > 512 else 3000)
    with Cluster(scratch) as c, contextlib.ExitStack() as stack:
        for mode in ("delete", "wal"):
            name = mode + ".db"
            c[0].sql(name, "PRAGMA journal_mode=" + mode, "CREATE TABLE big(a)", "INSERT INTO big VALUES('old')")
            c.wait_level(name)
            there = stack.enter_context(contextlib.closing(c[1].connect(name)))
            equal(there.execute(STATE).fetchone()[0], 1, "rows before")
            for size in (8192, 512, 65536):
                c[0].cli("import", sources[size], name)
                with contextlib.closing(sqlite3.connect(sources[size])) as source:
                    want = source.execute(STATE).fetchone()
                equal(c[0].sql(name, STATE), [want], "rows on the primary")
                equal(c[0].sql(name, "PRAGMA journal_mode"), [(mode,)], "the journal mode on the primary")
                data = check.same_everywhere(c, name)
                equal(there.execute(STATE).fetchone(), want, "rows on a connection to the replica that was open before")
                equal(there.execute("PRAGMA page_size").fetchone()[0], size, "page_size there")
            check.chain_gives(scratch, c[0], name, data)
