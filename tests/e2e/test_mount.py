# SPDX-License-Identifier: Apache-2.0
"""Starting and ending, as a new user would try it."""
import contextlib
import ctypes
import fcntl
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import time

from lib import clients
from lib.case import Skip, equal, need, test, wait_for
from lib.cluster import PROGRAM, Cluster, Node
from lib.scratch import mounts_below


def refused(scratch, *args, words=(), status=2, limit=20, env=None):
    """The daemon does not start: one sentence, the exit status, and nothing mounted."""
    done = subprocess.run([PROGRAM, "mount", *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=limit, check=False, env=env)
    equal(done.returncode, status, "exit status of: mount %s\n%s" % (" ".join(args), done.stdout))
    for word in words:
        need(word in done.stdout, "the message does not speak of %s: %s", word, done.stdout)
    need(done.stdout.strip().count("\n") <= 3, "more than a sentence: %s", done.stdout)
    equal(mounts_below(scratch.path), [], "mounts left")
    return done.stdout


def arguments(node):
    return ["--mount", node.mount, "--data", node.data, "--listen", node.listen, "--http", node.http, "--primary"]


@test(limit=60)
def a_folder_that_is_not_empty_is_not_mounted_over(scratch):
    node = Node(scratch, "node")
    with open(node.db("precious"), "w") as f:
        f.write("x")
    refused(scratch, *arguments(node), words=[node.mount, "empty"])
    need(os.path.exists(node.db("precious")), "the file is gone")


@test(limit=60)
def mount_and_data_must_be_apart(scratch):
    node = Node(scratch, "node")
    for data in (node.mount, os.path.join(node.mount, "data")):
        node.data = data
        refused(scratch, *arguments(node), words=["mount", "data"])
    node.mount, node.data = scratch.folder("d", "inside"), scratch.join("d")
    refused(scratch, *arguments(node))


@test(limit=60)
def a_port_that_is_taken_is_named(scratch):
    node = Node(scratch, "node")
    for address in (node.listen[len("tcp://"):], node.http):
        host, port = address.split(":")
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind((host, int(port)))
            taken.listen()
            refused(scratch, *arguments(node), words=[port])
    node.start("--primary")
    node.term()


@test(limit=60)
def two_daemons_do_not_share_a_data_folder(scratch):
    with Cluster(scratch, nodes=1) as c:
        other = Node(scratch, "other")
        other.data = c[0].data
        done = subprocess.run([PROGRAM, "mount", *arguments(other)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, timeout=20, check=False)
        equal(done.returncode, 2, "exit status of the second daemon: " + done.stdout)
        need(c[0].data in done.stdout, "it does not name the folder: %s", done.stdout)
        done = subprocess.run([PROGRAM, "mount", *arguments(c[0])], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, timeout=20, check=False)
        equal(done.returncode, 2, "exit status of the same command again: " + done.stdout)
        c[0].sql("app.db", "CREATE TABLE t(a)")
        c[0].integrity("app.db")


@test(limit=60, each=("SIGTERM", "SIGINT"))
def a_signal_unmounts_while_clients_have_files_open(scratch, name):
    with Cluster(scratch, nodes=2) as c:
        clients.prepare(c[0], "app.db", "journal_mode=wal")
        c.wait_level("app.db")
        held = [n.connect("app.db") for n in c.nodes]
        for db in held:
            db.execute("BEGIN")
            db.execute("SELECT * FROM acct").fetchall()
        writer = clients.writers(scratch, [c[0].db("app.db")], 1, "--patient")[0]
        writer.wait_acked(5)
        for node in reversed(c.nodes):
            node.term(sig=getattr(signal, name))
        for db in held:
            with contextlib.suppress(Exception):
                db.close()
        c.start()
        writer.wait_acked(2)
        writer.stop()
        c.wait_level("app.db")
        clients.need_rows(c[1], "app.db", [writer])


@test(limit=60)
def the_mount_of_a_killed_daemon_is_replaced(scratch):
    with Cluster(scratch, nodes=1) as c:
        clients.prepare(c[0], "app.db")
        held = open(c[0].db("app.db"), "rb")
        c[0].kill9()
        need(c[0].is_mounted(), "the kernel keeps the mount of a killed daemon")
        c[0].start()
        equal(len(mounts_below(c[0].mount)), 1, "mounts at the same place")
        c[0].integrity("app.db")
        with contextlib.suppress(OSError):
            held.close()


@test(limit=60)
def unmounting_by_hand_ends_the_daemon(scratch):
    with Cluster(scratch, nodes=1) as c:
        c[0].sql("app.db", "CREATE TABLE t(a)")
        done = subprocess.run(["fusermount3", "-u", c[0].mount], stderr=subprocess.PIPE, text=True, check=False)
        equal(done.returncode, 0, "fusermount3 -u: " + done.stderr)
        c[0].wait_end()


@test(limit=60)
def a_command_runs_when_the_node_is_ready_and_its_status_is_the_nodes(scratch):
    node = Node(scratch, "node")
    for command, status in (("sqlite3 app.db 'CREATE TABLE t(a)'; exit 7", 7), ("sqlite3 app.db .tables | grep -q t", 0)):
        node.start("--primary", wait=False, command=["sh", "-c", "cd '%s' && %s" % (node.mount, command)])
        node.wait_end(status=status)
        equal(mounts_below(scratch.path), [], "mounts left")
    # A signal is passed on; the command decides.
    trap = "trap 'echo got TERM; exit 5' TERM; echo trap-is-set; while :; do sleep 0.05; done"
    node.start("--primary", wait=False, command=["sh", "-c", trap])
    node.wait_log("trap-is-set")
    node.process.send_signal(signal.SIGTERM)
    node.wait_end(status=5)
    need("got TERM" in node.log_text(), "the signal was not passed on:\n%s", node.log_tail())
    # A command that dies of a signal, and one that is not there.
    node.start("--primary", wait=False, command=["sh", "-c", "kill -KILL $$"])
    node.wait_end(status=128 + 9)
    node.start("--primary", wait=False, command=["/no/such/command"])
    node.process.wait(20)
    need(node.process.returncode not in (0, None), "a command that does not exist counts as success")
    need("/no/such/command" in node.log_text(), "it is not named:\n%s", node.log_tail())
    equal(mounts_below(scratch.path), [], "mounts left")


@test(limit=60)
def a_wrong_configuration_is_refused_with_file_and_line(scratch):
    node = Node(scratch, "node")
    path = scratch.join("bad.yml")
    for text, words in (("mount: /x\nmuont: /y\n", ["bad.yml", "2", "muont"]),
                        ("mount: /x\nlog:\n  level: loud\n", ["bad.yml", "3", "loud"]),
                        ("replica-writes: maybe\n", ["bad.yml", "1", "refuse", "wait"]),
                        ("lease:\n  type: magic\n", ["bad.yml", "2", "magic"]),
                        ("mount: [a, b\n", ["bad.yml"]),
                        ("listen: nonsense\n", ["nonsense"]),
                        ("allow-other: perhaps\n", ["bad.yml", "1", "perhaps"])):
        with open(path, "w") as f:
            f.write(text)
        refused(scratch, "-c", path, *arguments(node), words=words)
    refused(scratch, "-c", scratch.join("missing.yml"), *arguments(node), words=["missing.yml"])
    refused(scratch, "--no-such-flag", words=["no-such-flag"])
    # And a good one, with an environment variable in it.
    with open(path, "w") as f:
        f.write("mount: ${WHERE}/mnt\ndata: ${WHERE}/data\nlisten: %s\nhttp: %s\nlease:\n  type: static\n"
                "  primary: true\nlog:\n  format: json\nretention: 1h\n" % (node.listen, node.http))
    env = dict(os.environ, WHERE=node.dir)
    with open(node.log_path, "wb") as log:
        node.process = scratch.popen([PROGRAM, "mount", "-c", path], stdout=log, stderr=log, env=env)
    node.wait_ready()
    node.sql("app.db", "CREATE TABLE t(a)")
    node.term()
    env.pop("WHERE")
    refused(scratch, "-c", path, words=["WHERE"], env=env)


def _nobody(scratch):
    if os.getuid() != 0:
        raise Skip("only root can become another user")
    try:
        return pwd.getpwnam("nobody")
    except KeyError:
        raise Skip("there is no user nobody") from None


@contextlib.contextmanager
def open_device():
    """/dev/fuse as every distribution has it: for all. Some containers keep it for root."""
    mode = stat.S_IMODE(os.stat("/dev/fuse").st_mode)
    os.chmod("/dev/fuse", mode | 0o666)
    try:
        yield
    finally:
        os.chmod("/dev/fuse", mode)


@test(limit=60, alone=True)
def an_ordinary_user_can_mount(scratch):
    nobody = _nobody(scratch)
    program = scratch.join("tandemfs")
    shutil.copy(PROGRAM, program)
    nodes = [Node(scratch, "a"), Node(scratch, "b")]
    become = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    for node in nodes:
        for path in (node.dir, node.mount, node.data):
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
    with open_device():
        for node, role in zip(nodes, (["--primary"], ["--replica-of", nodes[0].listen])):
            with open(node.log_path, "wb") as log:
                node.process = scratch.popen(
                    [program, "mount", "--mount", node.mount, "--data", node.data, "--listen", node.listen, "--http",
                     node.http, *role], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", **become)
        for node in nodes:
            # Only its user sees the mount, so root asks the admin address and the list of mounts.
            node.wait_ready()

        def as_nobody(*command):
            return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=30,
                                  check=False, cwd="/", **become)
        made = as_nobody("sqlite3", nodes[0].db("app.db"), "PRAGMA journal_mode=wal; CREATE TABLE t(a); "
                         "INSERT INTO t VALUES(42);")
        equal(made.returncode, 0, "sqlite3 as an ordinary user: " + made.stdout)
        wait_for(lambda: as_nobody("sqlite3", nodes[1].db("app.db"), "SELECT a FROM t").stdout == "42\n", 15,
                 "the row on the replica")
        owner = as_nobody("stat", "-c", "%U", nodes[0].db("app.db")).stdout.strip()
        equal(owner, "nobody", "the owner of the file")
        for node in nodes:
            node.term()


def _hide_fusectl():
    """This process and its children go to a mount namespace without the kernel's control files for FUSE."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x00020000) != 0:  # CLONE_NEWNS
        raise Skip("no mount namespace to be had: " + os.strerror(ctypes.get_errno()))
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    while os.listdir("/sys/fs/fuse/connections") or os.path.ismount("/sys/fs/fuse/connections"):
        subprocess.run(["umount", "-l", "/sys/fs/fuse/connections"], check=True)


def _lock_is_free(node):
    with open(os.path.join(node.data, "lock"), "rb") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@test(limit=120, alone=True)
def a_killed_replica_of_an_ordinary_user_ends_at_once(scratch):
    """It has files of its own mount open, and its user may neither abort the connection nor unmount by force."""
    nobody = _nobody(scratch)
    program = scratch.join("tandemfs")
    shutil.copy(PROGRAM, program)
    primary, replica = Node(scratch, "a"), Node(scratch, "b")
    become = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    for path in (replica.dir, replica.mount, replica.data):
        os.chown(path, nobody.pw_uid, nobody.pw_gid)

    def start():
        with open(replica.log_path, "ab") as log:
            replica.process = scratch.popen(
                [program, "mount", "--mount", replica.mount, "--data", replica.data, "--listen", replica.listen,
                 "--http", replica.http, "--replica-of", primary.listen], stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, cwd="/", **become)
        replica.wait_ready()

    def read(options=()):
        return subprocess.run(["sqlite3", *options, replica.db("app.db"), "PRAGMA integrity_check"],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=20, check=False,
                              cwd="/", **become).stdout
    _hide_fusectl()
    primary.start("--primary")
    try:
        with open_device():
            clients.prepare(primary, "app.db", "journal_mode=wal")
            writer = clients.writers(scratch, [primary.db("app.db")], 1)[0]
            start()
            for _ in range(5):
                writer.wait_acked(50)
                wait_for(lambda: read() == "ok\n", 20, lambda: "the replica to have the database: " + read())
                reader = scratch.popen(["sqlite3", replica.db("app.db"), "BEGIN; SELECT count(*) FROM acct;",
                                        ".shell sleep 3", "SELECT count(*) FROM acct;"],
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", **become)
                served = scratch.popen(["sqlite3", "-readonly", replica.db("app.db")], stdin=subprocess.PIPE,
                                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/", **become)
                served.stdin.write(b"SELECT 'served', count(*) FROM acct;\n")
                served.stdin.flush()
                equal(served.stdout.readline(), b"served|50\n", "what a connection sees")
                time.sleep(0.2)
                began = time.monotonic()
                replica.kill9()
                seconds = time.monotonic() - began
                need(seconds < 5, "the killed daemon took %.1f s to end", seconds)
                need(_lock_is_free(replica), "the lock of the data folder is still held")
                need(read() != "ok\n", "a mount without a daemon answers")
                time.sleep(1)  # the kernel forgets a moment after the daemon's end
                said = served.communicate(b"SELECT 'served', count(*) FROM acct;\n", timeout=20)[0].decode()
                need("served" not in said and "rror" in said, "a connection is served without a daemon: %s", said)
                reader.wait(20)
                start()
                equal(len(mounts_below(replica.mount)), 1, "mounts at the same place")
            writer.stop()
            # An orderly end leaves no connection behind: whoever has a file open gets an error.
            held = scratch.popen(["sh", "-c", "exec 3<\"$0\"; echo open; read x; cat <&3", replica.db("app.db")],
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/", **become)
            equal(held.stdout.readline(), b"open\n", "what holds a file open says")
            replica.term()
            held.communicate(b"\n", timeout=10)
            need(held.returncode != 0, "a file can be read after the daemon's end")
    finally:
        for node in (replica, primary):
            subprocess.run(["umount", "-f", node.mount], stderr=subprocess.DEVNULL, check=False)


@test(limit=60)
def a_second_signal_ends_it_at_once(scratch):
    with Cluster(scratch, nodes=2) as c:
        clients.prepare(c[0], "app.db")
        c.wait_level("app.db")
        held = open(c[1].db("app.db"), "rb")
        for node in (c[1], c[0]):
            node.process.send_signal(signal.SIGTERM)
            time.sleep(0.01)
            with contextlib.suppress(ProcessLookupError):
                node.process.send_signal(signal.SIGTERM)
            node.process.wait(10)
            need(not node.is_mounted(), "still mounted")
            node.process = None
        with contextlib.suppress(OSError):
            held.close()
        c.start()
        c.wait_level("app.db")


@test(limit=30)
def no_fuse_device_is_said(scratch):
    if os.getuid() != 0:
        raise Skip("needs root for a mount namespace of its own")
    node = Node(scratch, "node")
    # In a mount namespace of its own, /dev is empty but for what the loader and the program need.
    script = "mount -t tmpfs none /dev && mknod /dev/null c 1 3 && mknod /dev/urandom c 1 9 && exec \"$@\""
    done = subprocess.run(["unshare", "-m", "sh", "-c", script, "sh", PROGRAM, "mount", *arguments(node)],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=20, check=False)
    if "unshare" in done.stdout or "mknod" in done.stdout:
        raise Skip("no mount namespace to be had: " + done.stdout.strip())
    equal(done.returncode, 2, "exit status without /dev/fuse: " + done.stdout)
    need("/dev/fuse" in done.stdout, "it does not say what is missing: %s", done.stdout)
