# SPDX-License-Identifier: Apache-2.0
"""What each process of a test was doing when the test's time was over: the place to begin with a hang."""
import os
import shutil
import subprocess

from lib.scratch import alive, mounts_below, read_pids


def report(path):
    """Text about the recorded processes of a test folder, their guards, and what the kernel waits for."""
    parts = ["mount %s: %s requests wait for an answer" % (point, _waiting(point)) for point in mounts_below(path)]
    for pid, started in read_pids(path):
        if alive(pid, started):
            parts.append(_process(pid))
            parts += [_process(child) for child in _children(pid)]
    return "\n".join(parts)


def _read(path):
    try:
        with open(path, errors="replace") as f:
            return f.read().strip()
    except OSError as error:
        return "? (%s)" % error.strerror


def _waiting(point):
    for line in _read("/proc/self/mountinfo").splitlines():
        words = line.split()
        if words[4].encode().decode("unicode_escape") == point:
            return _read("/sys/fs/fuse/connections/%s/waiting" % words[2].split(":")[1])
    return "?"


def _children(pid):
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and ("PPid:\t%d\n" % pid) in _read("/proc/%s/status" % entry) + "\n":
            found.append(int(entry))
    return found


def _process(pid):
    # Not its command line: reading that waits for a process which hangs while it unmaps something.
    lines = ["process %d: %s" % (pid, _read("/proc/%d/comm" % pid))]
    try:
        threads = sorted(os.listdir("/proc/%d/task" % pid), key=int)
    except FileNotFoundError:
        return lines[0] + " has ended"
    for thread in threads:
        place = "/proc/%d/task/%s/" % (pid, thread)
        stack = [line.split()[-1].split("+")[0] for line in _read(place + "stack").splitlines() if "+" in line]
        state = _read(place + "stat").rsplit(")", 1)[-1].split()[:1]
        lines.append("  %s %-16s %s %s" % (thread, _read(place + "comm"), "".join(state), " < ".join(stack[:8])))
    if shutil.which("gdb"):
        lines.append(_backtraces(pid))
    return "\n".join(lines)


def _backtraces(pid):
    try:
        done = subprocess.run(["gdb", "-batch", "-nx", "-p", str(pid), "-ex", "thread apply all -q bt 12"],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                              timeout=5, check=False)
    except subprocess.TimeoutExpired:
        return "  gdb did not get an answer"
    return "\n".join("  " + line for line in done.stdout.splitlines() if line.startswith(("Thread", "#")))
