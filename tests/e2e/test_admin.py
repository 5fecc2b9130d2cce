# SPDX-License-Identifier: Apache-2.0
"""The admin address and the commands: info, status, metrics, import, export, ltx."""
import contextlib
import glob
import json
import os
import re
import socket
import sqlite3

from lib import check, clients
from lib.case import Skip, equal, need, test, wait_for
from lib.cluster import TOP, Cluster, run

GOLDEN = os.path.join(TOP, "..", "shared", "golden")


@test(limit=60)
def the_admin_address_answers(scratch):
    with Cluster(scratch) as c:
        for mode in ("wal", "delete"):
            clients.prepare(c[0], mode + ".db", "journal_mode=" + mode)
        c.wait_level()
        for node, role in zip(c.nodes, ("primary", "replica")):
            info = node.info()
            equal(info["role"], role, "role")
            need(info["epoch"] >= 1, "epoch %s", info["epoch"])
            by_name = {d["name"]: d for d in info["databases"]}
            equal(sorted(by_name), ["delete.db", "wal.db"], "databases in /info")
            for name, one in by_name.items():
                txid, checksum = node.pos(name)
                equal((one["txid"], one["checksum"]), (txid, checksum), name)
                equal(one["journal_mode"], name[:-3], "journal mode of " + name)
                equal(one["pages"] * one["page_size"], one["size"], "size of " + name)
            equal(node.get("/healthz")[0], 200, "/healthz")
            equal(node.get("/primary")[0], 200 if role == "primary" else 503, "/primary of the " + role)
            equal(node.get("/replica")[0], 503 if role == "primary" else 200, "/replica of the " + role)
            equal(node.get("/nothing")[0], 404, "an unknown path")
        wait_for(lambda: c[1].get("/replica?lag=3000")[0] == 200, 10, "/replica?lag=3000 to be 200")
        equal(c[1].get("/replica?lag=soon")[0], 400, "/replica?lag=soon")
        members = wait_for(lambda: c[0].info()["members"], 10, "the primary to list its replica")
        equal([m["url"] for m in members], [c[1].listen], "members")
        wait_for(lambda: c[0].info()["members"][0]["behind"] == 0, 10, "the replica to be level in /info")


@test(limit=60)
def metrics_are_in_the_format_of_prometheus(scratch):
    line = re.compile(r'[a-zA-Z_:][a-zA-Z0-9_:]*(\{[a-z_]+="(?:[^"\\\n]|\\.)*"(,[a-z_]+="(?:[^"\\\n]|\\.)*")*\})? '
                      r'[-+]?(?:[0-9.]+(?:[eE][-+]?\d+)?|Inf|NaN)')
    with Cluster(scratch, nodes=2) as c:
        clients.prepare(c[0], 'we"ird.db', "journal_mode=wal")
        c.wait_level()
        for node in c.nodes:
            status, text = node.get("/metrics")
            equal(status, 200, "/metrics")
            samples, types = [], []
            for one in text.splitlines():
                if one.startswith("# TYPE "):
                    types.append(one.split()[2])
                elif not one.startswith("#"):
                    need(line.fullmatch(one), "not a sample: %r", one)
                    samples.append(one)
            need(len(samples) >= 5, "few samples:\n%s", text)
            equal(len(types), len(set(types)), "families that are declared once")
            need(any('we\\"ird.db' in one for one in samples), "no sample of the database:\n%s", text)


@test(limit=60)
def status_tells_it_to_people_and_to_programs(scratch):
    with Cluster(scratch) as c:
        clients.prepare(c[0], "app.db", "journal_mode=wal")
        c.wait_level()
        wait_for(lambda: c[0].info()["members"], 10, "the primary to list its replica")
        for node, role in zip(c.nodes, ("primary", "replica")):
            text = node.cli("status").stdout
            for word in (role, "app.db", "wal", node.pos("app.db")[1]):
                need(word in text, "status of the %s does not show %s:\n%s", role, word, text)
            equal(json.loads(node.cli("status", "--json").stdout)["role"], role, "status --json")
        need(c[1].listen in c[0].cli("status").stdout, "status of the primary does not show its replica")
    done = run("status", "--http", "127.0.0.1:1", check=False)
    equal(done.returncode == 0, False, "status of a daemon that is not there succeeds")
    need("127.0.0.1:1" in done.stderr, "it does not say where it asked: %s", done.stderr)


def counters_aside(data):
    """Without the change counter and the version of SQLite, which every writer sets anew."""
    return data[:24] + data[28:92] + data[100:]


@test(limit=90)
def import_and_export_carry_databases_in_and_out(scratch):
    source = scratch.join("source.db")
    with contextlib.closing(sqlite3.connect(source, isolation_level=None)) as db:
        db.execute("PRAGMA page_size=8192")
        db.execute("CREATE TABLE t(a)")
        db.execute("WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i < 5000) "
                   "INSERT INTO t SELECT randomblob(500) FROM n")
    with open(source, "rb") as f:
        want = f.read()
    with Cluster(scratch, nodes=2) as c:
        c[0].cli("import", source, "in.db")
        equal(counters_aside(check.same_everywhere(c, "in.db")) == counters_aside(want), True,
              "what was imported comes out again")
        # Over a database that is there and read.
        reader = clients.reader(scratch, c[1].db("app.db"), "--patient", "--pause", "0.01")
        clients.prepare(c[0], "app.db", "journal_mode=wal", "page_size=1024")
        c.wait_level("app.db")
        wait_for(lambda: reader.process.poll() is None, 5, "the reader")
        reader.stop()
        c[0].cli("import", source, "app.db", check=False)
        os.mkdir(c[0].db("sub"))
        c[0].cli("import", source, "sub/deep.db")
        check.same_everywhere(c, "sub/deep.db")
        # While it is being written.
        clients.prepare(c[0], "busy.db", "journal_mode=wal")
        writer = clients.writers(scratch, [c[0].db("busy.db")], 1)[0]
        for node in (c[0], c[1], c[0], c[1]):
            writer.wait_acked(20)
            copy = scratch.join("copy.db")
            with open(copy, "wb") as f:
                f.write(node.export("busy.db"))
            with contextlib.closing(sqlite3.connect(copy, isolation_level=None)) as db:
                equal(db.execute("PRAGMA integrity_check").fetchall(), [("ok",)], "the copy of a busy database")
                clients.client.check(db)
            os.unlink(copy)
        writer.stop()
        for command in (("import", scratch.join("nothing.db"), "x.db"), ("export", "nothing.db", scratch.join("x")),
                        ("import", __file__, "text.db")):
            done = c[0].cli(*command, check=False)
            need(done.returncode != 0 and done.stderr.strip(), "%s: %s %s", command, done.returncode, done.stderr)
        done = c[1].cli("import", source, "replica.db", check=False)
        need(done.returncode != 0 and "primary" in done.stderr, "import on a replica: %s", done.stderr)
        need(not os.path.exists(c[0].db("text.db")), "a file that is no database was imported")


@test(limit=60)
def a_client_that_takes_nothing_holds_nobody_up(scratch):
    with Cluster(scratch, nodes=1) as c:
        c[0].sql("app.db", "CREATE TABLE t(a)", "INSERT INTO t VALUES(randomblob(40000000))")
        host, port = c[0].http.split(":")

        def export():
            s = socket.create_connection((host, int(port)), timeout=10)
            s.sendall(b"GET /export?name=app.db HTTP/1.1\r\nHost: x\r\n\r\n")
            return s, s.recv(15)
        stalled = []
        while len(stalled) < 8:
            s, head = export()
            need(head.startswith(b"HTTP/1.1 200"), "export %d: %r", len(stalled), head)
            stalled.append(s)
        equal(export()[1][9:12], b"503", "one export more than there may be at a time")
        equal(c[0].get("/healthz")[0], 200, "/healthz meanwhile")
        # One that goes away makes room for another.
        stalled.pop().close()
        wait_for(lambda: export()[1][9:12] == b"200", 20, "room for an export")
        # The daemon ends although they still wait for the rest.
        c[0].term(limit=15)
        for s in stalled:
            s.close()


@test(limit=60)
def the_ltx_commands_list_verify_and_apply(scratch):
    with Cluster(scratch, nodes=1) as c:
        clients.prepare(c[0], "app.db", "page_size=512", "journal_mode=wal")
        for i in range(5):
            c[0].sql("app.db", "INSERT INTO acked VALUES('a', %d, randomblob(900))" % i)
        want = c[0].export("app.db")
        files = []
        for low, high, data in check.records(c[0], "app.db"):
            files.append(scratch.join("%016x-%016x.ltx" % (low, high)))
            with open(files[-1], "wb") as f:
                f.write(data)
    listing = run("ltx", "list", *files).stdout
    equal(len([one for one in listing.splitlines() if re.search(r"\d", one)]) >= len(files), True, "lines of ltx list")
    need("512" in run("ltx", "dump", files[0]).stdout, "ltx dump does not show the page size")
    run("ltx", "verify", *files)
    done = run("ltx", "verify", *files[::-1], check=False)
    equal(done.returncode, 1, "ltx verify of files in the wrong order")
    for cut in (10, 99, 130, len(open(files[1], "rb").read()) - 1):
        bad = scratch.join("bad.ltx")
        with open(files[1], "rb") as f, open(bad, "wb") as out:
            out.write(f.read()[:cut])
        done = run("ltx", "verify", bad, check=False)
        equal(done.returncode, 1, "ltx verify of a file that is cut at %d" % cut)
        need("bad.ltx" in done.stderr + done.stdout, "it does not name the file: %s", done.stderr)
    with open(files[1], "rb") as f:
        data = bytearray(f.read())
    data[len(data) // 2] ^= 1
    with open(scratch.join("flipped.ltx"), "wb") as f:
        f.write(data)
    equal(run("ltx", "verify", scratch.join("flipped.ltx"), check=False).returncode, 1, "ltx verify of a flipped bit")
    usage = run("ltx", "apply", "--help", check=False)
    need("usage" in (usage.stdout + usage.stderr).lower(), "ltx apply --help: %s", usage.stdout + usage.stderr)
    target = scratch.join("applied.db")
    run("ltx", "apply", "--db", target, *files)
    with open(target, "rb") as f:
        equal(f.read() == want, True, "ltx apply gives the database")


@test(limit=60)
def golden_files_of_other_tools_are_read(scratch):
    if not os.path.isdir(GOLDEN):
        raise Skip("../shared/golden is not there")
    for size in (512, 4096, 65536):
        target = scratch.join("g%d.db" % size)
        run("ltx", "verify", os.path.join(GOLDEN, "snap-%d.ltx" % size))
        run("ltx", "apply", "--db", target, os.path.join(GOLDEN, "snap-%d.ltx" % size))
        with open(target, "rb") as got, open(os.path.join(GOLDEN, "g%d.db" % size), "rb") as want:
            equal(got.read() == want.read(), True, "the database of snap-%d.ltx" % size)
    files = sorted(glob.glob(os.path.join(GOLDEN, "litestream/ltx/0/*.ltx")))
    target = scratch.join("final.db")
    run("ltx", "apply", "--db", target, *files)
    with open(target, "rb") as got, open(os.path.join(GOLDEN, "litestream/final.db"), "rb") as want:
        equal(got.read() == want.read(), True, "the database of the backup")


@test(limit=30)
def help_and_version_and_mistakes_on_the_command_line(scratch):
    need(re.search(r"\d+\.\d+", run("--version").stdout), "--version")
    text = run("--help").stdout
    for word in ("mount", "status", "promote", "import", "export", "ltx"):
        need(word in text, "--help does not name %s", word)
        equal(run(word, "--help", check=False).returncode, 0, word + " --help")
    for words in ((), ("nonsense",), ("status", "--nonsense"), ("import", "one"), ("ltx", "nonsense")):
        done = run(*words, check=False)
        need(done.returncode not in (0, None) and done.returncode < 100, "tandemfs %s: exit status %s", " ".join(words),
             done.returncode)
        need(done.stderr.strip(), "tandemfs %s says nothing", " ".join(words))
