# SPDX-License-Identifier: Apache-2.0
"""Changes of the primary, planned and forced."""
import os
import sqlite3

from lib import check, clients
from lib.case import equal, need, test, wait_for
from lib.cluster import Cluster


def roles(c):
    return [node.role() for node in c.nodes if node.running()]


def wait_roles(c, want, limit=20):
    wait_for(lambda: roles(c) == want, limit, lambda: "roles %s (they are %s)" % (want, roles(c)), pause=0.05)


def diverged_files(node):
    return sorted(os.path.join(folder, f) for folder, _, files in os.walk(os.path.join(node.data, "diverged"))
                  for f in files if f.endswith(".ltx"))


@test(limit=240, each=("wal", "delete"))
def twenty_promotions_under_load_lose_no_acknowledged_row(scratch, mode):
    with Cluster(scratch, nodes=2) as c:
        clients.prepare(c[0], "app.db", "journal_mode=" + mode)
        c.wait_level("app.db")
        # The independent reader of records takes its time for each (tests/lib/check.py).
        pause = ["--pause", "0.02"] if mode == "delete" else []
        writers = clients.writers(scratch, [n.db("app.db") for n in c.nodes], 3, "--patient", "--verbose", *pause)
        readers = [clients.reader(scratch, n.db("app.db"), "--pause", "0.005") for n in c.nodes]
        for turn in range(20):
            for writer in writers:
                writer.wait_acked(3)
            old, new = c.nodes[turn % 2], c.nodes[(turn + 1) % 2]
            new.promote()
            equal(new.role(), "primary", "the role of the promoted node after turn %d" % turn)
            wait_for(lambda: old.role() == "replica", 10, "the old primary to follow")
            equal(new.info()["epoch"] >= turn + 1, True, "the epoch has risen with each turn")
        for writer in writers:
            writer.wait_acked(3)
            writer.stop()
        for reader in readers:
            need(reader.stop()["checks"] > 0, "a reader has not looked once")
        c.wait_level("app.db", nodes=[c.primary] + [n for n in c.nodes if n.role() != "primary"])
        for node in c.nodes:
            clients.need_rows(node, "app.db", writers)
        data = check.same_everywhere(c, "app.db")
        for node in c.nodes:
            equal(diverged_files(node), [], "diverged files on " + node.name)
        check.chain_gives(scratch, c.primary, "app.db", data) if mode == "delete" else None


@test(limit=90)
def three_nodes_follow_a_planned_change(scratch):
    with Cluster(scratch, nodes=3) as c:
        clients.prepare(c[0], "app.db", "journal_mode=wal")
        c[0].sql("sub.db", "CREATE TABLE t(a)")
        c.wait_level()
        for new in (1, 2, 0):
            c[new].promote()
            wait_roles(c, ["primary" if i == new else "replica" for i in range(3)])
            c[new].sql("app.db", "INSERT INTO acked VALUES('p', %d, NULL)" % new, "UPDATE total SET v = v + 1")
            c.wait_level("app.db", nodes=[c[new]] + [n for n in c.nodes if n is not c[new]])
            for node in c.nodes:
                equal(node.sql("app.db", "SELECT count(*) FROM acked WHERE n = %d" % new), [(1,)], "the row")
                with open(node.db(".primary")) if node is not c[new] else open(os.devnull) as f:
                    need(node is c[new] or c[new].listen in f.read(), "%s: .primary names another", node.name)
        check.same_everywhere(c, "app.db")


@test(limit=60)
def promotion_of_the_primary_itself_changes_nothing(scratch):
    with Cluster(scratch, nodes=2) as c:
        epoch = c[0].info()["epoch"]
        c[0].promote(check=False)
        equal((c[0].role(), c[0].info()["epoch"]), ("primary", epoch), "role and epoch")


@test(limit=90)
def an_unreachable_primary_wants_force(scratch):
    with Cluster(scratch, nodes=3) as c:
        clients.prepare(c[0], "app.db", "journal_mode=wal")
        c.wait_level("app.db")
        c[0].kill9()
        result = c[1].promote(check=False)
        need(result.returncode != 0, "promote without --force succeeded although the primary is gone")
        need("--force" in result.stderr + result.stdout, "it does not say what to do: %s", result.stderr)
        equal(c[1].role(), "replica", "the role after a refused promotion")
        c[1].promote(force=True)
        equal(c[1].role(), "primary", "the role after --force")
        c[1].sql("app.db", "INSERT INTO acked VALUES('forced', 1, NULL)", "UPDATE total SET v = v + 1")
        wait_for(lambda: c[2].pos("app.db") == c[1].pos("app.db"), 30, "the other replica to follow the new primary")
        # The old one was started as the primary, and finds a higher epoch.
        c[0].start("--primary")
        wait_for(lambda: c[0].role() == "replica", 20, "the old primary to become a replica")
        c.wait_level("app.db", nodes=[c[1], c[0], c[2]])
        equal(c[0].sql("app.db", "SELECT tag FROM acked"), [("forced",)], "the rows on the old primary")
        equal(diverged_files(c[0]), [], "diverged files, although it had nothing of its own")
        check.same_everywhere(c, "app.db")


def _part(c, name, rows):
    """Lets node 0 commit what node 1 never gets, and ends it without a word."""
    c.wait_level(name)
    c[1].kill9()
    for i in range(rows):
        c[0].sql(name, "INSERT INTO acked VALUES('unique', %d, NULL)" % i, "UPDATE total SET v = v + 1")
    c[0].kill9()


@test(limit=90, each=("wal", "delete"))
def what_only_the_old_primary_has_is_kept(scratch, mode):
    with Cluster(scratch, nodes=2) as c:
        clients.prepare(c[0], "app.db", "journal_mode=" + mode)
        _part(c, "app.db", 5)
        c[1].start(wait=False)
        wait_for(lambda: (c[1].try_info() or {}).get("role") == "replica", 20, "the replica to be there")
        c[1].promote(force=True)
        for i in range(3):
            c[1].sql("app.db", "INSERT INTO acked VALUES('new', %d, NULL)" % i, "UPDATE total SET v = v + 1")
        c[0].start("--primary", wait=False)
        wait_for(lambda: (c[0].try_info() or {}).get("role") == "replica", 30,
                 lambda: "the old primary to become a replica:\n" + c[0].log_tail())
        c.wait_level("app.db", nodes=[c[1], c[0]])
        for node in c.nodes:
            equal(node.sql("app.db", "SELECT tag, count(*) FROM acked GROUP BY tag"), [("new", 3)], node.name)
        check.same_everywhere(c, "app.db")
        kept = diverged_files(c[0])
        need(kept, "nothing is in diverged/")
        for path in kept:
            need(os.path.basename(os.path.dirname(path)) == "app.db", "kept as %s", path)
        content = b"".join(open(path, "rb").read() for path in kept)
        need(content.count(b"LTX1") >= 1, "these are no LTX files")
        from lib.cluster import run
        run("ltx", "verify", *kept)
        status = c[0].cli("status").stdout
        need("diverged" in status, "status does not speak of it:\n%s", status)
        # A second start finds nothing new.
        c[0].restart()
        equal(sorted(diverged_files(c[0])), sorted(kept), "diverged files after another start")


@test(limit=90)
def a_primary_that_was_asleep_is_fenced_when_it_wakes(scratch):
    with Cluster(scratch, nodes=3) as c:
        clients.prepare(c[0], "app.db", "journal_mode=wal")
        c.wait_level("app.db")
        c[0].stop_signal()
        try:
            c[1].promote(force=True)
            c[1].sql("app.db", "INSERT INTO acked VALUES('new', 1, NULL)", "UPDATE total SET v = v + 1")
        finally:
            c[0].cont_signal()
        wait_for(lambda: c[0].role() == "replica", 20, "the old primary to step down")
        try:
            c[0].sql("app.db", "INSERT INTO acked VALUES('old', 1, NULL)")
        except sqlite3.OperationalError as error:
            need("readonly" in str(error), "the write fails with: %s", error)
        else:
            raise AssertionError("the old primary still takes writes")
        c.wait_level("app.db", nodes=[c[1], c[0], c[2]])
        check.same_everywhere(c, "app.db")
        equal(sorted(roles(c)), ["primary", "replica", "replica"], "the roles")


@test(limit=90)
def an_open_write_transaction_does_not_survive_its_primary(scratch):
    """The planned change waits for or ends what is inside; the writer is told; nothing half is seen."""
    with Cluster(scratch, nodes=2) as c:
        for mode in ("wal", "delete"):
            name = mode + ".db"
            clients.prepare(c[0], name, "journal_mode=" + mode)
        c.wait_level()
        primary, other = c[0], c[1]
        for mode in ("wal", "delete"):
            name = mode + ".db"
            db = primary.connect(name)
            db.execute("BEGIN IMMEDIATE")
            db.execute("UPDATE acct SET amount = amount - 7")
            other.promote()
            try:
                db.execute("COMMIT")
            except sqlite3.Error:
                pass
            else:
                raise AssertionError("COMMIT succeeded on a node that is no longer the primary (%s)" % mode)
            try:
                db.close()
            except sqlite3.Error:
                pass
            other.sql(name, "INSERT INTO acked VALUES('x', 1, NULL)", "UPDATE total SET v = v + 1")
            c.wait_level(name, nodes=[other, primary])
            for node in c.nodes:
                with node.connect(name) as look:
                    clients.client.check(look)
                look.close()
            check.same_everywhere(c, name, nodes=[other, primary])
            primary, other = other, primary
