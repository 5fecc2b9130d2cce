# SPDX-License-Identifier: Apache-2.0
"""Real daemons on loopback ports and in temporary folders.

    with Cluster(scratch, nodes=3) as c:
        c.primary.sql("app.db", "CREATE TABLE t(a)")
        c.wait_level()
        c[1].sql("app.db", "SELECT * FROM t")

Node 0 is the primary to begin with, the others follow it.
"""
import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request

from lib.case import need, wait_for
from lib.scratch import mounts_below

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PROGRAM = os.path.abspath(os.environ.get("TANDEMFS") or os.path.join(TOP, "build", "tandemfs"))
os.environ["TANDEMFS"] = PROGRAM  # each test runs in a folder of its own


def run(*args, limit=60, check=True, **options):
    """Runs the tandemfs program with these arguments; stdout and stderr are in the result, as text."""
    result = subprocess.run([PROGRAM, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            stdin=subprocess.DEVNULL, text=True, timeout=limit, check=False, **options)
    if check and result.returncode != 0:
        raise AssertionError("tandemfs %s: exit status %d\n%s%s" % (
            " ".join(args), result.returncode, result.stdout, result.stderr))
    return result


class Node:
    def __init__(self, scratch, name):
        self.scratch, self.name = scratch, name
        self.dir = scratch.folder(name)
        self.mount = scratch.folder(name, "mnt")
        self.data = scratch.folder(name, "data")
        self.log_path = scratch.join(name, "log")
        self.listen = "tcp://127.0.0.1:%d" % scratch.port()
        self.http = "127.0.0.1:%d" % scratch.port()
        self.process = None
        self.args = []

    # Life and death

    def start(self, *args, wait=True, command=(), **options):
        """Starts the daemon; without arguments with those of the last start."""
        if args:
            self.args = list(args)
        full = [PROGRAM, "mount", "--mount", self.mount, "--data", self.data, "--listen", self.listen,
                "--http", self.http, *self.args]
        if command:
            full += ["--", *command]
        with open(self.log_path, "ab") as log:
            self.process = self.scratch.popen(full, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                              **options)
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self, limit=30):
        """Mounted, and the role is decided."""
        def ready():
            need(self.process.poll() is None, "%s ended with status %s while it started:\n%s", self.name,
                 self.process.returncode, self.log_tail())
            info = self.try_info()
            return info and info.get("ready") and info["role"] in ("primary", "replica") and self.is_mounted()
        wait_for(ready, limit, lambda: "%s to be ready:\n%s" % (self.name, self.log_tail()))

    def is_mounted(self):
        return self.mount in mounts_below(self.mount)

    def kill9(self):
        self.process.kill()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            raise AssertionError("%s does not die of SIGKILL: does it wait for its own mount?" % self.name) from None

    def term(self, limit=20, sig=signal.SIGTERM, status=0):
        """Asks it to end, and sees that it does, cleanly."""
        self.process.send_signal(sig)
        self.wait_end(limit, status)
        need(not self.is_mounted(), "%s has ended but is still mounted", self.name)

    def wait_end(self, limit=20, status=0):
        try:
            got = self.process.wait(limit)
        except subprocess.TimeoutExpired:
            raise AssertionError("%s did not end within %g s:\n%s" % (self.name, limit, self.log_tail())) from None
        need(got == status, "%s: exit status %s, want %s:\n%s", self.name, got, status, self.log_tail())

    def restart(self, *args, kill=False):
        if self.process.poll() is None:
            if kill:
                self.kill9()
            else:
                self.term()
        return self.start(*args)

    def stop_signal(self):
        self.process.send_signal(signal.SIGSTOP)

    def cont_signal(self):
        self.process.send_signal(signal.SIGCONT)

    def running(self):
        return self.process is not None and self.process.poll() is None

    # What it says

    def log_text(self):
        try:
            with open(self.log_path, errors="replace") as f:
                return f.read()
        except OSError:
            return ""

    def log_tail(self, lines=30):
        return "".join("    %s | %s\n" % (self.name, line) for line in self.log_text().splitlines()[-lines:])

    def wait_log(self, pattern, limit=20):
        return wait_for(lambda: re.search(pattern, self.log_text()), limit,
                        lambda: "%s to log /%s/:\n%s" % (self.name, pattern, self.log_tail()))

    def get(self, path, limit=5):
        """Status and body of a request to the admin address."""
        try:
            with urllib.request.urlopen("http://%s%s" % (self.http, path), timeout=limit) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def try_info(self):
        try:
            status, body = self.get("/info", limit=5)
            return json.loads(body) if status == 200 else None
        except (OSError, ValueError):
            return None

    def info(self):
        info = self.try_info()
        need(info is not None, "%s does not answer /info:\n%s", self.name, self.log_tail())
        return info

    def cli(self, command, *args, **options):
        return run(command, "--http", self.http, *args, **options)

    def promote(self, force=False, check=True, limit=60):
        return self.cli("promote", *(["--force"] if force else []), check=check, limit=limit)

    def role(self):
        return self.info()["role"]

    # Databases

    def db(self, name):
        return os.path.join(self.mount, name)

    def connect(self, name, timeout=20, **options):
        return sqlite3.connect(self.db(name), timeout=timeout, isolation_level=None, **options)

    def sql(self, name, *statements, timeout=20):
        """Runs statements on one connection and returns the rows of the last one."""
        rows = []
        with contextlib.closing(self.connect(name, timeout=timeout)) as db:
            for statement in statements:
                rows = db.execute(statement).fetchall()
        return rows

    def shell(self, name, script, limit=60):
        """The same through the sqlite3 shell, in a process of its own."""
        return subprocess.run(["sqlite3", "-bail", self.db(name)], input=script, text=True, timeout=limit,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)

    def pos(self, name):
        """(TXID, checksum) of a database, from its -pos file; None if there is none."""
        try:
            with open(self.db(name) + "-pos", "rb") as f:
                text = f.read()
        except FileNotFoundError:
            return None
        need(re.fullmatch(rb"[0-9a-f]{16}/[0-9a-f]{16}\n", text), "%s-pos holds %r", name, text)
        return int(text[:16], 16), text[17:33].decode()

    def export(self, name):
        """The bytes of a consistent copy."""
        path = self.scratch.join("%s-%s.export" % (self.name, name.replace("/", "_")[-200:]))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        self.cli("export", "--", name, path)
        with open(path, "rb") as f:
            return f.read()

    def integrity(self, name):
        rows = self.sql(name, "PRAGMA integrity_check")
        need(rows == [("ok",)], "integrity_check of %s on %s: %r", name, self.name, rows)

    def databases(self):
        """Names of the SQLite databases below the mount."""
        found = []
        for folder, _, files in os.walk(self.mount):
            for file in files:
                path = os.path.join(folder, file)
                with contextlib.suppress(OSError), open(path, "rb") as f:
                    if not os.path.islink(path) and f.read(16) == b"SQLite format 3\0":
                        found.append(os.path.relpath(path, self.mount))
        return sorted(found)


class Cluster:
    def __init__(self, scratch, nodes=2, start=True, primary_args=(), replica_args=()):
        self.scratch = scratch
        self.nodes = [Node(scratch, "node%d" % i) for i in range(nodes)]
        self.primary_args, self.replica_args = list(primary_args), list(replica_args)
        if start:
            try:
                self.start()
            except BaseException:
                self.show_logs()
                raise

    def start(self):
        self.nodes[0].start("--primary", *self.primary_args)
        for node in self.nodes[1:]:
            node.start("--replica-of", self.nodes[0].listen, *self.replica_args)

    def __getitem__(self, i):
        return self.nodes[i]

    @property
    def primary(self):
        found = [n for n in self.nodes if n.running() and n.role() == "primary"]
        need(len(found) == 1, "%d nodes say that they are primary", len(found))
        return found[0]

    def __enter__(self):
        return self

    def __exit__(self, kind, *unused):
        if kind is not None:
            self.show_logs()
            return
        died = [n for n in self.nodes if n.process is not None and n.process.poll() not in (None, 0, -signal.SIGKILL)]
        for node in self.nodes:
            if node.running():
                node.term()
        need(not died, "died on its own: %s", "".join(n.name + "\n" + n.log_tail() for n in died))
        for node in self.nodes:
            fault = re.search(r"AddressSanitizer|ThreadSanitizer|runtime error:|[Aa]ssertion", node.log_text())
            need(not fault, "%s: %s", node.name, node.log_tail(60))

    def show_logs(self):
        for node in self.nodes:
            state = "running" if node.running() else "ended with %s" % (node.process and node.process.returncode)
            print("--- %s (%s)\n%s" % (node.name, state, node.log_tail(40)), file=sys.stderr)

    def wait_level(self, *names, nodes=None, limit=30):
        """Waits until all nodes are at the same position in these databases (default: all there are)."""
        nodes = nodes or [n for n in self.nodes if n.running()]
        seen = {}

        def level():
            for name in names or nodes[0].databases():
                seen[name] = [n.pos(name) for n in nodes]
                if seen[name][0] is None or any(p != seen[name][0] for p in seen[name]):
                    return False
            return True
        wait_for(level, limit, lambda: "the nodes to be level: %s" % seen, pause=0.02)
        need(seen or names == (), "no database to compare")
        return {name: positions[0] for name, positions in seen.items()}
