# SPDX-License-Identifier: Apache-2.0
"""kill -9 of the daemons, of writers and of both, at random moments under load.

TANDEMFS_KILLS: how many in each mode (default: 8; the full run takes 100).
"""
import os
import time

from lib import check, clients
from lib.case import dice, need, test
from lib.cluster import Cluster

KILLS = int(os.environ.get("TANDEMFS_KILLS") or 8)
MODES = [("wal", "FULL"), ("wal", "NORMAL"), ("delete", "FULL"), ("truncate", "FULL"), ("persist", "FULL")]


@test(limit=120 + 12 * KILLS, each=MODES)
def nothing_is_lost_by_kills_of_daemons_writers_and_both(scratch, case):
    mode, sync = case
    rng = dice()
    with Cluster(scratch, nodes=2) as c:
        clients.prepare(c[0], "app.db", "page_size=%d" % rng.choice([512, 4096]), "journal_mode=" + mode)
        c.wait_level("app.db")

        def writer(tag):
            return clients.Client(scratch, "writer", [c[0].db("app.db")], "--patient", "--verbose", "--sync", sync,
                                  "--pause", "0.003", tag=tag)
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
