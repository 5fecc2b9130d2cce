# SPDX-License-Identifier: Apache-2.0
"""What is measured, in which order, and against which target."""
import os
import statistics
import subprocess
import sys
import threading
import time

from lib.cluster import Cluster

ROWS = 20000
BULK_ROWS, BULK_TRANSACTIONS = 10000, 2


class Result:
    """One line of the table. `values`: place -> median; `ratios`: place -> ratio; targets likewise."""

    def __init__(self, group, name, unit, targets=None, limit=None):
        self.group, self.name, self.unit = group, name, unit
        self.targets, self.limit = targets or {}, limit
        self.samples, self.values, self.ratios = {}, {}, {}
        self.note = ""

    def add(self, place, value):
        self.samples.setdefault(place, []).append(value)

    def close(self):
        for place, samples in self.samples.items():
            self.values[place] = statistics.median(samples)
            if place != "plain" and "plain" in self.samples:
                self.ratios[place] = statistics.median(a / b for a, b in zip(samples, self.samples["plain"]))
        return self

    def met(self):
        """True, False, or None where there is no target."""
        if self.limit is not None:
            return all(value <= self.limit for value in self.values.values())
        if not self.targets:
            return None
        return all(self.ratios.get(place, 0) >= target for place, target in self.targets.items())


class Bench:
    def __init__(self, place, load, args, alone, pair):
        self.load, self.args, self.alone, self.pair = load, args, alone, pair
        self.plain = place.folder("plain")
        self.count = 0

    def call(self, *words):
        done = subprocess.run([self.load, *[str(w) for w in words]], stdout=subprocess.PIPE, check=False, timeout=300,
                              text=True)
        if done.returncode != 0:
            sys.exit("bench: load %s failed" % " ".join(str(w) for w in words))
        found = done.stdout.split()
        return {key: float(value) for key, value in zip(found[::2], found[1::2])}

    def paths(self, name):
        return {"plain": os.path.join(self.plain, name), "mount": self.alone[0].db(name),
                "one replica": self.pair[0].db(name)}

    def setup(self, name, journal):
        for path in self.paths(name).values():
            self.call("setup", path, journal, ROWS)
        self.pair.wait_level(name)

    def rounds(self, result, paths, one):
        """Each place in turn, in another order each round; the replica is level before the next begins."""
        say(result.name)
        places = list(paths)
        for turn in range(self.args.rounds):
            for place in places[turn % len(places):] + places[:turn % len(places)]:
                result.add(place, one(paths[place], turn))
                self.pair.wait_level()
        return result.close()

    def reads(self):
        self.setup("read.db", "wal")
        paths = self.paths("read.db")
        paths["on the replica"] = self.pair[1].db("read.db")
        del paths["one replica"]
        result = Result("reads", "point SELECT, warm", "/s", {"mount": 0.95, "on the replica": 0.95})
        return [self.rounds(result, paths, lambda path, turn: self.call("read", path, self.args.seconds)["per_s"])]

    def inserts(self):
        results = []
        for journal, sync, targets in (("wal", "FULL", {"mount": 0.55, "one replica": 0.40}),
                                       ("wal", "NORMAL", {"mount": 0.12}),
                                       ("delete", "FULL", {"mount": 0.40})):
            name = "%s-%s.db" % (journal, sync)
            self.setup(name, journal)
            result = Result("inserts", "one-row INSERT, %s, %s" % (journal.upper(), sync), "tx/s", targets)
            results.append(self.rounds(result, self.paths(name), lambda path, turn, j=journal, s=sync: self.call(
                "insert", path, j, s, self.args.seconds)["per_s"]))
        return results

    def bulk(self):
        result = Result("bulk", "bulk load, WAL, %d rows of 1 kB a transaction" % BULK_ROWS, "MB/s",
                        {"mount": 0.18})

        def one(path, turn):
            value = self.call("bulk", "%s.%d" % (path, turn), "wal", BULK_ROWS, BULK_TRANSACTIONS)["mb_s"]
            if path.startswith(self.pair[0].mount):
                self.pair.wait_level("bulk.db.%d" % turn, limit=60)
            os.unlink("%s.%d" % (path, turn))
            return value
        return [self.rounds(result, self.paths("bulk.db"), one)]

    def latency(self):
        self.setup("visible.db", "wal")
        count = 500 if self.args.quick else 2000
        hold = 5000 if self.args.quick else 60000
        results = []
        for words, readers, pace, hold_ms, target in (
                ("idle", 0, 0, 0, True),
                ("four readers at 1,000 queries/s each", 4, 1000, 0, True),
                ("four readers without a pause", 4, 0, 0, False),
                ("a read transaction of %d s on the replica" % (hold // 1000), 0, 0, hold, True)):
            say("commit to visible, " + words)
            every = 3000 if not hold_ms else max(3000, hold_ms * 1000 // count)
            found = self.call("visible", self.pair[0].db("visible.db"), self.pair[1].db("visible.db"),
                              min(count, hold_ms * 1000 // every) if hold_ms else count, every, readers, pace, hold_ms)
            for key, limit in (("p50", 1.0), ("p99", 5.0)):
                result = Result("latency", "commit to visible, %s, %s" % (words, key), "ms",
                                limit=limit if target else None)
                result.add("on the replica", found[key + "_us"] / 1000)
                result.note = "max %.1f ms" % (found["max_us"] / 1000) if key == "p99" else ""
                results.append(result.close())
            if readers and not target:
                results += self._same_on_plain(words, count, readers)
        return results

    def _same_on_plain(self, words, count, readers):
        """The same in one database of the plain directory: what is left is the scheduler's."""
        path = self.paths("visible.db")["plain"]
        found = self.call("visible", path, path, count, 3000, readers, 0, 0)
        results = []
        for key in ("p50", "p99"):
            result = Result("latency", "the same within the plain directory, %s, %s" % (words, key), "ms")
            result.add("plain", found[key + "_us"] / 1000)
            results.append(result.close())
        return results


class Memory(threading.Thread):
    """The largest resident size of each daemon, against 32 MB and 16 bytes a page of its databases."""

    def __init__(self, nodes):
        super().__init__(daemon=True)
        self.nodes, self.done = nodes, threading.Event()
        self.peak = {name: 0.0 for name in nodes}

    def run(self):
        while not self.done.wait(0.05):
            for name, node in self.nodes.items():
                self.peak[name] = max(self.peak[name], resident_mb(node.process.pid))

    def results(self):
        self.done.set()
        self.join()
        found = []
        for name, node in self.nodes.items():
            pages = sum(os.path.getsize(os.path.join(folder, file)) // 4096
                        for folder, _, files in os.walk(os.path.join(node.data, "tree")) for file in files)
            result = Result("memory", "daemon memory under load, " + name, "MB", limit=round(32 + pages * 16 / 1e6, 1))
            result.add(name, self.peak[name])
            result.note = "%d pages" % pages
            found.append(result.close())
        return found


def resident_mb(pid):
    try:
        with open("/proc/%d/status" % pid) as f:
            return next(int(line.split()[1]) for line in f if line.startswith("VmRSS:")) * 1024 / 1e6
    except (OSError, StopIteration):
        return 0.0


def say(text):
    if sys.stderr.isatty():
        sys.stderr.write("\r\033[K" + (text and text + " ..."))
        sys.stderr.flush()
    elif text:
        sys.stderr.write("bench: %s\n" % text)


class Half:
    """A scratch of its own below another, so that two clusters do not share names."""

    def __init__(self, scratch, name):
        self.scratch, self.name = scratch, name
        self.path = scratch.folder(name)

    def folder(self, *parts):
        return self.scratch.folder(self.name, *parts)

    def join(self, *parts):
        return self.scratch.join(self.name, *parts)

    def __getattr__(self, name):
        return getattr(self.scratch, name)


def run(scratch, load, args):
    results = []
    with Cluster(Half(scratch, "one"), nodes=1) as alone, Cluster(Half(scratch, "two"), nodes=2) as pair:
        bench = Bench(scratch, load, args, alone, pair)
        memory = Memory({"mount": alone[0], "one replica": pair[0], "on the replica": pair[1]})
        memory.start()
        time.sleep(0.2)
        for group in ("reads", "inserts", "bulk", "latency"):
            if not args.only or args.only == group:
                results += getattr(bench, group)()
        results += memory.results()
    say("")
    return results
