# SPDX-License-Identifier: Apache-2.0
"""The same random workload in each journal mode and page size, with readers on the replicas."""
import random

from lib import check, clients
from lib.case import dice, equal, need, test
from lib.cluster import Cluster
from lib.workload import JOURNAL_MODES, PAGE_SIZES, Workload

# The independent check of the records computes the checksum of the whole database after each of them.
STEPS = {512: 60, 4096: 50, 65536: 30}


@test(limit=240, each=[(mode, size) for mode in JOURNAL_MODES for size in PAGE_SIZES])
def a_random_workload_gives_the_same_bytes_everywhere(scratch, case):
    mode, page_size = case
    rng = dice()
    with Cluster(scratch, nodes=3 if page_size == 4096 else 2) as c:
        work = Workload(c[0], "app.db", mode, page_size, rng)
        work.open()
        clients.client.create(work.db)
        work.close()
        c.wait_level("app.db")
        readers = [clients.reader(scratch, c[1].db("app.db"), "--pause", "0.002"),
                   clients.reader(scratch, c[-1].db("app.db"), "--pause", "0.002", "--reopen")]
        work.run(STEPS[page_size])
        c.wait_level("app.db")
        for one in readers:
            need(one.stop()["checks"] > 0, "a reader has not looked once")
        data = check.same_everywhere(c, "app.db")
        with open(scratch.join("node0-app.db.export"), "rb") as f:
            equal(len(f.read()) % page_size, 0, "the size of the export modulo the page size")
        rows = [node.sql("app.db", "SELECT count(*), max(n) FROM acked")[0] for node in c.nodes]
        equal(rows, [rows[0]] * len(rows), "rows on the nodes")
        need(rows[0][0] > 10, "only %d rows were written", rows[0][0])
        if page_size == 4096:
            c[1].restart()
            c[0].restart()
            equal(check.same_everywhere(c, "app.db"), data, "the database after a restart of two nodes")
        count = check.chain_gives(scratch, c[0], "app.db", data)
        need(count >= 10, "only %d records", count)
        print("%d records, %d bytes" % (count, len(data)))


@test(limit=60, each=JOURNAL_MODES)
def savepoint_and_rollback_leave_no_record(scratch, mode):
    if mode == "off":
        return _nothing_written_leaves_no_record(scratch)
    with Cluster(scratch) as c:
        clients.prepare(c[0], "app.db", "journal_mode=" + mode)
        before = c.wait_level("app.db")["app.db"]
        c[0].sql("app.db", "PRAGMA journal_mode=" + mode, "BEGIN", "UPDATE acct SET amount = 0",
                 "SAVEPOINT a", "DELETE FROM acct", "RELEASE a", "ROLLBACK")
        equal(c[0].pos("app.db"), before, "the position after a rollback")
        c[0].sql("app.db", "PRAGMA journal_mode=" + mode, "UPDATE acct SET amount = amount + 1 - 1 WHERE id = 1",
                 "BEGIN", "UPDATE acct SET amount = amount + 1 WHERE id = 1",
                 "UPDATE acct SET amount = amount - 1 WHERE id = 2", "COMMIT")
        after = c.wait_level("app.db")["app.db"]
        need(after[0] > before[0], "no record for a commit: %s", after)
        equal(c[1].sql("app.db", "SELECT amount FROM acct WHERE id < 3"), [(100,), (101,), (99,)], "the replica")
        check.same_everywhere(c, "app.db")


def _nothing_written_leaves_no_record(scratch):
    with Cluster(scratch) as c:
        clients.prepare(c[0], "app.db", "journal_mode=off")
        before = c.wait_level("app.db")["app.db"]
        c[0].sql("app.db", "PRAGMA journal_mode=off", "BEGIN", "SELECT * FROM acct", "COMMIT")
        equal(c[0].pos("app.db"), before, "the position after reading")


@test(limit=120)
def a_database_changes_its_journal_mode_and_page_size(scratch):
    with Cluster(scratch, nodes=2) as c:
        clients.prepare(c[0], "app.db", "page_size=1024")
        c.wait_level("app.db")
        # A connection in WAL mode that stays open keeps a database from leaving WAL mode, here as everywhere.
        reader = clients.reader(scratch, c[1].db("app.db"), "--pause", "0.002", "--reopen")
        writer = c[0].connect("app.db")
        for i, mode in enumerate(("wal", "delete", "wal", "persist", "memory", "wal", "truncate", "wal", "delete")):
            got = writer.execute("PRAGMA journal_mode=" + mode).fetchone()[0]
            equal(got, mode, "journal_mode")
            clients.client.transaction(writer, random.Random(i), "m", i)
            c.wait_level("app.db")
        for size in (8192, 512, 65536, 4096):
            writer.execute("PRAGMA page_size=%d" % size)
            writer.execute("VACUUM")
            equal(writer.execute("PRAGMA page_size").fetchone()[0], size, "page_size")
            clients.client.transaction(writer, random.Random(size), "p", size)
            c.wait_level("app.db")
            # A new connection knows the page size of the database file until it has read page 1.
            equal(c[1].sql("app.db", "SELECT * FROM total", "PRAGMA page_size"), [(size,)], "page_size on the replica")
        writer.close()
        need(reader.stop()["checks"] > 0, "the reader has not looked once")
        data = check.same_everywhere(c, "app.db")
        check.chain_gives(scratch, c[0], "app.db", data)
