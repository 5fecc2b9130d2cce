# SPDX-License-Identifier: Apache-2.0
"""The results as text, as markdown and as CSV, with the machine named."""
import csv
import os
import platform
import re
import subprocess

from lib.cluster import PROGRAM, TOP

PLACES = ("plain", "mount", "one replica", "on the replica")


def first_line(*command):
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=10,
                              check=False).stdout.splitlines()[0].strip()
    except (OSError, IndexError):
        return "?"


def package(name):
    version = first_line("dpkg-query", "-W", "-f", "${Version}\n", name)
    return re.sub(r"^\d+:|[-+~].*", "", version) if re.match(r"[\d:]", version) else "?"


def machine(filesystem):
    with open("/proc/cpuinfo") as f:
        model = re.search(r"^model name\s*: (.*)", f.read(), re.M)
    with open("/proc/meminfo") as f:
        memory = int(re.search(r"MemTotal:\s+(\d+)", f.read()).group(1)) / 1e6
    commit = first_line("git", "-C", TOP, "describe", "--always", "--dirty")
    return ["machine: %s, %d cores, %.0f GB memory, Linux %s, %s" % (
                model.group(1) if model else platform.machine(), os.cpu_count(), memory, platform.release(), filesystem),
            "versions: tandemfs %s (%s), SQLite %s, libfuse %s, nng %s" % (
                first_line(PROGRAM, "--version").split()[-1], commit, first_line("sqlite3", "--version").split()[0],
                first_line("fusermount3", "--version").split()[-1], package("libnng-dev"))]


def number(value):
    if value is None:
        return ""
    return "{:,.0f}".format(value) if value >= 1000 else "%.1f" % value if value >= 10 else "%.2f" % value


def target(result):
    if result.limit is not None:
        return "≤ " + number(result.limit)
    return " / ".join("≥ %.2f" % value for value in dict.fromkeys(result.targets.values()))


def verdict(result):
    met = result.met()
    return "" if met is None else "yes" if met else "NO"


def rows(results):
    head = ["", "unit"]
    for place in PLACES:
        head.append(place)
        if place != "plain":
            head.append("ratio")
    yield head + ["target", "met", "note"]
    for result in results:
        row = [result.name, result.unit]
        for place in PLACES:
            row.append(number(result.values.get(place)))
            if place != "plain":
                row.append("%.2f" % result.ratios[place] if place in result.ratios else "")
        yield row + [target(result), verdict(result), result.note]


def text(about, results):
    table = list(rows(results))
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = ["  ".join(cell.ljust(width) if i in (0, 1, len(row) - 1) else cell.rjust(width)
                       for i, (cell, width) in enumerate(zip(row, widths))).rstrip() for row in table]
    lines.insert(1, "-" * max(len(line) for line in lines))
    missed = sum(verdict(result) == "NO" for result in results)
    return "\n".join(about + [""] + lines + ["", "%d of %d targets met" % (
        sum(verdict(result) == "yes" for result in results), missed + sum(verdict(r) == "yes" for r in results))])


def markdown(about, results):
    table = list(rows(results))
    lines = ["| " + " | ".join(row) + " |" for row in table]
    lines.insert(1, "|" + "---|" * len(table[0]))
    return "\n".join(["- " + line for line in about] + [""] + lines)


def write_csv(path, about, results):
    with open(path, "w", newline="") as f:
        for line in about:
            f.write("# %s\n" % line)
        out = csv.writer(f)
        out.writerow(["group", "name", "unit", "place", "median", "ratio", "target", "met", "samples"])
        for result in results:
            for place, value in result.values.items():
                out.writerow([result.group, result.name, result.unit, place, "%.3f" % value,
                              "%.3f" % result.ratios[place] if place in result.ratios else "",
                              result.limit if result.limit is not None else result.targets.get(place, ""),
                              verdict(result), " ".join("%.3f" % s for s in result.samples[place])])
