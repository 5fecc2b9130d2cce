# SPDX-License-Identifier: Apache-2.0
"""Replicas that heal: what is wrong is found by checksum, and only the pages that differ are fetched.

A reader checks an invariant in every snapshot all along, and never gets an error.

TANDEMFS_HEAL_MB: the size of the database of which a few pages differ (default: 64; the full run takes 1024).
"""
import contextlib
import os
import re
import shutil
import subprocess

from lib import check, clients
from lib.case import dice, equal, figure, need, test, wait_for
from lib.cluster import PROGRAM, Cluster, run
from lib.wire import Wire

MODES = ("wal", "delete")
MEGABYTE = 1 << 20
LARGE_MB = int(os.environ.get("TANDEMFS_HEAL_MB") or 64)


def ballast(node, name, megabytes):
    """Rows of a page each that no reader looks at; none of them compresses."""
    node.sql(name, "CREATE TABLE ballast(id INTEGER PRIMARY KEY, x BLOB)",
             "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < %d) "
             "INSERT INTO ballast SELECT i, randomblob(4000) FROM n" % (megabytes * 256))


def commit(node, name, tag, rows):
    for i in range(rows):
        node.sql(name, "BEGIN", "INSERT INTO acked VALUES('%s', %d, NULL)" % (tag, i),
                 "UPDATE total SET v = v + 1", "UPDATE ballast SET x = randomblob(4000) WHERE id = %d" % (10 * i + 1),
                 "COMMIT")


def tags(node, name):
    return dict(node.sql(name, "SELECT tag, count(*) FROM acked GROUP BY tag"))


def diverged(node, name):
    folder = os.path.join(node.data, "diverged", name)
    return sorted(os.path.join(folder, f) for f in os.listdir(folder)) if os.path.isdir(folder) else []


def need_kept(node, name, first, last):
    """Each transaction from `first` to `last` is a sound LTX file, and status tells."""
    kept = diverged(node, name)
    equal([os.path.basename(f) for f in kept], ["%016x-%016x.ltx" % (t, t) for t in range(first, last + 1)],
          "the files in diverged/")
    run("ltx", "verify", *kept)
    text = node.cli("status").stdout
    print(text)
    line = r"(?m)^  %s +%d +%d to %d .*%s$" % (name, last + 1 - first, first, last, os.path.dirname(kept[0]))
    need(re.search(line, text), "status does not list them (%s):\n%s", line, text)


def watch(scratch, node, name):
    reader = clients.reader(scratch, node.db(name), "--pause", "0.002", "--tell", "10")
    reader.wait_looked()
    return reader


def end_watch(reader):
    """It has looked at what is there now, too."""
    reader.wait_looked(2)
    need(reader.stop()["checks"] >= 30, "the reader has hardly looked")


def need_few(c, before):
    carried = c.wire.bytes() - before
    figure("%d bytes on the wire until 8 MB were as they should be", carried)
    need(carried < MEGABYTE // 4, "%d bytes on the wire", carried)


def overwrite(path, offset, data):
    with open(path, "r+b") as f:
        f.seek(offset)
        f.write(data)


def newest_segment(node, name):
    folder = os.path.join(check.ledger_folder(node, name), "log")
    return os.path.join(folder, sorted(os.listdir(folder))[-1])


class Wired(Cluster):
    """Two nodes, everything between them over one wire."""

    def __init__(self, scratch, config=""):
        super().__init__(scratch, nodes=2, start=False)
        self.wire = Wire(scratch, self[0].listen)
        self.path = scratch.join("common.yml")
        self.configure(config)
        self[0].start("-c", self.path, "--advertise", self.wire.url, "--primary")
        self[1].start("-c", self.path, "--replica-of", self.wire.url)

    def configure(self, text):
        with open(self.path, "w") as f:
            f.write(text)

    @contextlib.contextmanager
    def watched(self, name, most):
        """A reader is at work on the replica meanwhile, and the wire carries at most so many bytes."""
        before, reader = self.wire.bytes(), watch(self.scratch, self[1], name)
        yield reader
        end_watch(reader)
        carried = self.wire.bytes() - before
        figure("%d bytes on the wire while %s of %.0f MB healed", carried, name,
               os.path.getsize(self[1].db(name)) / 1e6)
        need(carried <= most, "%d bytes went over the wire, at most %d were expected", carried, most)


@test(limit=90, each=MODES)
def divergence_heals(scratch, mode):
    """A primary that was asleep has committed what the cluster never got."""
    with Cluster(scratch, nodes=2) as c:
        clients.prepare(c[0], "app.db", "journal_mode=" + mode)
        ballast(c[0], "app.db", 8)
        shared = c.wait_level("app.db")["app.db"][0]
        c[1].kill9()
        commit(c[0], "app.db", "unique", 5)
        reader = watch(scratch, c[0], "app.db")
        c[0].stop_signal()
        try:
            c[1].start(wait=False)
            wait_for(lambda: (c[1].try_info() or {}).get("role") == "replica", 20, "the replica to be there")
            c[1].promote(force=True)
            commit(c[1], "app.db", "new", 3)
        finally:
            c[0].cont_signal()
        wait_for(lambda: c[0].role() == "replica", 20, "the old primary to become a replica")
        c.wait_level("app.db", nodes=[c[1], c[0]])
        end_watch(reader)
        equal(tags(c[0], "app.db"), {"new": 3}, "the rows")
        check.same_everywhere(c, "app.db")
        need_kept(c[0], "app.db", shared + 1, shared + 5)
        received = c[0].info()["bytes_received"]
        need(received < MEGABYTE, "%d bytes received", received)


@test(limit=120, each=MODES)
def missed_retention_heals(scratch, mode):
    """The records that the replica lacks are no longer kept."""
    with Wired(scratch) as c:
        clients.prepare(c[0], "app.db", "journal_mode=" + mode)
        ballast(c[0], "app.db", 8)
        here = c.wait_level("app.db")["app.db"][0]
        with c.watched("app.db", MEGABYTE):
            c.wire.cut()
            c.configure("retention: {size: 16kB}\n")
            c[0].restart() # nobody holds the log for the replica any more
            commit(c[0], "app.db", "later", 10)

            def first():
                return int(c[0].info()["databases"][0]["first"][:16], 16)
            wait_for(lambda: first() > here, 30, lambda: "the records to be trimmed: %x > %x" % (first(), here), pause=0.1)
            c.wire.mend()
            c.wait_level("app.db")
        c[1].wait_log("brought up to transaction")
        equal(tags(c[1], "app.db"), {"later": 10}, "the rows")
        check.same_everywhere(c, "app.db")


@test(limit=120 + LARGE_MB, each=MODES)
def what_differs_little_costs_little(scratch, mode):
    """Of a database of 1 GB, 100 pages differ: less than 5 MB go over the wire."""
    rng = dice()
    with Wired(scratch) as c:
        clients.prepare(c[0], "app.db", "journal_mode=" + mode)
        for _ in range(LARGE_MB // 16): # a commit of 16 MB at a time
            c[0].sql("app.db", "CREATE TABLE IF NOT EXISTS ballast(id INTEGER PRIMARY KEY, x BLOB)",
                     "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 4096) "
                     "INSERT INTO ballast(x) SELECT randomblob(4000) FROM n")
        c.wait_level("app.db", limit=60 + LARGE_MB)
        changed, most = max(100 * LARGE_MB // 1024, 1), 5 * MEGABYTE * LARGE_MB // 1024
        with c.watched("app.db", most):
            received = c[1].info()["bytes_received"]
            c.wire.cut()
            c.configure("retention: {size: 16kB}\n")
            c[0].restart()
            rows = rng.sample(range(1, LARGE_MB * 256), changed)
            c[0].sql("app.db", "UPDATE ballast SET x = randomblob(4000) WHERE id IN (%s)" % ",".join(map(str, rows)))
            here = c[1].pos("app.db")[0]

            def first():
                return int(c[0].info()["databases"][0]["first"][:16], 16)
            wait_for(lambda: first() > here, 60, "the records to be trimmed", pause=0.1)
            c.wire.mend()
            c.wait_level("app.db")
        c[1].wait_log("brought up to transaction")
        received = c[1].info()["bytes_received"] - received
        figure("%d of %d pages differed; the replica has counted %d bytes received", changed + 1,
               c[1].info()["databases"][0]["pages"], received)
        need(changed * 4000 < received < most, "the replica has counted %d bytes", received)
        check.same_everywhere(c, "app.db")
        figure("verify on the replica: %s", c[1].cli("verify", limit=60 + LARGE_MB).stdout.splitlines()[0])


@test(limit=90)
def a_record_that_the_primary_has_damaged_sends_nobody_round_and_round(scratch):
    """A new replica would get the records alone; the first of them is not what it was."""
    with Wired(scratch) as c:
        c[1].term()
        clients.prepare(c[0], "app.db", "journal_mode=wal")
        c[0].sql("app.db", "INSERT INTO acked VALUES('a', 1, zeroblob(100000))", "UPDATE total SET v = 1")
        with open(newest_segment(c[0], "app.db"), "rb") as f:
            at = f.read().find(b"TFRM")
        overwrite(newest_segment(c[0], "app.db"), at + 200, b"\xff" * 16)
        c[1].start()
        check.same_everywhere(c, "app.db", damaged=[c[0]])


@test(limit=120, each=MODES)
def a_position_from_the_future_heals(scratch, mode):
    """The primary was put back to an older copy of its data: the replica knows more than it does."""
    with Wired(scratch) as c:
        clients.prepare(c[0], "app.db", "journal_mode=" + mode)
        ballast(c[0], "app.db", 8)
        past = c.wait_level("app.db")["app.db"][0]
        c[0].term()
        copy = scratch.join("copy")
        shutil.copytree(c[0].data, copy, symlinks=True)
        c[0].start()
        commit(c[0], "app.db", "lost", 6)
        future = c.wait_level("app.db")["app.db"][0]
        equal(future, past + 6, "the TXID")
        with c.watched("app.db", MEGABYTE):
            c[0].term()
            shutil.rmtree(c[0].data)
            os.rename(copy, c[0].data)
            c[0].start()
            c.wait_level("app.db")
        equal(c[1].pos("app.db")[0], past, "the TXID of the replica")
        equal(tags(c[1], "app.db"), {}, "the rows")
        need_kept(c[1], "app.db", past + 1, future)
        commit(c[0], "app.db", "again", 3)
        check.same_everywhere(c, "app.db")


@test(limit=90, each=MODES)
def a_file_without_a_header_heals(scratch, mode):
    """The first page of the database file was garbage when the replica was started; nothing was committed since."""
    with Wired(scratch) as c:
        clients.prepare(c[0], "app.db", "journal_mode=" + mode)
        ballast(c[0], "app.db", 8)
        c.wait_level("app.db")
        c[1].term()
        path = os.path.join(c[1].data, "tree", "app.db")
        overwrite(path, 0, b"garbage!" * 12)
        overwrite(path, 3 * MEGABYTE, b"garbage!" * 12)
        before = c.wire.bytes()
        c[1].start()
        check.same_everywhere(c, "app.db")
        need_few(c, before)
        c[1].restart(kill=True)
        check.same_everywhere(c, "app.db")


@test(limit=90, each=MODES)
def a_file_that_is_cut_or_gone_heals(scratch, mode):
    with Wired(scratch) as c:
        for name in ("cut.db", "gone.db"):
            clients.prepare(c[0], name, "journal_mode=" + mode)
            ballast(c[0], name, 2)
        c.wait_level()
        c[1].term()
        overwrite(os.path.join(c[1].data, "tree", "cut.db"), 0, b"garbage!" * 12)
        os.truncate(os.path.join(c[1].data, "tree", "cut.db"), MEGABYTE)
        os.unlink(os.path.join(c[1].data, "tree", "gone.db"))
        c[1].start()
        for name in ("cut.db", "gone.db"):
            check.same_everywhere(c, name)


@test(limit=90, each=MODES)
def a_damaged_log_segment_heals(scratch, mode):
    """The log of the replica ends before the position that its database file has reached."""
    with Wired(scratch) as c:
        clients.prepare(c[0], "app.db", "journal_mode=" + mode)
        ballast(c[0], "app.db", 8)
        commit(c[0], "app.db", "early", 10)
        c.wait_level("app.db")
        c[1].term()
        path = newest_segment(c[1], "app.db")
        with open(path, "rb") as f:
            data = f.read()
        frames = [i for i in range(len(data) - 4) if data[i:i + 4] == b"TFRM"]
        overwrite(path, frames[-5] + 300, b"\xff" * 64)
        before = c.wire.bytes()
        c[1].start()
        need("torn" in c[1].log_text(), "the log is not named:\n%s", c[1].log_tail())
        check.same_everywhere(c, "app.db")
        need_few(c, before)
        with c.watched("app.db", MEGABYTE):
            commit(c[0], "app.db", "late", 3)
            c.wait_level("app.db")
        c[1].restart(kill=True)
        equal(tags(c[1], "app.db"), {"early": 10, "late": 3}, "the rows")
        check.same_everywhere(c, "app.db")


@test(limit=90)
def a_record_damaged_before_it_was_applied_heals(scratch):
    """Readers hold the applier back; meanwhile a record that it has not read yet goes bad on disk."""
    with Wired(scratch) as c:
        clients.prepare(c[0], "app.db", "journal_mode=delete")
        ballast(c[0], "app.db", 8)
        c.wait_level("app.db")
        with c.watched("app.db", MEGABYTE), contextlib.closing(c[1].connect("app.db")) as held:
            held.execute("BEGIN")
            held.execute("SELECT count(*) FROM acct").fetchone()
            commit(c[0], "app.db", "later", 5)
            want = c[0].pos("app.db")

            def arrived():
                database = c[1].info()["databases"][0]
                return database["durable"] == database["position"] == "%016x/%s" % want
            wait_for(arrived, 20, "the records to be in the log of the replica")
            path = newest_segment(c[1], "app.db")
            with open(path, "rb") as f:
                at = f.read().rfind(b"TFRM")
            overwrite(path, at + 300, b"\xff" * 64)
            held.execute("COMMIT")
            c[1].wait_log("damaged here")
            wait_for(lambda: tags(c[1], "app.db") == {"later": 5}, 20, "the rows on the replica")
        check.same_everywhere(c, "app.db")


def page_of(node, name, row, tree=True):
    """The number of the page that holds a row of the ballast, and the page size."""
    size = node.sql(name, "PRAGMA page_size")[0][0]
    value = node.sql(name, "SELECT x FROM ballast WHERE id = %d" % row)[0][0]
    with open(os.path.join(node.data, "tree", name), "rb") as f:
        at = f.read().find(value[100:200])
    need(at > 0, "row %d is not in the file", row)
    return at // size + 1, size


def spoil(node, name, row):
    """Flips a byte of the page with that row in the file of a running node; returns its number."""
    pgno, size = page_of(node, name, row)
    path = os.path.join(node.data, "tree", name)
    with open(path, "rb") as f:
        f.seek((pgno - 1) * size + 2000)
        old = f.read(1)
    overwrite(path, (pgno - 1) * size + 2000, bytes([old[0] ^ 0x40]))
    return pgno


def database(node, name):
    return next(d for d in node.info()["databases"] if d["name"] == name)


def at_rest(c, mode, name="app.db", megabytes=4):
    """A database of which every page lies in the database file on the replica, too."""
    clients.prepare(c[0], name, "journal_mode=" + mode)
    ballast(c[0], name, megabytes)
    c.wait_level(name)
    c[1].restart()


@test(limit=90, each=[(mode, writes) for mode in MODES for writes in ("refuse", "wait")])
def a_bad_page_of_a_replica_comes_from_its_primary(scratch, case):
    mode, writes = case
    with Wired(scratch, "replica-writes: %s\n" % writes) as c:
        at_rest(c, mode)
        writer = clients.writers(scratch, [c[0].db("app.db")], 1, "--pause", "0.01")[0]
        with c.watched("app.db", 2 * MEGABYTE):
            pages = sorted(spoil(c[1], "app.db", row) for row in (100, 500, 900))
            result = c[1].cli("verify", "app.db", check=False)
            print(result.stdout, result.stderr)
            equal(result.returncode, 1, "the exit status of verify")
            need("3 bad pages (%s): put right from the primary" % ", ".join(map(str, pages)) in result.stdout,
                 "verify says:\n%s", result.stdout)
            writer.wait_acked(10)
        found = database(c[1], "app.db")
        equal((found["bad_pages"], found["mended_pages"]), (0, 3), "bad and mended pages")
        equal(c[1].cli("verify").returncode, 0, "the exit status of verify when all is well")
        writer.stop()
        for row in (100, 500, 900):
            c[1].sql("app.db", "SELECT x FROM ballast WHERE id = %d" % row)
        check.same_everywhere(c, "app.db")


@test(limit=90, each=MODES)
def a_bad_page_of_the_primary_comes_from_its_log(scratch, mode):
    with Wired(scratch) as c:
        clients.prepare(c[0], "app.db", "journal_mode=" + mode)
        ballast(c[0], "app.db", 4)
        c[0].restart()
        pgno = spoil(c[0], "app.db", 700)
        result = c[0].cli("verify", check=False)
        equal(result.returncode, 1, "the exit status of verify")
        need("1 bad page (%d): put right from the log of this node" % pgno in result.stdout, "verify says:\n%s",
             result.stdout)
        equal(c[0].cli("verify").returncode, 0, "the exit status of verify when all is well")
        commit(c[0], "app.db", "after", 3)
        check.same_everywhere(c, "app.db")


@test(limit=120, each=MODES)
def a_bad_page_that_the_primary_cannot_mend_comes_after_a_promotion(scratch, mode):
    with Wired(scratch, "retention: {size: 16kB}\n") as c:
        clients.prepare(c[0], "app.db", "journal_mode=" + mode)
        ballast(c[0], "app.db", 4)
        commit(c[0], "app.db", "early", 2)
        c.wait_level("app.db")
        c[0].restart()

        def first():
            return int(database(c[0], "app.db")["first"][:16], 16)
        wait_for(lambda: first() == c[0].pos("app.db")[0], 30, "the log of the primary to be trimmed", pause=0.2)
        pgno = spoil(c[0], "app.db", 700)
        result = c[0].cli("verify", check=False)
        equal(result.returncode, 1, "the exit status of verify")
        need("NOT put right" in result.stdout and "promote a replica" in result.stdout, "verify says:\n%s",
             result.stdout)
        status = c[0].cli("status").stdout
        print(status)
        need("1 bad page" in status and "promote a replica" in status, "status says:\n%s", status)
        need("page %d does not match its checksum" % pgno in c[0].log_text(), "the log says:\n%s", c[0].log_tail())
        equal(c[0].get("/healthz")[1].count("degraded"), 1, "degraded in /healthz")
        c[1].promote()
        wait_for(lambda: database(c[0], "app.db")["mended_pages"] == 1, 20, "the page to come from the new primary")
        equal(c[0].cli("verify").returncode, 0, "the exit status of verify when all is well")
        check.same_everywhere(c, "app.db", nodes=[c[1], c[0]])


@test(limit=90)
def databases_are_checked_now_and_then(scratch):
    with Wired(scratch, "scrub: {interval: 1s, rate: 50MB}\n") as c:
        at_rest(c, "wal")
        with c.watched("app.db", MEGABYTE):
            pgno = spoil(c[1], "app.db", 300)
            c[1].wait_log("page %d does not match its checksum" % pgno)
            c[1].wait_log("page %d has been put right from the primary" % pgno)
            wait_for(lambda: database(c[1], "app.db")["mended_pages"] == 1, 20, "the page to be counted")
        status, text = c[1].get("/metrics")
        equal(status, 200, "/metrics")
        for line in ('tandemfs_database_bad_pages{database="app.db"} 0',
                     'tandemfs_database_mended_pages_total{database="app.db"} 1',
                     'tandemfs_database_log_faults{database="app.db"} 0'):
            need(line in text, "%s is not in /metrics:\n%s", line, text)
        need(re.search("(?m)^checks +last [0-9]+s ago", c[1].cli("status").stdout), "status does not speak of checks")
        check.same_everywhere(c, "app.db")


@test(limit=90)
def verify_names_what_is_wrong_and_ends_with_it(scratch):
    with Wired(scratch) as c:
        for name in ("one.db", "two.db"):
            clients.prepare(c[0], name, "journal_mode=delete")
        c.wait_level()
        result = c[1].cli("verify")
        for part in ("one.db: ok, ", "two.db: ok, ", "2 databases, ", "everything matches its checksums"):
            need(part in result.stdout, "verify says:\n%s", result.stdout)
        result = c[1].cli("verify", "one.db")
        need("1 database, " in result.stdout and "two.db" not in result.stdout, "verify says:\n%s", result.stdout)
        result = c[1].cli("verify", "three.db", check=False)
        need(result.returncode == 1 and "there is no database three.db here" in result.stderr, "verify says:\n%s",
             result.stderr)
        path = newest_segment(c[1], "two.db")
        with open(path, "rb") as f:
            at = f.read().find(b"TFRM")
        overwrite(path, at + 48 + 36, b"\xff")
        result = c[1].cli("verify", check=False)
        equal(result.returncode, 1, "the exit status")
        need("two.db: 1 damaged file of its log: log/%s: the record of transaction" % os.path.basename(path)
             in result.stdout, "verify says:\n%s", result.stdout)
        status = c[1].cli("status").stdout
        need("1 damaged log file" in status and os.path.basename(path) in status, "status says:\n%s", status)
        c[1].term()
        result = c[1].cli("verify", check=False)
        equal(result.returncode, 2, "the exit status without a daemon")


def start_verify(c, **options):
    return c.scratch.popen([PROGRAM, "verify", "--http", c[0].http, "app.db"], stdin=subprocess.DEVNULL,
                           stdout=subprocess.PIPE, **options)


@test(limit=90)
def verify_shows_progress_and_waits_for_no_writer(scratch):
    """A transaction that is not ended has written pages into the file: it is waited for, and nothing is said of them."""
    with Wired(scratch) as c, contextlib.ExitStack() as stack:
        clients.prepare(c[0], "app.db", "journal_mode=delete")
        ballast(c[0], "app.db", 4)
        db = stack.enter_context(contextlib.closing(c[0].connect("app.db")))
        db.execute("PRAGMA cache_size=5")
        db.execute("BEGIN")
        db.execute("UPDATE ballast SET x = randomblob(4000)")
        near, far = os.openpty()
        terminal = start_verify(c, stderr=far)
        os.close(far)
        plain = start_verify(c, stderr=subprocess.PIPE)
        given_up = start_verify(c, stderr=subprocess.DEVNULL)

        def jobs():
            return [job for job in c[0].info()["jobs"] if job["what"] == "verify of app.db" and job["pages_done"]]
        wait_for(lambda: len(jobs()) == 3, 10, lambda: "three jobs: %s" % jobs())
        given_up.kill()
        wait_for(lambda: len(jobs()) == 2, 5, lambda: "the job of the one that went away to end: %s" % jobs())
        for process in (terminal, plain):
            out = process.communicate(timeout=60)
            equal(process.returncode, 0, "the exit status")
            need(re.search(rb"app.db: \d+ pages were always being changed and could not be judged", out[0]),
                 "verify says:\n%s", out)
        need(re.search(rb"INFO +progress: verify of app.db, page \d+ of \d+: .* of .* \(\d+%\)", out[1]),
             "progress as plain lines: %r", out[1])
        os.set_blocking(near, False)
        shown = os.read(near, 1 << 16)
        print(shown)
        need(shown.startswith(b"\r\x1b[Kverify of app.db, page ") and b"\n" not in shown, "on the terminal: %r", shown)
        os.close(near)
        db.execute("ROLLBACK")
        result = c[0].cli("verify")
        need("everything matches its checksums" in result.stdout, "verify says:\n%s", result.stdout)
        check.same_everywhere(c, "app.db")
