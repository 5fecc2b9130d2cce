# SPDX-License-Identifier: Apache-2.0
"""kill -9 of the daemons, of writers and of both, at random moments under load.

TANDEMFS_KILLS: how many in each mode (default: 5; the full run takes 100).
"""
import os
import time

from lib import check, clients
from lib.case import dice, equal, need, test
from lib.cluster import Cluster

KILLS = int(os.environ.get("TANDEMFS_KILLS") or 5)
MODES = [("wal", "FULL"), ("wal", "NORMAL"), ("delete", "FULL"), ("truncate", "FULL"), ("persist", "FULL")]


@test(limit=120 + 12 * KILLS, each=MODES)
def nothing_is_lost_by_kills_of_daemons_writers_and_both(scratch, case):
    mode, sync = case
    rng = dice()
    with Cluster(scratch, nodes=2) as c:
        clients.prepare(c[0], "app.db", "page_size=%d" % rng.choice([512, 4096]), "journal_mode=" + mode)
        c.wait_level("app.db")

        def writer(tag):
            return clients.Client(scratch, "writer", [c[0].db("app.db")], "--patient", "--verbose", "--mode", mode,
                                  "--sync", sync, "--pause", "0.003", tag=tag)
        alive = [writer("a0"), writer("b0")]
        readers = [clients.reader(scratch, c[i].db("app.db"), "--patient", "--pause", "0.005") for i in (0, 1)]
        dead = []
        for turn in range(1, KILLS + 1):
            for one in alive:
                one.wait_acked(2)
            time.sleep(rng.random() * 0.3)
            victims = rng.choice(["primary", "writer", "writers", "replica", "primary and writers", "all"])
            nodes = [n for n, words in ((c[0], ("primary", "all")), (c[1], ("replica", "all")))
                     if any(w in victims.split() for w in words)]
            count = {"writer": 1, "writers": 2, "primary and writers": 2, "all": 2}.get(victims, 0)
            ends = [one.kill9 for one in rng.sample(alive, count)] + [node.kill9 for node in nodes]
            rng.shuffle(ends)
            for end in ends:
                end()
            for node in nodes:
                node.start()
            clients.need_rows(c[0], "app.db", alive + dead)
            for node in c.nodes:
                node.integrity("app.db")
            for i, one in enumerate(alive):
                if one.process.poll() is not None:
                    dead.append(one)
                    alive[i] = writer("%s%d" % ("ab"[i], turn))
        for one in alive:
            one.wait_acked(2)
            one.stop()
        c.wait_level("app.db")
        for node in c.nodes:
            clients.need_rows(node, "app.db", alive + dead)
        data = check.same_everywhere(c, "app.db")
        need(all(r.stop()["checks"] > 0 for r in readers), "a reader has not looked once")
        if len(check.records(c[0], "app.db")) < 3000:
            check.chain_gives(scratch, c[0], "app.db", data)


@test(limit=120 + 12 * KILLS, each=("delete", "truncate", "persist"))
def a_transaction_over_three_databases_outlasts_kills_in_all_or_in_none(scratch, mode):
    rng = dice()
    names = ["a.db", "sub/b.db", "c.db"]
    with Cluster(scratch, nodes=2) as c:
        os.mkdir(c[0].db("sub"))
        for name in names:
            clients.prepare(c[0], name, "page_size=%d" % rng.choice([512, 4096]))
        c.wait_level()

        def writer(turn):
            return clients.Client(scratch, "writer", [c[0].db(names[0])], "--patient", "--verbose", "--mode", mode,
                                  "--attach", *map(c[0].db, names[1:]), tag="w%d" % turn)

        def rows(node, name):
            return node.sql(name, "SELECT tag, n FROM acked ORDER BY 1, 2")
        all_writers = [writer(0)]
        for turn in range(1, KILLS + 1):
            all_writers[-1].wait_acked(2)
            time.sleep(rng.random() * 0.2)
            ends = [c[0].kill9] + [all_writers[-1].kill9] * rng.randrange(2)
            rng.shuffle(ends)
            for end in ends:
                end()
            c[0].start()
            if len(ends) == 1:
                all_writers[-1].stop()
            for name in names:
                c[0].integrity(name)
                clients.need_rows(c[0], name, all_writers)
                equal(rows(c[0], name), rows(c[0], names[0]), "the rows of %s" % name)
            equal([f for f in os.listdir(c[0].mount) if "-mj" in f], [], "super-journals that are left")
            all_writers.append(writer(turn))
        all_writers[-1].wait_acked(2)
        all_writers[-1].stop()
        for name in names:
            c.wait_level(name)
            check.same_everywhere(c, name)
            equal(rows(c[1], name), rows(c[0], names[0]), "the rows of %s on the replica" % name)
