# SPDX-License-Identifier: Apache-2.0
"""A public reader opens what we export: npm's litestream-vfs-linux-amd64, an extension of SQLite."""
import os
import platform
import shutil
import subprocess

from lib.case import Skip, dice, equal, need, test
from lib.cluster import Cluster
from lib.workload import Workload

PACKAGE = "litestream-vfs-linux-amd64"


def extension(scratch):
    if platform.machine() != "x86_64":
        raise Skip("the public reader is built for x86-64 only")
    if not shutil.which("npm"):
        raise Skip("npm is not installed, so the public reader cannot be fetched")
    folder = scratch.folder("npm")
    try:
        done = subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--prefix", folder, PACKAGE], cwd=folder,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=120, check=False)
    except subprocess.TimeoutExpired:
        raise Skip("npm did not answer within two minutes") from None
    path = os.path.join(folder, "node_modules", PACKAGE, "litestream-vfs.so")
    if done.returncode != 0 or not os.path.exists(path):
        raise Skip("npm cannot fetch the public reader: " + (done.stdout.strip().splitlines() or ["?"])[-1])
    return path


def query(program, backup, sql):
    """Through the sqlite3 shell: the extension takes its settings from the environment of the process."""
    env = dict(os.environ, LITESTREAM_REPLICA_URL="file://" + backup)
    script = ".load %s\n.open file:backup.db?vfs=litestream\n%s;\n" % (program, sql)
    done = subprocess.run(["sqlite3", "-bail"], input=script, env=env, text=True, timeout=60, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    need(done.returncode == 0 and not done.stderr.strip(), "the public reader says: %s", done.stderr)
    return done.stdout


@test(limit=240)
def a_public_reader_queries_an_exported_backup(scratch):
    program = extension(scratch)
    sql = ("SELECT count(*), sum(amount) FROM acct; SELECT tag, count(*), sum(n) FROM acked GROUP BY tag; "
           "SELECT k, v FROM total; SELECT name, sql FROM sqlite_schema ORDER BY name; PRAGMA integrity_check")
    with Cluster(scratch, nodes=2) as c:
        for i, (mode, size) in enumerate((("wal", 4096), ("delete", 512), ("wal", 65536))):
            name = "db%d.db" % i
            Workload(c[0], name, mode, size, dice()).run(40)
            c.wait_level(name)
            for node in c.nodes:
                backup = scratch.join("backup-%s-%d" % (node.name, i))
                node.cli("export", "--format", "litestream", name, backup)
                want = subprocess.run(["sqlite3", node.db(name), sql], text=True, timeout=60, check=True,
                                      stdout=subprocess.PIPE).stdout
                equal(query(program, backup, sql), want, "%s of %s, read by the public reader" % (name, node.name))
