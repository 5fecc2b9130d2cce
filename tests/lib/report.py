# SPDX-License-Identifier: Apache-2.0
"""One line for each test, the output of those that failed, and the closing line."""
import sys
import threading
import time


class Report:
    def __init__(self):
        self.counts = {"ok": 0, "FAIL": 0, "skip": 0}
        self.bad = []
        self.uncertain = []
        self.began = time.monotonic()
        self.lock = threading.Lock()

    def _line(self, word, file, name, seconds, more=""):
        with self.lock:
            self.counts[word] += 1
            print("%-4s %7.2f s  %s: %s%s" % (word, seconds, file, name, more), flush=True)

    def title(self, text):
        with self.lock:
            print("== " + text, flush=True)

    def passed(self, file, name, seconds, output=""):
        figures = [line[len("figure: "):] for line in output.splitlines() if line.startswith("figure: ")]
        self._line("ok", file, name, seconds, "".join("\n     | " + line for line in figures))

    def skipped(self, file, name, seconds, reason):
        self._line("skip", file, name, seconds, " (%s)" % reason)

    def failed(self, file, name, seconds, output):
        self.bad.append("%s: %s" % (file, name))
        text = "".join("     | %s\n" % line for line in output.rstrip().splitlines()[-400:])
        self._line("FAIL", file, name, seconds, "\n" + text.rstrip("\n") if text else "")

    def once_more(self, file, name, seconds, output):
        """A failure that does not count yet: what happened is shown, and the test gets a second try."""
        self.uncertain.append("%s: %s" % (file, name))
        text = "".join("     | %s\n" % line for line in output.rstrip().splitlines()[-400:])
        with self.lock:
            print("again %6.2f s  %s: %s\n%s" % (seconds, file, name, text.rstrip("\n")), flush=True)

    def finish(self):
        """Prints the closing line; returns the exit status."""
        for name in self.bad:
            print("failed: " + name)
        for name in self.uncertain:
            if name not in self.bad:
                print("passed only at the second try: " + name)
        if not any(self.counts.values()):
            print("tests/run: no test has this name", file=sys.stderr)
            return 1
        print("%.0f s" % (time.monotonic() - self.began))
        line = "%d passed, %d failed" % (self.counts["ok"], self.counts["FAIL"])
        if self.counts["skip"]:
            line += ", %d skipped" % self.counts["skip"]
        print(line, flush=True)
        return 1 if self.counts["FAIL"] else 0
