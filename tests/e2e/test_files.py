# SPDX-License-Identifier: Apache-2.0
"""Databases as files: copied, moved, removed, in folders, and ordinary files beside them."""
import contextlib
import os
import shutil
import sqlite3
import subprocess

from lib import check
from lib.case import equal, need, test, wait_for
from lib.cluster import Cluster
from lib import sqlsuite

# SQLite's own programs may have to be built first.
BUILD_LIMIT = 1200


def sh(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False)
    need(done.returncode == 0, "%s: %s", " ".join(command), done.stdout)
    return done.stdout


def outside(scratch, name, rows=2000, page_size=4096):
    """An ordinary database beside the mounts."""
    path = scratch.join(name)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA page_size=%d" % page_size)
        db.execute("CREATE TABLE t(a, b)")
        db.execute("WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i < %d) "
                   "INSERT INTO t SELECT i, randomblob(300) FROM n" % rows)
    return path


def wait_same(c, name, want=None):
    data = check.same_everywhere(c, name)
    if want is not None:
        equal(data == want, True, "%s holds what was written" % name)
    return data


def wait_gone(node, name):
    wait_for(lambda: not os.path.exists(node.db(name)), 15, "%s to be gone on %s" % (name, node.name))


@test(limit=60)
def a_database_that_is_copied_in_replicates(scratch):
    with Cluster(scratch) as c:
        for tool, size in (("cp", 512), ("dd", 4096), ("python", 65536)):
            source = outside(scratch, tool + ".src", page_size=size)
            target = c[0].db(tool + ".db")
            if tool == "cp":
                sh("cp", source, target)
            elif tool == "dd":
                sh("dd", "if=" + source, "of=" + target, "bs=3000", "status=none")
            else:
                shutil.copyfile(source, target)
            with open(source, "rb") as f:
                want = f.read()
            wait_for(lambda name=tool: c[0].pos(name + ".db"), 15, "a record of the copy")
            wait_same(c, tool + ".db", want)
        # Another database of another page size over it.
        source = outside(scratch, "other.src", rows=100, page_size=1024)
        sh("cp", source, c[0].db("cp.db"))
        with open(source, "rb") as f:
            want = f.read()
        wait_for(lambda: c[1].db("cp.db") and os.path.getsize(c[1].db("cp.db")) == len(want), 15, "the second copy")
        wait_same(c, "cp.db", want)


@test(limit=60)
def a_database_that_is_removed_is_gone_everywhere_and_can_come_back(scratch):
    with Cluster(scratch, nodes=2) as c:
        for mode in ("wal", "delete"):
            name = mode + ".db"
            c[0].sql(name, "PRAGMA journal_mode=" + mode, "CREATE TABLE t(a)", "INSERT INTO t VALUES(1)")
            before = c.wait_level(name)[name]
            sh("rm", c[0].db(name))
            wait_gone(c[1], name)
            need(name not in c[1].databases(), "it is still listed")
            c[0].sql(name, "PRAGMA page_size=8192", "PRAGMA journal_mode=" + mode, "CREATE TABLE u(a)",
                     "INSERT INTO u VALUES(2)")
            after = c.wait_level(name)[name]
            need(after[0] > before[0], "the positions go back: %s, %s", before, after)
            equal(c[1].sql(name, "SELECT a FROM u"), [(2,)], "the new database on the replica")
            check.chain_gives(scratch, c[0], name, wait_same(c, name))


@test(limit=60)
def a_database_that_is_renamed_has_its_new_name_everywhere(scratch):
    with Cluster(scratch, nodes=2) as c:
        c[0].sql("a.db", "CREATE TABLE t(a)", "INSERT INTO t VALUES(1)")
        c[0].sql("w.db", "PRAGMA journal_mode=wal", "CREATE TABLE t(a)", "INSERT INTO t VALUES(2)")
        c.wait_level()
        sh("mv", c[0].db("a.db"), c[0].db("b.db"))
        sh("mv", c[0].db("w.db"), c[0].db("x.db"))
        for old, new, value in (("a.db", "b.db", 1), ("w.db", "x.db", 2)):
            wait_gone(c[1], old)
            c[0].sql(new, "INSERT INTO t VALUES(%d)" % (value + 10))
            wait_same(c, new)
            equal(c[1].sql(new, "SELECT a FROM t"), [(value,), (value + 10,)], new)
        # Over one that is there.
        c[0].sql("target.db", "CREATE TABLE t(a)", "INSERT INTO t VALUES('old')")
        c.wait_level("target.db")
        sh("mv", "-f", c[0].db("b.db"), c[0].db("target.db"))
        wait_gone(c[1], "b.db")
        wait_same(c, "target.db")
        equal(c[1].sql("target.db", "SELECT a FROM t"), [(1,), (11,)], "the database that replaced another")


@test(limit=60)
def backup_and_vacuum_into_replicate(scratch):
    source = outside(scratch, "source.db")
    with Cluster(scratch, nodes=2) as c:
        sh("sqlite3", source, ".backup '%s'" % c[0].db("backup.db"))
        sh("sqlite3", source, "VACUUM INTO '%s'" % c[0].db("into.db"))
        with contextlib.closing(sqlite3.connect(source)) as db, contextlib.closing(c[0].connect("api.db")) as to:
            db.backup(to, pages=50)
        for name in ("backup.db", "into.db", "api.db"):
            wait_for(lambda name=name: c[0].pos(name), 15, "a record of " + name)
            wait_same(c, name)
            equal(c[1].sql(name, "SELECT count(*) FROM t"), [(2000,)], name)
        # And out of the mount, on the replica.
        copy = scratch.join("copy.db")
        sh("sqlite3", c[1].db("into.db"), ".backup '%s'" % copy)
        with contextlib.closing(sqlite3.connect(copy)) as db:
            equal(db.execute("SELECT count(*) FROM t").fetchall(), [(2000,)], "a backup of the replica")


@test(limit=60)
def databases_in_subfolders_replicate(scratch):
    names = ["a/one.db", "a/b/c/two.db", "with space/ünï-wal café.db", "a/b/x-wal.db"]
    with Cluster(scratch, nodes=2) as c:
        for i, name in enumerate(names):
            os.makedirs(os.path.dirname(c[0].db(name)), exist_ok=True)
            c[0].sql(name, "PRAGMA journal_mode=" + ("wal" if i % 2 else "delete"), "CREATE TABLE t(a)",
                     "INSERT INTO t VALUES(%d)" % i)
        for i, name in enumerate(names):
            wait_same(c, name)
            equal(c[1].sql(name, "SELECT a FROM t"), [(i,)], name)
            equal(c[1].pos(name), c[0].pos(name), "the -pos of " + name)
        sh("mv", c[0].db("a/b"), c[0].db("moved"))
        wait_gone(c[1], "a/b/c/two.db")
        for name in ("moved/c/two.db", "moved/x-wal.db"):
            wait_same(c, name)
        sh("rm", "-r", c[0].db("moved"))
        wait_gone(c[1], "moved/c/two.db")
        equal(c[1].sql(names[0], "SELECT a FROM t"), [(0,)], "the database beside it")


NAMES = ["with space.db", " leading and trailing ", "\u00fcn\u00ef-wal caf\u00e9.db", "\U0001f418.sqlite", "a-wal.db", "b-journal.db",
         "c-shm.b", "app.db-wal.db", "-dash.db", "d-pos.db", "quote'\"`$;&|.db", "percent%2F%00.db", "new\nline.db", "back\\slash",
         "UPPER.DB", "upper.db", "dot.", "..two", "x" * 235 + ".db", "dir-wal/x-wal.y", "dir-journal/e-shm.db", "d/e/f-mj/g.db",
         "nfc-\u00e9", "nfd-e\u0301"]


@test(limit=120)
def databases_with_odd_names_replicate(scratch):
    with Cluster(scratch, nodes=2) as c:
        for i, name in enumerate(NAMES):
            os.makedirs(os.path.dirname(c[0].db(name)), exist_ok=True)
            c[0].sql(name, "PRAGMA journal_mode=" + ("wal" if i % 2 else "delete"), "CREATE TABLE t(a)",
                     "INSERT INTO t VALUES(%d)" % i)
        # Bytes that are no UTF-8.
        raw = os.fsencode(c[0].db("raw-")) + b"\xff\xfe.db"
        shutil.copyfile(outside(scratch, "raw.src", rows=10), raw)
        for turn in range(2):
            for i, name in enumerate(NAMES):
                wait_same(c, name)
                for node in c.nodes:
                    equal(node.sql(name, "SELECT a FROM t")[0], (i,), "%r on %s" % (name, node.name))
                equal(c[1].pos(name), c[0].pos(name), "the -pos of %r" % name)
            there = os.path.join(os.fsencode(c[1].mount), os.path.basename(raw))
            wait_for(lambda: os.path.exists(there) and os.path.getsize(there) == os.path.getsize(raw), 15, "the raw name there")
            if turn == 0:
                for node in reversed(c.nodes):
                    node.restart(kill=True)
                for name in NAMES:
                    c[0].sql(name, "INSERT INTO t VALUES('again')")
        listed = {entry["name"] for entry in c[0].info()["databases"]}
        need(set(NAMES) <= listed, "/info does not list %s", sorted(set(NAMES) - listed))
        for name in NAMES[::3]:
            moved = name + " 2"
            os.rename(c[0].db(name), c[0].db(moved))
            wait_gone(c[1], name)
            wait_same(c, moved)
            os.unlink(c[0].db(moved))
            wait_gone(c[1], moved)


def full_shell():
    """A sqlite3 with .recover and sqlite_dbpage."""
    sqlsuite.build()
    return os.path.join(sqlsuite.BUILT, "bin", "sqlite3")


@test(sqlite=True, limit=BUILD_LIMIT)
def what_recover_writes_into_the_mount_replicates(scratch):
    shell = full_shell()
    damaged = outside(scratch, "damaged.db", rows=500)
    with contextlib.closing(sqlite3.connect(damaged, isolation_level=None)) as db:
        db.execute("CREATE TABLE small(a)")
        db.execute("INSERT INTO small VALUES('kept')")
        page = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 't'").fetchone()[0]
    with open(damaged, "r+b") as f:
        f.seek((page - 1) * 4096)
        f.write(os.urandom(4096))
    with Cluster(scratch, nodes=2) as c:
        for mode in ("delete", "wal"):
            name = mode + ".db"
            c[0].sql(name, "PRAGMA journal_mode=" + mode)
            script = subprocess.run([shell, damaged, ".recover"], stdout=subprocess.PIPE, timeout=60, check=False).stdout
            done = subprocess.run(["sqlite3", c[0].db(name)], input=script, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                  timeout=60, check=False)
            equal(c[0].sql(name, "SELECT a FROM small"), [("kept",)], "what was recovered (%s)" % done.stdout[-200:])
            data = wait_same(c, name)
            equal(c[1].sql(name, "SELECT a FROM small"), [("kept",)], "what was recovered, on the replica")
            check.chain_gives(scratch, c[0], name, data)
        # In place: out of the replica's database that holds garbage, and over it.
        sh("cp", damaged, c[0].db("damaged.db"))
        wait_for(lambda: c[0].pos("damaged.db"), 15, "a record of the damaged one")
        c.wait_level("damaged.db")
        script = subprocess.run([shell, c[1].db("damaged.db"), ".recover"], stdout=subprocess.PIPE,
                                timeout=60, check=False).stdout
        need(b"kept" in script, ".recover on the replica says: %r", script[-300:])


@test(sqlite=True, limit=BUILD_LIMIT, each=("delete", "wal"))
def pages_that_are_written_through_sqlite_dbpage_replicate(scratch, mode):
    """As sqlite3_rsync does it: page by page, inside a transaction, past the SQL of the database."""
    shell = full_shell()
    with Cluster(scratch, nodes=2) as c:
        c[0].sql("app.db", "PRAGMA journal_mode=" + mode, "CREATE TABLE t(a, b)", "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL "
                 "SELECT i+1 FROM n WHERE i < 2000) INSERT INTO t SELECT i, randomblob(300) FROM n")
        source = scratch.join("source.db")
        with open(source, "wb") as f:
            f.write(c[0].export("app.db"))
        with contextlib.closing(sqlite3.connect(source, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode=delete")
            db.execute("UPDATE t SET a = -a WHERE a % 7 = 0")
            want = db.execute("SELECT count(*), sum(a) FROM t").fetchone()
        before = c.wait_level("app.db")["app.db"]
        there = c[1].connect("app.db")
        there.execute("SELECT count(*) FROM t").fetchone()
        script = """
            ATTACH '%s' AS source;
            BEGIN IMMEDIATE;
            CREATE TEMP TABLE wanted AS SELECT s.pgno, s.data FROM sqlite_dbpage('source') AS s, sqlite_dbpage('main') AS m
                WHERE s.pgno = m.pgno AND s.data <> m.data AND s.pgno > 1;
            SELECT count(*) FROM wanted;
            UPDATE sqlite_dbpage SET data = (SELECT data FROM wanted WHERE wanted.pgno = sqlite_dbpage.pgno)
                WHERE schema = 'main' AND pgno IN (SELECT pgno FROM wanted);
            COMMIT;
            """ % source
        done = subprocess.run([shell, "-bail", c[0].db("app.db")], input=script, stdout=subprocess.PIPE, text=True, timeout=60,
                              stderr=subprocess.STDOUT, check=False)
        need(done.returncode == 0 and int(done.stdout.split()[0]) > 50, "%s", done.stdout)
        equal(c[0].pos("app.db")[0], before[0] + 1, "the TXID after it")
        c.wait_level("app.db")
        equal(there.execute("SELECT count(*), sum(a) FROM t").fetchone(), want, "rows on a connection to the replica")
        there.close()
        check.chain_gives(scratch, c[0], "app.db", wait_same(c, "app.db"))


@test(limit=60)
def ordinary_files_stay_on_their_node(scratch):
    with Cluster(scratch, nodes=2) as c:
        c[0].sql("app.db", "CREATE TABLE t(a)")
        os.mkdir(c[0].db("notes"))
        with open(c[0].db("notes/readme.txt"), "w") as f:
            f.write("hello\n" * 1000)
        sh("chmod", "640", c[0].db("notes/readme.txt"))
        os.rename(c[0].db("notes/readme.txt"), c[0].db("notes/README"))
        with open(c[0].db("notes/README"), "a") as f:
            f.write("more\n")
            f.flush()
            os.fsync(f.fileno())
        with open(c[0].db("notes/README")) as f:
            equal(len(f.read()), 6005, "the size read back")
        os.truncate(c[0].db("notes/README"), 5)
        equal(os.path.getsize(c[0].db("notes/README")), 5, "the size after a truncate")
        with open(c[0].db("garbage.db"), "wb") as f:
            f.write(os.urandom(10000))
        c.wait_level("app.db")
        c[0].sql("app.db", "INSERT INTO t VALUES(1)")
        c.wait_level("app.db")
        need(not os.path.exists(c[1].db("notes/README")), "an ordinary file has been replicated")
        need(not os.path.exists(c[1].db("garbage.db")), "a file that is no database has been replicated")
        status = c[0].cli("status").stdout
        need("ordinary" in status or "not replicated" in status, "status does not speak of ordinary files:\n%s", status)
        c[0].restart()
        equal(os.path.getsize(c[0].db("notes/README")), 5, "the ordinary file after a restart")
        os.unlink(c[0].db("notes/README"))
        os.rmdir(c[0].db("notes"))
