# SPDX-License-Identifier: Apache-2.0
"""What is damaged or foreign is named and left alone; the rest works."""
import os
import shutil

from lib import check, clients
from lib.case import equal, need, test, wait_for
from lib.cluster import Cluster


def newest(folder, suffix):
    files = sorted(f for f in os.listdir(folder) if f.endswith(suffix))
    need(files, "no *%s in %s", suffix, folder)
    return os.path.join(folder, files[-1])


def overwrite(path, offset, data):
    with open(path, "r+b") as f:
        f.seek(offset)
        f.write(data)


@test(limit=60)
def foreign_files_in_the_data_folder_are_named_and_stay(scratch):
    with Cluster(scratch, nodes=2) as c:
        clients.prepare(c[0], "app.db")
        c.wait_level("app.db")
        c[0].term()
        ledger = check.ledger_folder(c[0], "app.db")
        foreign = [os.path.join(c[0].data, "notes.txt"), os.path.join(c[0].data, "db", "stray"),
                   os.path.join(ledger, "log", "what.is.this"), os.path.join(ledger, "ltx", "mine.ltx")]
        os.makedirs(os.path.join(ledger, "ltx"), exist_ok=True)
        for path in foreign:
            with open(path, "w") as f:
                f.write("precious")
        c[0].start()
        for path in foreign:
            need(os.path.basename(path) in c[0].log_text(), "%s is not named:\n%s", path, c[0].log_tail())
        c[0].sql("app.db", "INSERT INTO acked VALUES('a', 1, NULL)", "UPDATE total SET v = 1")
        check.same_everywhere(c, "app.db")
        c[0].term()
        for path in foreign:
            with open(path) as f:
                equal(f.read(), "precious", path)


@test(limit=60)
def a_garbage_header_is_named_and_the_rest_works(scratch):
    with Cluster(scratch, nodes=2) as c:
        for name in ("bad.db", "good.db"):
            clients.prepare(c[0], name, "journal_mode=delete")
        c.wait_level()
        for node in (c[1], c[0]):
            node.term()
        # On the primary.
        path = os.path.join(c[0].data, "tree", "bad.db")
        overwrite(path, 0, b"garbage!" * 12)
        c.start()
        need("bad.db" in c[0].log_text(), "the damaged database is not named:\n%s", c[0].log_tail())
        c[0].sql("good.db", "INSERT INTO acked VALUES('a', 1, NULL)", "UPDATE total SET v = 1")
        check.same_everywhere(c, "good.db")
        need(os.path.exists(path), "the damaged file has been removed")


@test(limit=60)
def a_damaged_file_on_a_replica_does_not_stop_the_rest(scratch):
    with Cluster(scratch, nodes=2) as c:
        for name in ("bad.db", "good.db"):
            clients.prepare(c[0], name, "journal_mode=delete")
        c.wait_level()
        c[1].term()
        overwrite(os.path.join(c[1].data, "tree", "bad.db"), 0, b"garbage!" * 12)
        c[0].sql("bad.db", "UPDATE acct SET amount = amount + 0, id = id", "INSERT INTO acked VALUES('a', 1, NULL)",
                 "UPDATE total SET v = 1")
        c[1].start()
        c[0].sql("good.db", "INSERT INTO acked VALUES('a', 1, NULL)", "UPDATE total SET v = 1")
        check.same_everywhere(c, "good.db")
        # The page that changed comes with the next record, or the database is fetched again: either way it heals.
        check.same_everywhere(c, "bad.db")


@test(limit=60)
def a_torn_segment_is_cut_on_a_replica_and_fetched_again(scratch):
    with Cluster(scratch, nodes=2) as c:
        for name in ("bad.db", "good.db"):
            clients.prepare(c[0], name, "journal_mode=wal")
        for i in range(20):
            c[0].sql("bad.db", "INSERT INTO acked VALUES('a', %d, randomblob(500))" % i, "UPDATE total SET v = v + 1")
        c.wait_level()
        c[1].kill9()
        segment = newest(os.path.join(check.ledger_folder(c[1], "bad.db"), "log"), ".seg")
        with open(segment, "rb") as f:
            end = f.read().rfind(b"TFRM") + 100
        os.truncate(segment, end)
        c[1].start()
        need("bad.db" in c[1].log_text(), "the torn log is not named:\n%s", c[1].log_tail())
        check.same_everywhere(c, "bad.db")
        check.same_everywhere(c, "good.db")


@test(limit=60)
def a_damaged_segment_on_the_primary_does_not_stop_the_rest(scratch):
    with Cluster(scratch, nodes=2) as c:
        for name in ("bad.db", "good.db"):
            clients.prepare(c[0], name, "journal_mode=wal")
        for i in range(20):
            c[0].sql("bad.db", "INSERT INTO acked VALUES('a', %d, randomblob(500))" % i, "UPDATE total SET v = v + 1")
        c.wait_level()
        c[0].term()
        segment = newest(os.path.join(check.ledger_folder(c[0], "bad.db"), "log"), ".seg")
        with open(segment, "rb") as f:
            middle = f.read().find(b"TFRM", 400) + 200
        overwrite(segment, middle, b"\xff" * 64)
        c[0].start()
        need("bad.db" in c[0].log_text(), "the damaged log is not named:\n%s", c[0].log_tail())
        c[0].sql("good.db", "INSERT INTO acked VALUES('a', 1, NULL)", "UPDATE total SET v = 1")
        check.same_everywhere(c, "good.db")
        # The database file itself was whole: nothing that was in it may be gone.
        equal(c[0].sql("bad.db", "SELECT count(*) FROM acked"), [(20,)], "rows of the database whose log is damaged")
        for node in c.nodes:
            node.integrity("bad.db")


@test(limit=60)
def a_truncated_ltx_file_is_named_and_stays(scratch):
    with Cluster(scratch, nodes=2) as c:
        clients.prepare(c[0], "app.db", "journal_mode=wal")
        c.wait_level("app.db")
        c[0].term()
        folder = os.path.join(check.ledger_folder(c[0], "app.db"), "ltx")
        os.makedirs(folder, exist_ok=True)
        low, high, data = check.records(c[0], "app.db")[0]
        path = os.path.join(folder, "%016x-%016x.ltx" % (low, high))
        with open(path, "wb") as f:
            f.write(data[:len(data) // 2])
        c[0].start()
        need(os.path.basename(path) in c[0].log_text(), "the cut file is not named:\n%s", c[0].log_tail())
        need(os.path.exists(path), "the cut file has been removed")
        c[0].sql("app.db", "INSERT INTO acked VALUES('a', 1, NULL)", "UPDATE total SET v = 1")
        check.same_everywhere(c, "app.db")


@test(limit=60)
def a_lost_log_folder_is_no_lost_database(scratch):
    """The files of a database without its ledger are taken in as they are."""
    with Cluster(scratch, nodes=1) as c:
        clients.prepare(c[0], "app.db", "journal_mode=wal")
        c[0].term()
        shutil.rmtree(check.ledger_folder(c[0], "app.db"))
        c[0].start()
        equal(c[0].sql("app.db", "SELECT count(*) FROM acct"), [(50,)], "the rows")
        c[0].sql("app.db", "INSERT INTO acked VALUES('a', 1, NULL)", "UPDATE total SET v = 1")
        wait_for(lambda: c[0].pos("app.db"), 10, "a position of the adopted database")
        check.chain_gives(scratch, c[0], "app.db", c[0].export("app.db"))
