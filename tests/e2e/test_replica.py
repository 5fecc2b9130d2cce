# SPDX-License-Identifier: Apache-2.0
"""What an application sees on a replica."""
import contextlib
import os
import re
import sqlite3
import time

from lib import check, clients
from lib.case import equal, need, test, wait_for
from lib.cluster import Cluster
from lib.workload import JOURNAL_MODES

READONLY = "attempt to write a readonly database"


@test(limit=60, each=JOURNAL_MODES)
def a_replica_refuses_writes(scratch, mode):
    with Cluster(scratch) as c:
        clients.prepare(c[0], "app.db", "journal_mode=" + mode)
        c.wait_level("app.db")
        before = c[1].pos("app.db")
        for statement in ("UPDATE acct SET amount = 0", "INSERT INTO total VALUES(9, 9)", "DELETE FROM acct",
                          "CREATE TABLE x(a)", "DROP TABLE acct", "CREATE INDEX i ON acct(amount)",
                          "PRAGMA user_version = 7", "VACUUM"):
            with contextlib.closing(c[1].connect("app.db", timeout=5)) as db:
                if mode in ("memory", "off"):
                    db.execute("PRAGMA journal_mode=" + mode)
                began = time.monotonic()
                try:
                    db.execute(statement)
                except sqlite3.OperationalError as error:
                    need(READONLY in str(error), "%s in %s: %s", statement, mode, error)
                else:
                    raise AssertionError("a replica has done: %s (%s)" % (statement, mode))
                need(time.monotonic() - began < 2, "it took %.1f s to refuse %s", time.monotonic() - began, statement)
                equal(clients.client.check(db), 0, "reading on the same connection")
        shell = c[1].shell("app.db", "UPDATE acct SET amount = 0;")
        need(shell.returncode != 0 and READONLY in shell.stderr, "the shell says: %s", shell.stderr)
        equal(c[1].pos("app.db"), before, "the position")
        check.same_everywhere(c, "app.db")


@test(limit=60)
def a_replica_refuses_changes_of_its_files(scratch):
    with Cluster(scratch) as c:
        clients.prepare(c[0], "app.db", "journal_mode=wal")
        c.wait_level("app.db")
        attempts = {
            "open for writing": lambda: open(c[1].db("app.db"), "r+b").write(b"x" * 4096),
            "truncate": lambda: os.truncate(c[1].db("app.db"), 0),
            "remove": lambda: os.unlink(c[1].db("app.db")),
            "rename": lambda: os.rename(c[1].db("app.db"), c[1].db("other.db")),
            "write the WAL": lambda: open(c[1].db("app.db-wal"), "r+b").write(b"x" * 4096),
            "remove the WAL": lambda: os.unlink(c[1].db("app.db-wal")),
            "make a journal": lambda: open(c[1].db("app.db-journal"), "wb").write(b"x"),
        }
        for what, attempt in attempts.items():
            try:
                attempt()
            except OSError:
                continue
            # Writing may be refused at the latest when the file is closed; a change must never be there.
            with c[1].connect("app.db") as db:
                equal(clients.client.check(db), 0, "after: " + what)
            db.close()
            need(what.startswith("open"), "a replica allows: %s", what)
        check.same_everywhere(c, "app.db")


@test(limit=60)
def the_three_special_files_have_their_form(scratch):
    with Cluster(scratch) as c:
        os.mkdir(c[0].db("sub"))
        for name in ("app.db", "sub/deep.db"):
            clients.prepare(c[0], name, "journal_mode=wal")
        c.wait_level()
        for node in c.nodes:
            for name in ("app.db", "sub/deep.db"):
                with open(node.db(name) + "-pos", "rb") as f:
                    data = f.read()
                need(re.fullmatch(rb"[0-9a-f]{16}/[0-9a-f]{16}\n", data) and len(data) == 34, "-pos: %r", data)
                need(int(data[:16], 16) >= 1, "-pos: %r", data)
            with open(node.db(".lag"), "rb") as f:
                lag = f.read()
            need(re.fullmatch(rb"[+-]\d{9}\n", lag), ".lag: %r", lag)
            for folder in (node.mount, node.db("sub")):
                names = os.listdir(folder)
                special = [n for n in names if n.endswith("-pos") or n in (".primary", ".lag")]
                equal(special, [], "special files that are listed")
            need(not os.path.exists(node.db("nothing.db-pos")), "a -pos of a database that is not there")
        with open(c[1].db(".primary"), "rb") as f:
            primary = f.read().decode().strip()
        need(c[0].listen in primary or primary in c[0].listen, ".primary of the replica: %r", primary)
        need(not os.path.exists(c[0].db(".primary")), "there is a .primary on the primary")
        first = c[0].pos("app.db")
        c[0].sql("app.db", "INSERT INTO acked VALUES('a', 1, NULL)")
        need(c[0].pos("app.db")[0] == first[0] + 1, "-pos after a commit: %s, %s", first, c[0].pos("app.db"))


@test(limit=60)
def a_replica_waits_for_its_primary_and_says_so(scratch):
    with Cluster(scratch, start=False) as c:
        c[1].start("--replica-of", c[0].listen, wait=False)
        c[1].wait_log("(?i)wait.*" + c[0].listen)
        c[0].start("--primary")
        clients.prepare(c[0], "app.db")
        c[1].wait_ready()
        check.same_everywhere(c, "app.db")


@test(limit=60)
def reads_go_on_and_the_lag_grows_while_the_primary_is_away(scratch):
    def lag(node):
        with open(node.db(".lag")) as f:
            return int(f.read())
    with Cluster(scratch) as c:
        for mode in ("wal", "delete"):
            clients.prepare(c[0], mode + ".db", "journal_mode=" + mode)
        c.wait_level()
        wait_for(lambda: lag(c[1]) < 2000, 10, "a small lag while all is well")
        readers = [clients.reader(scratch, c[1].db(m + ".db"), "--pause", "0.01") for m in ("wal", "delete")]
        c[0].kill9()
        wait_for(lambda: lag(c[1]) > 2500, 20, lambda: "the lag to grow (it is %d ms)" % lag(c[1]), pause=0.1)
        first = lag(c[1])
        wait_for(lambda: lag(c[1]) > first + 200, 10, "the lag to grow on", pause=0.1)
        for mode in ("wal", "delete"):
            equal(c[1].sql(mode + ".db", "SELECT count(*) FROM acct"), [(50,)], "reading")
        for reader in readers:
            need(reader.stop()["checks"] > 20, "the reader has been slow")
        status, _ = c[1].get("/replica?lag=100")
        equal(status, 503, "/replica?lag=100 on a replica that lags")
        c[0].start()
        wait_for(lambda: lag(c[1]) < 2000, 20, "the lag to be small again")
        c[0].sql("wal.db", "INSERT INTO acked VALUES('a', 1, NULL)", "UPDATE total SET v = 1")
        check.same_everywhere(c, "wal.db")


@test(limit=60)
def a_replica_answers_after_a_restart_without_its_primary(scratch):
    with Cluster(scratch) as c:
        clients.prepare(c[0], "app.db", "journal_mode=wal")
        c.wait_level("app.db")
        c[0].kill9()
        c[1].term()
        c[1].start(wait=False)
        wait_for(c[1].is_mounted, 20, "the mount")
        wait_for(lambda: os.path.exists(c[1].db("app.db")), 20, "the database")
        equal(c[1].sql("app.db", "SELECT count(*) FROM acct"), [(50,)], "reading without a primary")
        c[0].start()
        check.same_everywhere(c, "app.db")


@test(limit=60)
def replica_writes_wait_lets_writers_through_after_a_promotion(scratch):
    config = scratch.join("wait.yml")
    with open(config, "w") as f:
        f.write("replica-writes: wait\n")
    with Cluster(scratch, start=False) as c:
        c[0].start("-c", config, "--primary")
        c[1].start("-c", config, "--replica-of", c[0].listen)
        clients.prepare(c[0], "app.db", "journal_mode=wal")
        c.wait_level("app.db")
        db = c[1].connect("app.db", timeout=1)
        try:
            db.execute("UPDATE acct SET amount = 0")
        except sqlite3.OperationalError as error:
            need("locked" in str(error), "a writer that waits gets: %s", error)
        else:
            raise AssertionError("a replica took a write")
        equal(clients.client.check(db), 0, "reading on that connection")
        db.execute("PRAGMA busy_timeout=20000")
        writer = clients.Client(scratch, "writer", [c[1].db("app.db")], tag="waits")
        time.sleep(0.3)
        writer.check_alive()
        equal(writer.acked(), [], "rows written on the replica")
        c[1].promote()
        writer.wait_acked(3)
        writer.stop()
        db.execute("UPDATE acct SET amount = amount")
        db.close()
        c.wait_level("app.db", nodes=[c[1], c[0]])
        clients.need_rows(c[0], "app.db", [writer])
