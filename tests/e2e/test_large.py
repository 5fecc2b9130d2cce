# SPDX-License-Identifier: Apache-2.0
"""A database that grows across 1 GiB, where SQLite leaves out the page of its locks."""
import contextlib
import os

from lib import check
from lib.case import equal, need, test
from lib.cluster import Cluster

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
