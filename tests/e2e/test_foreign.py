# SPDX-License-Identifier: Apache-2.0
"""Files that are no SQLite databases to others: encrypted ones, which SQLCipher writes as SQLite would, and any bytes. They
stay on their node, as ordinary files, and nobody is told about them again and again."""
import contextlib
import os
import re
import shutil
import sqlite3
import subprocess

from lib import check
from lib.case import Skip, dice, equal, need, test, wait_for
from lib.cluster import Cluster

COUNT = "SELECT count(*), sum(a) FROM t;"


class Cipher:
    """A connection of SQLCipher's shell, which is SQLite with another pager."""

    def __init__(self, scratch, path, mode="delete", key="secret"):
        if not shutil.which("sqlcipher"):
            raise Skip("sqlcipher is not installed (tools/install-deps does it)")
        self.process = scratch.popen(["sqlcipher", "-bail", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                     stderr=subprocess.STDOUT, text=True, bufsize=1)
        self.ask("PRAGMA key='%s';" % key)
        self.mode = self.ask("PRAGMA journal_mode=%s;" % mode)

    def ask(self, sql):
        self.process.stdin.write(sql + "\nSELECT '-- end';\n")
        lines = []
        while True:
            line = self.process.stdout.readline()
            need(line, "sqlcipher has ended: %s: %s", sql, lines)
            if line == "-- end\n":
                return "\n".join(lines)
            lines.append(line.rstrip("\n"))

    def close(self):
        self.process.stdin.close()
        equal(self.process.wait(20), 0, "the end of sqlcipher")


def quiet(node, since=0):
    """No line that is more than information."""
    loud = [line for line in node.log_text()[since:].splitlines() if re.search(r" (WARN|ERROR)", line)]
    # The replica looks for its primary while that is started again.
    loud = [line for line in loud if "does not answer" not in line and "no longer reachable" not in line]
    equal(loud, [], "loud log lines of %s" % node.name)


@test(limit=120, each=("delete", "truncate", "persist", "memory", "off", "wal"))
def an_encrypted_database_is_an_ordinary_file(scratch, mode):
    with Cluster(scratch) as c:
        c[0].sql("app.db", "CREATE TABLE t(a)")
        c.wait_level("app.db")
        path = c[0].db("secret.db")
        db = Cipher(scratch, path, mode)
        equal(db.mode, mode, "journal_mode")
        db.ask("CREATE TABLE t(a, b); INSERT INTO t VALUES(1, randomblob(5000));")
        other = Cipher(scratch, path, mode)
        for i in range(2, 40):
            db.ask("BEGIN; INSERT INTO t VALUES(%d, randomblob(3000)); COMMIT;" % i)
            if mode not in ("off",):
                db.ask("BEGIN; DELETE FROM t; ROLLBACK;")
        want = "39|%d" % sum(range(40))
        equal(other.ask(COUNT), want, "what another connection reads")
        other.close()
        if mode == "wal":
            need(os.path.getsize(path + "-wal") > 10000, "the -wal is empty")
            db.ask("PRAGMA wal_checkpoint(TRUNCATE); INSERT INTO t VALUES(0, NULL); DELETE FROM t WHERE a = 0;")
        with open(path, "rb") as f:
            need(f.read(16) != b"SQLite format 3\0", "it is not encrypted: the test shows nothing")
        # Whatever the daemon has to do, it has done when this is through.
        c[0].sql("app.db", "INSERT INTO t VALUES(1)")
        c.wait_level("app.db")
        for node in c.nodes:
            equal(node.pos("secret.db"), None, "the position of the encrypted one on %s" % node.name)
            equal([d["name"] for d in node.info()["databases"]], ["app.db"], "databases of %s" % node.name)
            quiet(node)
        need(not os.path.exists(c[1].db("secret.db")), "it has come to the replica")
        # Killed under an open connection: its journal or -wal is what SQLCipher recovers from.
        db.ask("INSERT INTO t VALUES(1000, randomblob(2000));")
        c[0].kill9()
        db.process.kill()
        db.process.wait()
        since = len(c[0].log_text())
        c[0].start()
        db = Cipher(scratch, path, mode)
        equal(db.ask(COUNT), "40|%d" % (sum(range(40)) + 1000), "what is there after a kill of the daemon")
        db.ask("INSERT INTO t VALUES(2000, NULL);")
        db.close()
        quiet(c[0], since)
        c[0].restart()
        db = Cipher(scratch, path, mode)
        equal(db.ask(COUNT), "41|%d" % (sum(range(40)) + 3000), "what is there after a restart")
        db.close()
        c.wait_level("app.db")


@test(limit=90, each=("delete", "wal"))
def a_database_becomes_encrypted_and_is_decrypted_again(scratch, mode):
    with Cluster(scratch) as c:
        c[0].sql("app.db", "PRAGMA journal_mode=" + mode, "CREATE TABLE t(a)", "INSERT INTO t VALUES(7)")
        c.wait_level("app.db")
        plain = scratch.join("plain.db")
        with open(plain, "wb") as f:
            f.write(c[0].export("app.db"))
        encrypted = scratch.join("encrypted.db")
        db = Cipher(scratch, encrypted, key="k")
        db.ask("CREATE TABLE t(a); INSERT INTO t VALUES(8);")
        db.close()
        since = len(c[0].log_text())
        shutil.copyfile(encrypted, c[0].db("app.db"))
        c[0].wait_log("app.db is no longer a SQLite database")
        wait_for(lambda: not os.path.exists(c[1].db("app.db")), 15, "it to be gone on the replica")
        equal(len(re.findall("no longer a SQLite database", c[0].log_text()[since:])), 1, "how often that is said")
        # It is used, in its own way, and stays.
        db = Cipher(scratch, c[0].db("app.db"), mode, key="k")
        db.ask("INSERT INTO t VALUES(9); SELECT count(*) FROM t;")
        c[0].restart(kill=True)
        db.process.kill()
        db.process.wait()
        db = Cipher(scratch, c[0].db("app.db"), mode, key="k")
        equal(db.ask(COUNT), "2|17", "what is in it after a kill of the daemon")
        db.close()
        need(not os.path.exists(c[1].db("app.db")), "it has come to the replica")
        # A plain one in its place.
        for suffix in ("-wal", "-shm", "-journal"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(c[0].db("app.db" + suffix))
        shutil.copyfile(plain, c[0].db("app.db"))
        wait_for(lambda: os.path.exists(c[1].db("app.db")), 15, "it to come back to the replica")
        c[0].sql("app.db", "INSERT INTO t VALUES(10)")
        data = check.same_everywhere(c, "app.db")
        equal(c[1].sql("app.db", "SELECT a FROM t"), [(7,), (10,)], "rows on the replica")
        check.chain_gives(scratch, c[0], "app.db", data)


@test(limit=90)
def any_other_bytes_are_an_ordinary_file(scratch):
    rng = dice()
    with Cluster(scratch) as c:
        c[0].sql("app.db", "PRAGMA page_size=1024", "CREATE TABLE t(a)", "INSERT INTO t VALUES(randomblob(20000))")
        c.wait_level("app.db")
        whole = c[0].export("app.db")
        files = {
            "empty": b"", "text": b"hello\n" * 100, "short": whole[:99], "noise": rng.randbytes(100000),
            "header": whole[:100], "other.db": b"SQLite format 2\0" + whole[16:], "utf16": whole[:15] + b"1" + whole[16:],
            "size.db": whole[:16] + b"\x04\x01" + whole[18:], "zeros.db": bytes(8192), "x-journal": rng.randbytes(5000), "y-wal": rng.randbytes(5000),
            "z-shm": rng.randbytes(40000), "app.db-mj12345678": rng.randbytes(100),
        }
        for name, data in files.items():
            with open(c[0].db(name), "wb") as f:
                f.write(data)
        # In pieces, truncated, extended, written in the middle, mapped: as programs do.
        with open(c[0].db("noise"), "r+b") as f:
            for _ in range(200):
                f.seek(rng.randrange(100000))
                f.write(rng.randbytes(rng.randrange(3000)))
                f.flush()
            f.truncate(77777)
            os.fsync(f.fileno())
            f.seek(0)
            files["noise"] = f.read()
        for turn in range(2):
            c[0].sql("app.db", "INSERT INTO t VALUES(%d)" % turn)
            c.wait_level("app.db")
            for name, data in files.items():
                with open(c[0].db(name), "rb") as f:
                    equal(f.read() == data, True, "%s holds what was written" % name)
                need(not os.path.exists(c[1].db(name)), "%s has come to the replica", name)
                equal(c[0].pos(name), None, "the position of %s" % name)
            equal([d["name"] for d in c[0].info()["databases"]], ["app.db"], "databases")
            if turn == 0:
                quiet(c[0])
                c[0].restart(kill=True)
        quiet(c[0])
        # The header alone is a part of a database: looked at again when there is more of it.
        with open(c[0].db("header"), "ab") as f:
            f.write(whole[100:])
        wait_for(lambda: os.path.exists(c[1].db("header")), 15, "the database that is whole now to come to the replica")
        equal(check.same_everywhere(c, "header") == whole, True, "it holds what was written")


@test(limit=60)
def a_schema_that_the_daemons_sqlite_cannot_read_replicates(scratch):
    """An application may have a newer SQLite than the daemon."""
    with Cluster(scratch) as c:
        with contextlib.closing(c[0].connect("app.db")) as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("CREATE TABLE t(a)")
            db.execute("PRAGMA writable_schema=ON")
            db.execute("INSERT INTO sqlite_schema VALUES('table', 'new', 'new', 0, 'CREATE NOVEL TABLE new(a)')")
            for i in range(3):
                # Its own connection is a new one, and not the one that knew the schema of before.
                c[1].restart()
                db.execute("INSERT INTO t VALUES(?)", (i,))
                c.wait_level("app.db")
            db.execute("DELETE FROM sqlite_schema WHERE name='new'")
        check.same_everywhere(c, "app.db")
        equal(c[1].sql("app.db", "SELECT count(*) FROM t"), [(3,)], "rows on the replica")
