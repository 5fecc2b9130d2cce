# SPDX-License-Identifier: Apache-2.0
"""A full disk: the writer is told, nothing is lost, and it goes on when there is room."""
import contextlib
import os
import sqlite3
import subprocess

from lib import check, clients
from lib.case import Skip, equal, need, test, wait_for
from lib.cluster import Cluster


def small_disk(node, megabytes):
    """A filesystem of its own for the data of a node; returns its folder."""
    if os.getuid() != 0:
        raise Skip("only root can mount a small filesystem")
    disk = node.scratch.folder(node.name, "disk")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=%dm" % megabytes, "none", disk],
                          stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise Skip("cannot mount a tmpfs: " + done.stderr.strip())
    node.data = os.path.join(disk, "data")
    return disk


def fill(disk, leave=0):
    """Takes all room but `leave` bytes; returns the file to remove."""
    path = os.path.join(disk, "filler")
    stat = os.statvfs(disk)
    with open(path, "wb", buffering=0) as f:
        with contextlib.suppress(OSError):
            os.posix_fallocate(f.fileno(), 0, max(1, stat.f_bavail * stat.f_frsize - leave))
    return path


@test(limit=90, each=("wal", "delete", "persist"))
def a_writer_on_a_full_disk_gets_sqlite_full(scratch, mode):
    with Cluster(scratch, start=False) as c:
        disk = small_disk(c[0], 48)
        c.start()
        clients.prepare(c[0], "app.db", "journal_mode=" + mode)
        c.wait_level("app.db")
        with contextlib.closing(c[0].connect("app.db")) as db:
            db.execute("PRAGMA journal_mode=" + mode)
            n, filler = 0, fill(disk, leave=2 << 20)

            def insert(count):
                nonlocal n
                for _ in range(count):
                    db.execute("BEGIN IMMEDIATE")
                    db.execute("INSERT INTO acked VALUES('f', ?, randomblob(20000))", (n,))
                    db.execute("UPDATE total SET v = v + 1 WHERE k = 0")
                    db.execute("COMMIT")
                    n += 1
            for _ in range(2):
                try:
                    insert(5000)
                except sqlite3.OperationalError as error:
                    equal(str(error), "database or disk is full", "the error on a full disk")
                    if db.in_transaction:
                        db.execute("ROLLBACK")
                else:
                    raise AssertionError("the disk does not become full")
                need(c[0].running(), "the daemon has ended")
                os.unlink(filler)
                equal(db.execute("SELECT count(*) FROM acked").fetchone(), (n,), "rows after a full disk")
                insert(3)
                filler = fill(disk, leave=1 << 20)
            os.unlink(filler)
        for node in c.nodes:
            c.wait_level("app.db")
            equal(node.sql("app.db", "SELECT count(*), max(n) FROM acked"), [(n, n - 1)], "rows on " + node.name)
        check.same_everywhere(c, "app.db")
        c[0].restart(kill=True)
        equal(c[0].sql("app.db", "SELECT count(*) FROM acked"), [(n,)], "rows after kill -9 and a restart")
        check.same_everywhere(c, "app.db")


@test(limit=90)
def a_replica_with_a_full_disk_pauses_and_resumes(scratch):
    with Cluster(scratch, start=False) as c:
        disk = small_disk(c[1], 64)
        c.start()
        clients.prepare(c[0], "app.db", "journal_mode=wal")
        c.wait_level("app.db")
        reader = clients.reader(scratch, c[1].db("app.db"), "--pause", "0.01")
        filler = fill(disk, leave=1 << 20)
        for i in range(200):
            c[0].sql("app.db", "BEGIN", "INSERT INTO acked VALUES('f', %d, randomblob(30000))" % i,
                     "UPDATE total SET v = v + 1", "COMMIT")
        c[1].wait_log(r"(?i)no space|disk (?:is )?full")
        need(c[1].running(), "the replica has ended:\n%s", c[1].log_tail())
        seen = c[1].pos("app.db")
        need(seen != c[0].pos("app.db"), "the disk of the replica has not become full")
        need(c[1].log_text().count("\n") < 500, "it writes a log line too often:\n%s", c[1].log_tail())
        os.unlink(filler)
        wait_for(lambda: c[1].pos("app.db") == c[0].pos("app.db"), 40,
                 lambda: "the replica to catch up:\n" + c[1].log_tail())
        need(reader.stop()["checks"] > 0, "the reader has not looked once")
        check.same_everywhere(c, "app.db")
