# SPDX-License-Identifier: Apache-2.0
"""SQLite's own test programs, run as an ordinary user on the mount of a primary that has a replica.

    with Suite(scratch) as suite:
        result = suite.tcl("wal.test")
        suite.compare()

All along a client writes to a database beside the tests, and another one reads it on the replica and looks for states
that were never committed.
"""
import contextlib
import filecmp
import os
import pwd
import re
import resource
import shutil
import signal
import subprocess
import time

from lib import check
from lib.case import Skip, need, wait_for
from lib.client import create
from lib.clients import Client
from lib.cluster import Cluster, TOP

BUILT = os.path.join(TOP, "build-sqlite")
DESCRIPTORS = 4096  # what a login gives to most users, and more than manydb.test wants

# About a tenth of all, by what a filesystem has to do with.
TENTH = """
    attach attach2 attachmalloc autovacuum avtrans backup corrupt corrupt2 delete_db exclusive exclusive2 hook
    incrvacuum incrvacuum2 incrvacuum_ioerr io journal1 journal2 journal3 lock lock2 lock4 memsubsys1 mmap1
    pager1 pager2 quota rollback savepoint stat superlock symlink temptable tkt-2d1a5c67d trans trans2 trans3
    vacuum vacuum2 vacuum4 wal wal2 wal3 wal5 wal6 wal8 wal9 walbak walcksum walmode walnoshm walro walvfs
    zerodamage
""".split()

# The families that veryquick leaves out, or runs in part only.
FAMILIES = ("wal", "crash", "walcrash", "walfault", "pager", "journal", "lock", "vacuum", "incrvacuum", "attach",
            "superlock", "exclusive", "mmap", "corrupt")


class Result:
    def __init__(self, name, tests, errors, seconds, said):
        self.name, self.tests, self.errors, self.seconds, self.said = name, tests, errors, seconds, said

    def __str__(self):
        return "%-28s %8d tests %6d errors %8.1f s%s" % (
            self.name, self.tests, self.errors, self.seconds, "".join("\n    " + line for line in self.said))


BUILD = os.path.join(TOP, "tests/sqlite/build")


@contextlib.contextmanager
def built_meanwhile():
    """Builds beside other work; whoever needs it waits for it in build(), and finds out what became of it."""
    process = subprocess.Popen(["nice", BUILD], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               stdin=subprocess.DEVNULL, preexec_fn=os.setpgrp)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def build():
    """Fetches and builds, once. Needs the system's package sources."""
    done = subprocess.run([BUILD], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          stdin=subprocess.DEVNULL, text=True, check=False)
    if done.returncode != 0:
        raise Skip("SQLite's test programs could not be built: %s" % " ".join(done.stdout.split())[-400:])


def family_files():
    folder = os.path.join(BUILT, "src", "test")
    return sorted({f for f in os.listdir(folder) if re.match(r"(%s)[^.]*\.test$" % "|".join(FAMILIES), f)})


class Suite:
    def __init__(self, scratch, plain=False):
        """`plain`: in an ordinary folder, for comparison."""
        build()
        self.scratch, self.plain = scratch, plain
        self.user = pwd.getpwnam("nobody")
        # The tree that was cloned may be closed to other users.
        self.home = scratch.folder("sqlite")
        for part in ("bin", "src/test", "src/ext", "src/mptest", "src/src"):
            shutil.copytree(os.path.join(BUILT, part), os.path.join(self.home, part), symlinks=True)
        subprocess.run(["chmod", "-R", "a+rX", self.home], check=True)
        self.cluster = None if plain else Cluster(scratch, primary_args=["--allow-other"])
        self.place = scratch.folder("plain") if plain else self.cluster[0].db("suite")
        os.makedirs(self.place, exist_ok=True)
        os.chown(self.place, self.user.pw_uid, self.user.pw_gid)
        self.clients, self.compared = [], {}

    def __enter__(self):
        if self.cluster:
            with contextlib.closing(self.cluster[0].connect("bank.db")) as db:
                db.execute("PRAGMA journal_mode=wal")
                create(db)
            self.cluster.wait_level("bank.db")
            self.clients = [
                Client(self.scratch, "writer", [self.cluster[0].db("bank.db")], "--pause", "0.05", tag="bank"),
                Client(self.scratch, "reader", [self.cluster[1].db("bank.db")], "--pause", "0.01")]
        return self

    def __exit__(self, *exception):
        if self.cluster:
            self.cluster.__exit__(*exception)

    def _run(self, command, limit):
        """As the ordinary user, in the folder on the mount. Its output and its exit status."""
        def limits():
            resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
        out = self.scratch.join("output")
        with open(out, "wb") as f:
            process = self.scratch.popen(command, cwd=self.place, stdin=subprocess.DEVNULL, stdout=f,
                                         stderr=subprocess.STDOUT, user=self.user.pw_uid, group=self.user.pw_gid,
                                         extra_groups=[], preexec_fn=limits, env={**os.environ, "HOME": self.place})
            try:
                status = process.wait(limit)
            except subprocess.TimeoutExpired:
                process.kill()
                status = "longer than %d s" % limit
        with open(out, errors="replace") as f:
            return f.read(), status

    def _program(self, name):
        return os.path.join(self.home, "bin", name)

    def tcl(self, file, limit=3600):
        """A file of src/test, by testfixture. The folder of the tests is that of the working directory: with
        --testdir wal2.test fails everywhere, for the name of a variable in the option's parser."""
        began = time.monotonic()
        text, status = self._run([self._program("testfixture"), os.path.join(self.home, "src/test", file)], limit)
        said = re.findall(r"^! .*|^Error: .*|^!Failures.*", text, re.M)[:20]
        counted = re.search(r"^(\d+) errors out of (\d+) tests", text, re.M)
        if not counted:
            said += ["ended early (%s):" % status] + text.strip().splitlines()[-12:]
        errors, tests = (int(counted.group(1)), int(counted.group(2))) if counted else (1, 0)
        return Result(file, tests, errors, time.monotonic() - began, said)

    def mptester(self, script, mode, limit=900):
        began = time.monotonic()
        for leftover in os.listdir(self.place):
            if leftover.startswith("mp.db"):
                os.unlink(os.path.join(self.place, leftover))
        text, status = self._run([self._program("mptester"), "mp.db", os.path.join(self.home, "src/mptest", script),
                                  "--journalmode", mode], limit)
        summary = re.search(r"Summary: (\d+) errors out of (\d+) tests", text)
        errors, tests = (int(summary.group(1)), int(summary.group(2))) if summary else (1, 0)
        said = [] if summary and not errors and status == 0 else ["status %s" % status] + text.splitlines()[-12:]
        return Result("mptester %s %s" % (script, mode), tests, max(errors, 1 if said else 0),
                      time.monotonic() - began, said)

    def threadtest3(self, pattern="*", limit=1800):
        began = time.monotonic()
        text, status = self._run([self._program("threadtest3"), pattern], limit)
        summary = re.search(r"(\d+) errors out of (\d+) tests", text)
        errors, tests = (int(summary.group(1)), int(summary.group(2))) if summary else (1, 0)
        said = [] if summary and not errors else ["status %s" % status] + text.splitlines()[-12:]
        return Result("threadtest3 %s" % pattern, tests, errors, time.monotonic() - began, said)

    def compare(self, limit=120):
        """Both nodes have the same databases, byte for byte. Returns how many; those that have not changed since the
        last time are not looked at again."""
        nodes = self.cluster.nodes
        writer, reader = self.clients
        writer.check_alive()
        reader.check_alive()
        suite = os.path.basename(self.place) + "/"

        def names(node):
            return [n for n in node.databases() if n.startswith(suite)]
        wait_for(lambda: names(nodes[0]) == names(nodes[1]), limit, lambda: "the same databases on both nodes: %s" % (
            sorted(set(names(nodes[0])) ^ set(names(nodes[1])))))
        count = 0
        for name in names(nodes[0]):
            position = self.cluster.wait_level(name, limit=limit)[name]
            if self.compared.get(name) == position:
                continue
            self._same(name)
            self.compared[name] = position
            count += 1
        return count

    def _same(self, name):
        """Some tests leave gigabytes: they are compared on the disk."""
        exports = []
        for node in self.cluster.nodes:
            check.matches(node, name, limit=600)
            exports.append(self.scratch.join(node.name + ".export"))
            with contextlib.suppress(FileNotFoundError):
                os.unlink(exports[-1])
            node.cli("export", name, exports[-1], limit=600)
        need(filecmp.cmp(*exports, shallow=False), "%s: %d bytes on the primary, %d on the replica, or other ones", name,
             *(os.path.getsize(path) for path in exports))

    def finish(self):
        """How often the reader on the replica has looked; fails if it or the writer has seen anything wrong."""
        return [client.stop() for client in self.clients][1]["checks"]
