# SPDX-License-Identifier: Apache-2.0
"""kill -9 of daemons at random moments under load: every acknowledged commit is there after the restart."""
import time

from lib import check, clients
from lib.case import dice, need, test
from lib.cluster import Cluster


@test(limit=180, each=[("wal", "FULL"), ("wal", "NORMAL"), ("delete", "FULL"), ("truncate", "NORMAL"),
                       ("persist", "FULL")])
def a_killed_primary_has_every_acknowledged_commit(scratch, case):
    mode, sync = case
    rng = dice()
    with Cluster(scratch, nodes=2) as c:
        clients.prepare(c[0], "app.db", "page_size=%d" % rng.choice([512, 4096]), "journal_mode=" + mode)
        c.wait_level("app.db")
        writers = clients.writers(scratch, [c[0].db("app.db")], 2, "--patient", "--verbose", "--mode", mode,
                                  "--sync", sync)
        for _ in range(4):
            for writer in writers:
                writer.wait_acked(2)
            time.sleep(rng.random() * 0.4)
            c[0].kill9()
            for writer in writers:
                writer.check_alive()
            c[0].start()
            for node in c.nodes:
                node.integrity("app.db")
            clients.need_rows(c[0], "app.db", writers)
        for writer in writers:
            writer.wait_acked(2)
            writer.stop()
        c.wait_level("app.db")
        for node in c.nodes:
            clients.need_rows(node, "app.db", writers)
        data = check.same_everywhere(c, "app.db")
        if len(check.records(c[0], "app.db")) < 1500:
            check.chain_gives(scratch, c[0], "app.db", data)


@test(limit=120, each=("wal", "delete"))
def a_killed_replica_catches_up(scratch, mode):
    rng = dice()
    with Cluster(scratch, nodes=2) as c:
        clients.prepare(c[0], "app.db", "journal_mode=" + mode)
        c.wait_level("app.db")
        writer = clients.writers(scratch, [c[0].db("app.db")], 1)[0]
        reader = clients.reader(scratch, c[1].db("app.db"), "--patient", "--pause", "0.002")
        for _ in range(4):
            writer.wait_acked(5)
            time.sleep(rng.random() * 0.4)
            c[1].kill9()
            writer.wait_acked(5)
            c[1].start()
            c[1].integrity("app.db")
        writer.wait_acked(5)
        writer.stop()
        c.wait_level("app.db")
        need(reader.stop()["checks"] > 0, "the reader has not looked once")
        clients.need_rows(c[1], "app.db", [writer])
        check.same_everywhere(c, "app.db")


@test(limit=120)
def killing_everything_at_once_harms_nothing(scratch):
    rng = dice()
    with Cluster(scratch, nodes=3) as c:
        modes = ("wal", "delete", "persist")
        for mode in modes:
            clients.prepare(c[0], mode + ".db", "journal_mode=" + mode)
        c.wait_level()
        gone = {mode: [] for mode in modes}
        for turn in range(4):
            now = [clients.Client(scratch, "writer", [c[0].db(m + ".db")], "--mode", m, tag="%s%d" % (m, turn))
                   for m in modes]
            for mode, writer in zip(modes, now):
                gone[mode].append(writer)
                writer.wait_acked(5)
            time.sleep(rng.random() * 0.3)
            victims = list(c.nodes)
            rng.shuffle(victims)
            for node in victims:
                node.kill9()
            for writer in now:
                writer.kill9()
            for node in c.nodes:
                node.start()
            c.wait_level()
            for mode in modes:
                for node in c.nodes:
                    clients.need_rows(node, mode + ".db", gone[mode])
        for mode in modes:
            check.same_everywhere(c, mode + ".db")


@test(limit=120)
def a_kill_during_bring_up_and_vacuum_is_repaired(scratch):
    rng = dice()
    with Cluster(scratch, nodes=2) as c:
        clients.prepare(c[0], "app.db", "page_size=1024", "journal_mode=" + rng.choice(["wal", "delete"]))
        fill = ("WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i < 8000) "
                "INSERT INTO big SELECT randomblob(700) FROM n")
        c[0].sql("app.db", "CREATE TABLE big(a)", fill)
        for turn in range(4):
            victim = c[turn % 2]
            if turn == 2:
                c[1].wait_ready()  # until then what the one before has left is in the place of its mount
                c[1].term()
            if not c[1].running():
                c[1].start(wait=False)
            shell = scratch.popen(["sqlite3", c[0].db("app.db"),
                                   "DELETE FROM big WHERE rowid % 3 = 0; VACUUM; " + fill + ";"],
                                  stderr=-3, stdout=-3)
            time.sleep(rng.random() * 0.5)
            victim.kill9()
            shell.wait(30)
            victim.start(wait=False)
            c[0].wait_ready()
            c[0].integrity("app.db")
        c[1].wait_ready()
        c.wait_level("app.db", limit=60)
        check.same_everywhere(c, "app.db")
