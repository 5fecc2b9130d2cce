# SPDX-License-Identifier: Apache-2.0
"""What a start after kill -9 has to do does not depend on the size of the database.

TANDEMFS_START_GB: the size of the large one (default: 0.25; the full run takes 10), and the time is printed.
"""
import contextlib
import os
import sqlite3
import time

from lib import clients
from lib.case import figure, need, test, wait_for
from lib.cluster import Cluster

GB = float(os.environ.get("TANDEMFS_START_GB") or 0.25)
FILL = "INSERT INTO big WITH RECURSIVE k(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM k WHERE i < 25) " \
       "SELECT zeroblob(1000000) FROM k"


def io(node, key):
    """A figure of the daemon's /proc/PID/io: bytes that it has asked for so far, from caches or not."""
    with open("/proc/%d/io" % node.process.pid) as f:
        return int(dict(line.split(": ") for line in f)[key])


def start_after_kill(scratch, mode, size):
    """Fills a database, kills daemon and writers under load, starts again. Seconds until a row is committed, and the
    bytes that the daemon has read and written by then."""
    with Cluster(scratch, nodes=1) as c:
        node = c[0]
        clients.prepare(node, "app.db", "journal_mode=" + mode)
        node.sql("app.db", "CREATE TABLE big(a)")
        while os.path.getsize(node.db("app.db")) < size:
            node.sql("app.db", FILL)
        os.sync()  # the disk shall be busy with the load, not with what was there before
        writers = clients.writers(scratch, [node.db("app.db")], 2, "--patient")
        for writer in writers:
            writer.wait_acked(100)
        node.kill9()
        for writer in writers:
            writer.kill9()
        began = time.monotonic()
        node.start(wait=False)

        def writable():
            try:
                # Where nothing is mounted it is not to be made.
                with contextlib.closing(sqlite3.connect("file:%s?mode=rw" % node.db("app.db"), uri=True, timeout=20)) as db:
                    db.execute("INSERT INTO big VALUES(1)")
                    db.commit()
                return node.is_mounted()
            except sqlite3.Error:
                return False
        wait_for(lambda: node.is_mounted() and writable(), 60, "a row to be written after the start", pause=0.005)
        seconds = time.monotonic() - began
        moved = io(node, "rchar"), io(node, "wchar")
        clients.need_rows(node, "app.db", writers)
        node.integrity("app.db")
        return (seconds, *moved)


@test(limit=300 + int(GB * 120), alone=GB > 1, each=("wal", "delete"))
def a_start_does_not_depend_on_the_size_of_the_database(scratch, mode):
    small = start_after_kill(scratch, mode, 4 << 20)
    large_size = int(GB * (1 << 30))
    os.rename(scratch.join("node0"), scratch.join("small"))
    large = start_after_kill(scratch, mode, large_size)
    for what, (seconds, read, written) in (("4 MB", small), ("%g GB" % GB, large)):
        figure("%s, %s: writable %.2f s after the start; read %.1f MB, wrote %.1f MB", mode, what, seconds, read / 1e6,
               written / 1e6)
    # Eight bytes a page, and what the log has not passed on yet.
    need(large[1] - small[1] < large_size // 256 + (64 << 20), "the start read %d bytes", large[1])
    need(large[2] - small[2] < large_size // 256 + (64 << 20), "the start wrote %d bytes", large[2])
