# SPDX-License-Identifier: Apache-2.0
"""Readers that leave no gap, and replicas that stand still: neither holds up anybody else."""
import contextlib
import os
import re
import time

from lib import check, clients, sanitizer
from lib.case import Skip, equal, figure, need, test, wait_for
from lib.cluster import Cluster, Node


@test(limit=180, each=("wal", "delete"))
def readers_with_overlapping_transactions_never_starve_replication(scratch, mode):
    with Cluster(scratch) as c:
        clients.prepare(c[0], "app.db", "journal_mode=" + mode)
        clients.prepare(c[0], "other.db", "journal_mode=" + mode)
        c.wait_level()
        # At each moment several of them are in the middle of a transaction of a second; none may get an error.
        readers = []
        for _ in range(5):
            readers.append(clients.reader(scratch, c[1].db("app.db"), "--hold", "1"))
            time.sleep(0.2)  # out of step
        writer = clients.writers(scratch, [c[0].db("app.db")], 1, "--pause", "0.02")[0]
        waits = []
        for i in range(8):
            writer.wait_acked(3)
            want, began = writer.acked()[-1], time.monotonic()
            with contextlib.closing(c[1].connect("app.db", timeout=60)) as db:
                wait_for(lambda: (db.execute("SELECT max(n) FROM acked").fetchone()[0] or 0) >= want, 15,
                         "row %d on the replica" % want)
            waits.append(time.monotonic() - began)
            c[0].sql("other.db", "UPDATE total SET v = v")
            c.wait_level("other.db", limit=10)
            time.sleep(0.4)  # with all of it each reader is in its third transaction at least
        writer.stop()
        c.wait_level("app.db")
        figure("%s: a row was seen on the replica after %s s", mode, " ".join("%.2f" % w for w in waits))
        for reader in readers:
            need(reader.stop()["checks"] > 1, "a reader has not looked twice")
        for node in c.nodes:
            clients.need_rows(node, "app.db", [writer])
        check.same_everywhere(c, "app.db")


def bringing_up(node):
    """Bytes that a replica has in files without a name in <data>/tmp: what it has got of a bring-up."""
    total, folder = 0, "/proc/%d/fd" % node.process.pid
    for fd in os.listdir(folder):
        with contextlib.suppress(OSError):
            path = os.path.join(folder, fd)
            if os.path.join(node.data, "tmp") in os.readlink(path):
                total += os.stat(path).st_size
    return total


@test(limit=180, each=("wal", "delete"))
def a_replica_that_is_stopped_while_it_is_brought_up_blocks_nobody(scratch, mode):
    with Cluster(scratch, nodes=2) as c:
        clients.prepare(c[0], "app.db", "journal_mode=" + mode)
        c[0].sql("app.db", "CREATE TABLE big(a)", "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n "
                 "WHERE i < 12000) INSERT INTO big SELECT randomblob(3900) FROM n")
        size = 12000 * 4096
        # It is brought up by pages, and not from the beginning of the log.
        for i in range(10):
            c[0].sql("app.db", "UPDATE big SET a = randomblob(3900) WHERE rowid %% 10 = %d" % i)
        c.wait_level("app.db")
        late = Node(scratch, "late")
        c.nodes.append(late)
        late.start("--replica-of", c[0].listen, wait=False)
        wait_for(lambda: late.process.poll() is not None or bringing_up(late) > 1 << 20, 60, "the replica to be in the middle of it",
                 pause=0.0005)
        late.stop_signal()
        try:
            need(bringing_up(late) < size * 0.9, "it had all of it already: the test shows nothing")
            reader = clients.reader(scratch, c[0].db("app.db"))
            writers = clients.writers(scratch, [c[0].db("app.db")], 2, "--sync", "FULL")
            for writer in writers:
                writer.wait_acked(100, limit=30)
            # Also what takes locks that others do not: all of it is done while the replica stands still.
            c[0].sql("app.db", "CREATE TABLE new(a)", "DROP TABLE new", "DELETE FROM big WHERE rowid % 100 = 0")
            c[0].sql("app.db", "PRAGMA wal_checkpoint(TRUNCATE)" if mode == "wal" else "VACUUM")
            for writer in writers:
                writer.wait_acked(100, limit=30)
                writer.stop()
            need(reader.stop()["checks"] > 100, "the reader has hardly looked")
            c.wait_level("app.db", nodes=c.nodes[:2])
            c[0].sql("second.db", "CREATE TABLE t(a)")
            c.wait_level("second.db", nodes=c.nodes[:2])
        finally:
            late.cont_signal()
        late.wait_ready(60)
        check.same_everywhere(c, "app.db")
        for node in c.nodes:
            clients.need_rows(node, "app.db", writers)
        check.same_everywhere(c, "second.db")


def status(pid, field):
    """A field of /proc/PID/status, in bytes."""
    with open("/proc/%d/status" % pid) as f:
        return int(re.search(r"(?m)^%s:\s+(\d+) kB" % field, f.read()).group(1)) << 10


@test(limit=240, alone=True)
def the_memory_of_the_primary_stays_bounded_with_a_stalled_replica(scratch):
    """The figures are those of the daemon alone: what it sends lies in files, and in nothing else."""
    if sanitizer.KIND:
        raise Skip("a sanitizer keeps what was freed")
    with Cluster(scratch, nodes=2) as c:
        pid = c[0].process.pid
        clients.prepare(c[0], "small.db", "journal_mode=wal")
        clients.prepare(c[0], "large.db", "journal_mode=wal")
        c[0].sql("large.db", "CREATE TABLE big(a)")

        def write(megabytes):
            for _ in range(megabytes // 8):
                c[0].sql("large.db", "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i < 2000) "
                         "INSERT OR REPLACE INTO big(rowid, a) SELECT i, randomblob(4000) FROM n")
        # What it takes at any rate: with a replica that follows.
        write(64)
        c.wait_level()
        before = status(pid, "VmRSS")
        c[1].stop_signal()
        try:
            with open("/proc/%d/clear_refs" % pid, "w") as f:
                f.write("5")  # the peak from now on
            writer = clients.writers(scratch, [c[0].db("small.db")], 1)[0]
            write(192)
            writer.wait_acked(3000, limit=100)
            writer.stop()
            peak = status(pid, "VmHWM")
        finally:
            c[1].cont_signal()
        written = sum(len(record[2]) for record in check.records(c[0], "large.db"))
        need(written > 200 << 20, "only %d bytes are in the log", written)
        figure("resident memory of the primary: %.1f MB before, %.1f MB at most while a replica lacked %d MB and 3,000 records",
               before / 1e6, peak / 1e6, written >> 20)
        need(peak < before + (48 << 20), "the daemon's memory has grown from %d to %d bytes", before, peak)
        check.same_everywhere(c, "small.db")
        check.same_everywhere(c, "large.db")
