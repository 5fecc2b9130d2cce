# SPDX-License-Identifier: Apache-2.0
"""Several writers, several databases, long readers, and a replica that comes late."""
import contextlib
import os
import time

from lib import check, clients
from lib.case import equal, need, test, wait_for
from lib.cluster import Cluster, Node


@test(limit=90, each=("wal", "delete", "truncate", "persist"))
def concurrent_writers_lose_nothing(scratch, mode):
    with Cluster(scratch, nodes=2) as c:
        clients.prepare(c[0], "app.db", "journal_mode=" + mode)
        c.wait_level("app.db")
        reader = clients.reader(scratch, c[1].db("app.db"), "--pause", "0.005")
        writers = clients.writers(scratch, [c[0].db("app.db")], 4, "--mode", mode)
        for writer in writers:
            writer.wait_acked(20)
        for writer in writers:
            writer.stop()
        c.wait_level("app.db")
        need(reader.stop()["checks"] > 0, "the reader has not looked once")
        for node in c.nodes:
            clients.need_rows(node, "app.db", writers)
        check.same_everywhere(c, "app.db")


@test(limit=60)
def a_writer_that_is_killed_harms_nobody(scratch):
    with Cluster(scratch, nodes=2) as c:
        for mode in ("wal", "delete"):
            name = mode + ".db"
            clients.prepare(c[0], name, "journal_mode=" + mode)
            # It ends at the first error that it gets.
            stays = clients.Client(scratch, "writer", [c[0].db(name)], "--pause", "0.003", tag="stays")
            victims = []
            for i in range(4):
                victims.append(clients.Client(scratch, "writer", [c[0].db(name)], "--patient", "--pause", "0.003",
                                              tag="victim%d" % i))
                victims[-1].wait_acked(5)
                victims[-1].kill9()
            stays.wait_acked(5)
            stays.stop()
            for node in (c[0], c[1]):
                c.wait_level(name)
                clients.need_rows(node, name, victims + [stays])
            check.same_everywhere(c, name)


@test(limit=60)
def a_connection_that_is_closed_is_in_nobodys_way(scratch):
    """Afterwards the daemon looks whether it has left something behind. A writer that does not wait for locks meets it often."""
    with Cluster(scratch, nodes=1) as c, contextlib.closing(c[0].connect("app.db", timeout=0)) as writer:
        writer.execute("PRAGMA journal_mode=WAL")
        writer.execute("PRAGMA synchronous=NORMAL")
        writer.execute("CREATE TABLE t(a)")
        for i in range(2000):
            with contextlib.closing(c[0].connect("app.db", timeout=0)) as reader:
                reader.execute("SELECT count(*) FROM t").fetchone()
            for k in range(2):
                writer.execute("INSERT INTO t VALUES(?)", (2 * i + k,))


@test(limit=60, each=("wal", "delete", "truncate", "persist", "memory", "off"))
def a_transaction_over_three_attached_databases_replicates(scratch, mode):
    """With a super-journal, where there are journals on disk."""
    names = ["one.db", "sub/two.db", "three.db"]
    with Cluster(scratch, nodes=2) as c:
        os.mkdir(c[0].db("sub"))
        for name in names:
            c[0].sql(name, "PRAGMA journal_mode=" + mode, "CREATE TABLE t(a)")
        want = [i for i in range(30) if mode == "off" or i % 5 != 4]
        with contextlib.closing(c[0].connect(names[0])) as db:
            db.execute("ATTACH ? AS two", (c[0].db(names[1]),))
            db.execute("ATTACH ? AS three", (c[0].db(names[2]),))
            for schema in ("main", "two", "three"):
                equal(db.execute("PRAGMA %s.journal_mode=%s" % (schema, mode)).fetchone(), (mode,), "journal_mode")
            for i in range(30):
                db.execute("BEGIN")
                for schema in ("main", "two", "three"):
                    db.execute("INSERT INTO %s.t VALUES(?)" % schema, (i,))
                db.execute("COMMIT" if i in want else "ROLLBACK")
                if i % 10 == 0 and mode in ("delete", "truncate", "persist"):
                    # Nothing was captured later, or in parts: each has the row when COMMIT has returned.
                    equal(len({c[0].pos(name)[0] for name in names}), 1, "the number of records of the three")
        for name in names:
            check.chain_gives(scratch, c[0], name, check.same_everywhere(c, name))
            for node in c.nodes:
                equal([a for a, in node.sql(name, "SELECT a FROM t ORDER BY a")], want, "rows of %s on %s" % (name, node.name))


@test(limit=120, alone=True)
def a_long_read_transaction_on_a_replica_delays_nothing(scratch):
    with Cluster(scratch, nodes=2) as c:
        clients.prepare(c[0], "app.db", "journal_mode=wal")
        writer = clients.writers(scratch, [c[0].db("app.db")], 1, "--pause", "0.002")[0]
        writer.wait_acked(10)
        c.wait_level("app.db", limit=30, nodes=[c[1]])
        holder = clients.reader(scratch, c[1].db("app.db"), "--hold", "5")
        holder.wait_text("holding")
        with contextlib.closing(c[1].connect("app.db")) as db:
            while "released" not in holder.text():
                # What was acknowledged before must be seen within a moment, on a connection of its own.
                have = writer.acked()[-1]
                wait_for(lambda: db.execute("SELECT max(n) FROM acked").fetchone()[0] >= have, 1,
                         "row %d on the replica, while a read transaction is open there" % have, pause=0.001)
                writer.check_alive()
                time.sleep(0.05)
        writer.stop()
        holder.stop()
        # A checkpoint comes through as soon as the reader has left.
        c[0].sql("app.db", "PRAGMA wal_checkpoint(TRUNCATE)")
        check.same_everywhere(c, "app.db")


@test(limit=60)
def a_long_reader_of_one_database_does_not_delay_another(scratch):
    with Cluster(scratch, nodes=2) as c:
        for name in ("held.db", "free.db"):
            clients.prepare(c[0], name, "journal_mode=delete")
        c.wait_level()
        with contextlib.closing(c[1].connect("held.db")) as db:
            db.execute("BEGIN")
            db.execute("SELECT * FROM acct").fetchall()
            c[0].sql("held.db", "UPDATE acct SET amount = 100")
            c[0].sql("held.db", "INSERT INTO acked VALUES('h', 1, NULL)", "UPDATE total SET v = 1")
            for i in range(5):
                c[0].sql("free.db", "INSERT INTO acked VALUES('f', %d, NULL)" % i)
                c.wait_level("free.db", limit=3)
            db.execute("COMMIT")
        c.wait_level("held.db")
        check.same_everywhere(c, "held.db")


@test(limit=90)
def a_replica_that_comes_late_gets_everything(scratch):
    with Cluster(scratch, nodes=1) as c:
        for mode in ("wal", "delete"):
            clients.prepare(c[0], mode + ".db", "journal_mode=" + mode)
            c[0].sql(mode + ".db", "CREATE TABLE big(a)", "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 "
                     "FROM n WHERE i < 3000) INSERT INTO big SELECT randomblob(700) FROM n")
        writers = [clients.Client(scratch, "writer", [c[0].db(m + ".db")], tag=m) for m in ("wal", "delete")]
        late = Node(scratch, "late")
        c.nodes.append(late)
        for writer in writers:
            writer.wait_acked(5)
        late.start("--replica-of", c[0].listen)
        for writer in writers:
            writer.wait_acked(30)
            writer.stop()
        for writer in writers:
            check.same_everywhere(c, writer.tag + ".db")
            clients.need_rows(late, writer.tag + ".db", [writer])


@test(limit=90)
def a_stopped_replica_blocks_nobody_and_catches_up(scratch):
    with Cluster(scratch, nodes=3) as c:
        clients.prepare(c[0], "app.db", "journal_mode=wal")
        c.wait_level("app.db")
        c[2].stop_signal()
        try:
            writer = clients.writers(scratch, [c[0].db("app.db")], 1)[0]
            writer.wait_acked(200)
            c.wait_level("app.db", nodes=[c[1]])
            reader = clients.reader(scratch, c[0].db("app.db"))
            writer.wait_acked(200)
            reader.stop()
            writer.stop()
            c.wait_level("app.db", nodes=c.nodes[:2])
        finally:
            c[2].cont_signal()
        check.same_everywhere(c, "app.db")


@test(limit=90)
def many_databases_at_once(scratch):
    names = ["dir%d/db%02d.db" % (i % 3, i) for i in range(30)]
    with Cluster(scratch, nodes=2) as c:
        for i in range(3):
            os.mkdir(c[0].db("dir%d" % i))
        for i, name in enumerate(names):
            c[0].sql(name, "PRAGMA journal_mode=" + ("wal" if i % 2 else "delete"), "CREATE TABLE t(a)",
                     "INSERT INTO t VALUES(%d)" % i)
        with contextlib.ExitStack() as stack:
            open_ones = [stack.enter_context(contextlib.closing(c[0].connect(name))) for name in names]
            for _ in range(3):
                for db in open_ones:
                    db.execute("INSERT INTO t SELECT a + 1 FROM t")
        c.wait_level(*names)
        for i, name in enumerate(names):
            equal(c[1].sql(name, "SELECT count(*), min(a) FROM t"), [(8, i)], name)
        check.same_everywhere(c, names[0])
        check.same_everywhere(c, names[1])
