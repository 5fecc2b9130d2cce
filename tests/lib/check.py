# SPDX-License-Identifier: Apache-2.0
"""Whether nodes really hold the same: exports, integrity, and the chain of records."""
import os
import shutil
import struct
import subprocess
import sys

from lib.case import need
from lib.cluster import PROGRAM, TOP

LTXCHECK = os.path.join(TOP, "..", "shared", "tools", "ltxcheck.py")
SEGMENT_HEADER, FRAME_HEADER = 48, 48  # see ltx/txlog.h


def same_everywhere(cluster, name, nodes=None, damaged=()):
    """Equal positions, files and logs that match them but for nodes that are `damaged` on purpose, equal exports, sound
    on each node. Returns the bytes."""
    nodes = nodes or [n for n in cluster.nodes if n.running()]
    cluster.wait_level(name, nodes=nodes)
    for node in nodes:
        if node not in damaged:
            matches(node, name)
    exports = [node.export(name) for node in nodes]
    need(len(exports[0]) > 0, "the export of %s is empty", name)
    for node, data in zip(nodes, exports):
        need(data == exports[0], "%s: the exports of %s (%d bytes) and %s (%d bytes) differ in %s", name,
             nodes[0].name, len(exports[0]), node.name, len(data), differing(exports[0], data))
        node.integrity(name)
    return exports[0]


def matches(node, name, limit=300):
    """The node's own files are right: an export would take a bad page from elsewhere and say nothing."""
    result = node.cli("verify", "--", name, check=False, limit=limit)
    need(result.returncode == 0, "on %s: %s", node.name, (result.stdout + result.stderr).strip())


def differing(a, b):
    page = struct.unpack(">H", a[16:18])[0]
    page = 65536 if page == 1 else page or 4096
    pages = [i // page + 1 for i in range(0, max(len(a), len(b)), page) if a[i:i + page] != b[i:i + page]]
    return "pages %s%s of %d bytes" % (pages[:10], "..." if len(pages) > 10 else "", page)


def escape(name):
    """The folder of a database below <data>/db, as ltx/store.h defines it."""
    return "".join(chr(c) if chr(c).isascii() and (chr(c).isalnum() or chr(c) in "._-") else "%%%02X" % c
                   for c in name.encode())


def ledger_folder(node, name):
    return os.path.join(node.data, "db", escape(name))


def records(node, name):
    """The kept records of a database as (min, max, bytes), in order, out of LTX files and segments."""
    folder, found = ledger_folder(node, name), {}
    for entry in _list(os.path.join(folder, "ltx")):
        if entry.endswith(".ltx"):
            with open(os.path.join(folder, "ltx", entry), "rb") as f:
                _add(found, f.read())
    for entry in _list(os.path.join(folder, "log")):
        if entry.endswith(".seg"):
            with open(os.path.join(folder, "log", entry), "rb") as f:
                _segment(found, f.read())
    return [found[key] for key in sorted(found)]


def _list(folder):
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


def _add(found, data):
    low, high = struct.unpack_from(">QQ", data, 16)
    found[low] = (low, high, data)


def _segment(found, data):
    need(data[:8] == b"TFSEG001", "not a segment: %r", data[:8])
    at = SEGMENT_HEADER
    while data[at:at + 4] == b"TFRM":
        size, = struct.unpack_from(">Q", data, at + 8)
        need(at + FRAME_HEADER + size <= len(data), "a segment ends inside a record")
        _add(found, data[at + FRAME_HEADER:at + FRAME_HEADER + size])
        at += FRAME_HEADER + size


def have_ltxcheck():
    return os.path.exists(LTXCHECK)


def chain_gives(scratch, node, name, want):
    """The records of a node, read by an independent program, give these bytes. Returns how many there are.

    The time that this takes, which thousands of records make long, is limited by that of the test alone.
    """
    chain = records(node, name)
    need(chain and chain[0][0] == 1, "the records of %s begin at %s", name, chain and chain[0][0])
    folder = scratch.folder("chain-%s" % node.name)
    files = []
    for low, high, data in chain:
        files.append(os.path.join(folder, "%016x-%016x.ltx" % (low, high)))
        with open(files[-1], "wb") as f:
            f.write(data)
    database = os.path.join(folder, "want.db")
    with open(database, "wb") as f:
        f.write(want)
    # Where the independent reader is not at hand, at least our own must accept them.
    command = [PROGRAM, "ltx", "verify", *files]
    if have_ltxcheck():
        command = [sys.executable, LTXCHECK, "--quiet", "--db", database, *files]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    need(result.returncode == 0, "%s: %s", os.path.basename(command[0]), result.stdout.strip())
    shutil.rmtree(folder)
    return len(chain)
