# SPDX-License-Identifier: Apache-2.0
"""Bytes from outside, and peers that are not of this cluster."""
import http.server
import os
import socket
import struct
import threading

from lib import check, clients
from lib.case import dice, equal, need, test
from lib.cluster import Cluster, Node

# Of the transport below nng's messages: "\0SP\0", protocol number, two zero bytes; then length and message.
REQ, REP = 0x30, 0x31


def sp_header(protocol):
    return b"\0SP\0" + struct.pack(">HH", protocol, 0)


def talk(node, data, answer=False):
    """Sends bytes to the port that peers use; returns what comes back within a moment, if asked."""
    host, port = node.listen[len("tcp://"):].split(":")
    with socket.create_connection((host, int(port)), timeout=2) as s:
        try:
            s.sendall(data)
            s.settimeout(0.5)
            return s.recv(65536) if answer else b""
        except OSError:
            return b""


@test(limit=60)
def garbage_on_the_port_harms_nothing(scratch):
    rng = dice()
    with Cluster(scratch, nodes=2) as c:
        clients.prepare(c[0], "app.db", "journal_mode=wal")
        writer = clients.writers(scratch, [c[0].db("app.db")], 1, "--pause", "0.005")[0]
        request = struct.pack(">I", 0x80000001)
        for node in c.nodes:
            for _ in range(20):
                talk(node, rng.randbytes(rng.randint(1, 3000)))
                talk(node, sp_header(REQ) + struct.pack(">Q", 1 << 60) + b"x" * 100)
                talk(node, sp_header(REQ) + struct.pack(">Q", 1000) + b"cut")
                talk(node, sp_header(rng.choice([REP, 0x10, 0x70])) + struct.pack(">Q", 4) + b"abcd")
                body = request + rng.randbytes(rng.randint(0, 400))
                talk(node, sp_header(REQ) + struct.pack(">Q", len(body)) + body, answer=True)
                talk(node, b"GET / HTTP/1.0\r\n\r\n", answer=True)
            need(node.running(), "%s has ended", node.name)
            node.wait_log(r"(?i)warn.*(?:message|request|peer|bytes)|not .*(?:message|request)")
        writer.wait_acked(10)
        writer.stop()
        c.wait_level("app.db")
        clients.need_rows(c[1], "app.db", [writer])
        check.same_everywhere(c, "app.db")


@test(limit=60)
def garbage_on_the_admin_port_harms_nothing(scratch):
    rng = dice()
    with Cluster(scratch, nodes=1) as c:
        host, port = c[0].http.split(":")
        for i in range(40):
            with socket.create_connection((host, int(port)), timeout=2) as s:
                s.sendall(rng.choice([rng.randbytes(500), b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\n\r\n",
                                      b"POST /promote HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n",
                                      b"GET /export?name=../../etc/passwd HTTP/1.0\r\n\r\n"]))
        equal(c[0].get("/healthz")[0], 200, "/healthz")
        c[0].sql("app.db", "CREATE TABLE t(a)")


@test(limit=60)
def a_node_of_another_cluster_is_told_so(scratch):
    with Cluster(scratch, nodes=2) as ours:
        clients.prepare(ours[0], "app.db")
        ours.wait_level("app.db")
        stranger = Node(scratch, "stranger")
        stranger.start("--primary")
        stranger.sql("app.db", "CREATE TABLE precious(a)", "INSERT INTO precious VALUES(1)")
        stranger.term()
        stranger.start("--replica-of", ours[0].listen, wait=False)
        stranger.wait_end(status=2)
        need("cluster" in stranger.log_tail(), "it does not say why:\n%s", stranger.log_tail())
        need(not stranger.is_mounted(), "still mounted")
        # What it had is untouched.
        stranger.start("--primary")
        equal(stranger.sql("app.db", "SELECT * FROM precious"), [(1,)], "its rows")
        stranger.term()
        check.same_everywhere(ours, "app.db")


@test(limit=60)
def a_wrong_address_is_refused_or_named(scratch):
    node = Node(scratch, "node")
    node.start("--replica-of", "nonsense", wait=False)
    node.wait_end(status=2)
    need("nonsense" in node.log_text(), "the address is not named:\n%s", node.log_tail())
    # A peer that is a web server.
    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *unused):
            pass
    server = http.server.HTTPServer(("127.0.0.1", scratch.port()), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = "tcp://127.0.0.1:%d" % server.server_port
        node.start("--replica-of", url, wait=False)
        node.wait_log(r"(?s)%s.*%s|%s" % ("replica-of", url, url))
        need(node.running(), "it has ended:\n%s", node.log_tail())
        node.term()
    finally:
        server.shutdown()
        server.server_close()


@test(limit=60)
def nodes_follow_a_replica_to_the_primary(scratch):
    """The address of any node of the cluster will do: it names the primary."""
    with Cluster(scratch, nodes=2) as c:
        clients.prepare(c[0], "app.db")
        c.wait_level("app.db")
        third = Node(scratch, "third")
        c.nodes.append(third)
        third.start("--replica-of", c[1].listen)
        check.same_everywhere(c, "app.db")
        need(os.path.exists(third.db(".primary")), "it does not know the primary")
