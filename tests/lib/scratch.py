# SPDX-License-Identifier: Apache-2.0
"""The folder of one test, and everything that must be gone when the test is over.

Each process that a test starts is recorded in the folder with its start time, so that a later run can
end what a crashed one left behind without ever touching a process that merely got the same number. Ports
are taken below the range that the kernel hands out to clients, each with a lock file.
"""
import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time

PORTS = range(21000, 31000)


def root():
    base = os.environ.get("TANDEMFS_TEST_ROOT") or os.path.join(
        tempfile.gettempdir(), "tandemfs-test-%d" % os.getuid())
    os.makedirs(base, exist_ok=True)
    os.chmod(base, 0o755)
    return base


def start_time(pid):
    """The kernel's start time of a process, None if there is no such process."""
    try:
        with open("/proc/%d/stat" % pid, "rb") as f:
            return int(f.read().rsplit(b")", 1)[1].split()[19])
    except (OSError, IndexError):
        return None


def alive(pid, started):
    return started is not None and start_time(pid) == started


def mounts_below(path):
    """Mount points at or below `path`, deepest first."""
    found = []
    with open("/proc/self/mountinfo") as f:
        for line in f:
            point = line.split()[4].encode().decode("unicode_escape")
            if point == path or point.startswith(path + "/"):
                found.append(point)
    return sorted(found, key=len, reverse=True)


def unmount(point):
    for command in (["umount", "-l", point], ["fusermount3", "-u", "-z", point]):
        if subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0:
            return True
    return False


def gone(recorded, limit):
    """Waits until these processes have ended; false if some have not."""
    end = time.monotonic() + limit
    while True:
        left = [pid for pid, started in recorded if alive(pid, started) and not _reap(pid)]
        if not left or time.monotonic() > end:
            return not left
        time.sleep(0.01)


def _reap(pid):
    """True if it was a child of ours and has ended, or is somebody else's that has."""
    try:
        if os.waitpid(pid, os.WNOHANG)[0] == pid:
            return True
    except ChildProcessError:
        pass
    try:
        with open("/proc/%d/stat" % pid, "rb") as f:
            return f.read().rsplit(b")", 1)[1].split()[0] == b"Z" and not os.listdir("/proc/%d/task" % pid)[1:]
    except OSError:
        return True


def read_pids(path):
    try:
        with open(os.path.join(path, "pids")) as f:
            return [tuple(int(word) for word in line.split()) for line in f if len(line.split()) == 2]
    except OSError:
        return []


def abort(path):
    """Fails what the kernel still waits for at mounts below `path`: a process that hangs there can end."""
    for point in mounts_below(path):
        subprocess.run(["umount", "-f", point], stderr=subprocess.DEVNULL, check=False)


def clean(path, keep=False):
    """Ends the recorded processes of a test folder, unmounts what is mounted below it, removes it."""
    recorded = [(pid, started) for pid, started in read_pids(path) if alive(pid, started)]
    for pid, started in reversed(recorded):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
            os.kill(pid, signal.SIGKILL)
    if not gone(recorded, 3):
        abort(path)
        gone(recorded, 3)
    for point in mounts_below(path):
        unmount(point)
    if mounts_below(path):
        raise RuntimeError("still mounted below %s: %s" % (path, mounts_below(path)))
    for port in _recorded_ports(path):
        _remove(os.path.join(root(), "ports", port))
    if not keep:
        shutil.rmtree(path, ignore_errors=True)


def clean_stale():
    """Removes what runs whose process is gone have left. Returns how many folders that were."""
    count = 0
    for entry in os.listdir(root()):
        path = os.path.join(root(), entry)
        try:
            with open(os.path.join(path, "owner")) as f:
                pid, started = (int(word) for word in f.read().split())
        except (OSError, ValueError):
            continue
        if not alive(pid, started):
            clean(path)
            count += 1
    return count


def _recorded_ports(path):
    try:
        with open(os.path.join(path, "ports")) as f:
            return f.read().split()
    except OSError:
        return []


def _remove(path):
    try:
        os.unlink(path)
    except OSError:
        pass


class Scratch:
    """A folder below the common root; use as a context manager."""

    def __init__(self, name, path=None, keep=False):
        self.keep = keep
        self.path = path or tempfile.mkdtemp(prefix=name[:60] + "-", dir=root())
        os.chmod(self.path, 0o755)
        with open(os.path.join(self.path, "owner"), "w") as f:
            f.write("%d %d" % (os.getpid(), start_time(os.getpid())))

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        clean(self.path, self.keep)

    def join(self, *parts):
        return os.path.join(self.path, *parts)

    def folder(self, *parts):
        path = self.join(*parts)
        os.makedirs(path, exist_ok=True)
        return path

    def record(self, process):
        """Takes note of a process (anything with a pid), so that it ends with the test at the latest."""
        with open(self.join("pids"), "a") as f:
            f.write("%d %d\n" % (process.pid, start_time(process.pid) or 0))
        return process

    def popen(self, command, **options):
        return self.record(subprocess.Popen(command, **options))

    def port(self):
        """A loopback TCP port that nobody listens on and no other test has been given."""
        locks = os.path.join(root(), "ports")
        os.makedirs(locks, exist_ok=True)
        for _ in range(1000):
            port = random.choice(PORTS)
            lock = os.path.join(locks, str(port))
            try:
                os.close(os.open(lock, os.O_CREAT | os.O_EXCL, 0o644))
            except FileExistsError:
                # The lock of a test folder that is gone would be kept for ever.
                if time.time() - os.stat(lock).st_mtime > 3600:
                    _remove(lock)
                continue
            with socket.socket() as probe:
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    _remove(lock)
                    continue
            with open(self.join("ports"), "a") as f:
                f.write("%d\n" % port)
            return port
        raise RuntimeError("no free port found")
