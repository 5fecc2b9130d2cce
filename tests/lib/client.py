#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""An application: one process that writes or reads until SIGTERM, then says in one line of JSON what it did.

client.py writer --tag TAG PATH [PATH ...] [--patient] [--mode MODE] [--sync LEVEL] [--pause SECONDS]
                 [--attach PATH ...]
client.py reader PATH [--patient] [--reopen] [--hold SECONDS] [--tell N]

A writer moves amounts between accounts (their sum stays), adds a row to `acked` and counts it in `total`, in one
transaction, and prints the number of the row once COMMIT has returned. With --patient it takes the loss of the
database for what it is, reopens, and tries the next path; it never takes up a number again whose fate it does not
know. MODE is the journal mode, which connections do not find in the database, but for WAL. With --attach the row
goes to those databases, too, in the same transaction. A reader checks in one transaction that the sum and the count agree; --patient lets it reopen; with --tell it
prints "looked" after every N checks.
"""
import argparse
import json
import os
import random
import signal
import sqlite3
import sys
import time

ACCOUNTS, AMOUNT = 50, 100
WRONG = "is not at a committed state"

SCHEMA = """
CREATE TABLE IF NOT EXISTS acct(id INTEGER PRIMARY KEY, amount INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS acked(tag TEXT, n INTEGER, filler BLOB, PRIMARY KEY(tag, n));
CREATE TABLE IF NOT EXISTS total(k INTEGER PRIMARY KEY, v INTEGER NOT NULL);
"""


def create(db):
    """The tables and their first content, in one transaction, so that no reader sees half of it."""
    db.execute("BEGIN IMMEDIATE")
    for statement in SCHEMA.split(";"):
        db.execute(statement)
    if not db.execute("SELECT count(*) FROM acct").fetchone()[0]:
        db.executemany("INSERT INTO acct VALUES(?, ?)", [(i, AMOUNT) for i in range(ACCOUNTS)])
        db.execute("INSERT INTO total VALUES(0, 0)")
    db.execute("COMMIT")


def check(db):
    """Reads the invariant in one snapshot; returns the number of acknowledged rows seen."""
    db.execute("BEGIN")
    try:
        amount = db.execute("SELECT sum(amount) FROM acct").fetchone()[0]
        rows = db.execute("SELECT count(*) FROM acked").fetchone()[0]
        total = db.execute("SELECT v FROM total WHERE k=0").fetchone()[0]
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")
    if amount != ACCOUNTS * AMOUNT or rows != total:
        again = db.execute("SELECT (SELECT count(*) FROM acked), (SELECT v FROM total WHERE k=0)").fetchone()
        raise AssertionError("%s: %s %s: sum %s (want %d), rows %s, total %s; just after that %s, %s" % (
            time.strftime("%H:%M:%S"), db.execute("PRAGMA database_list").fetchone()[2], WRONG, amount, ACCOUNTS * AMOUNT, rows, total,
            again, db.execute("PRAGMA journal_mode").fetchone()[0]))
    return rows


def transaction(db, dice, tag, n):
    """One acknowledged row and some transfers; returns when COMMIT has."""
    db.execute("BEGIN IMMEDIATE")
    for _ in range(dice.randint(1, 4)):
        a, b, amount = dice.randrange(ACCOUNTS), dice.randrange(ACCOUNTS), dice.randint(1, 30)
        db.execute("UPDATE acct SET amount = amount - ? WHERE id = ?", (amount, a))
        db.execute("UPDATE acct SET amount = amount + ? WHERE id = ?", (amount, b))
    db.execute("INSERT INTO acked VALUES(?, ?, ?)", (tag, n, dice.randbytes(dice.randint(1, 900))))
    db.execute("UPDATE total SET v = v + 1 WHERE k = 0")
    for schema in attached(db):
        db.execute("INSERT INTO %s.acked VALUES(?, ?, ?)" % schema, (tag, n, dice.randbytes(dice.randint(1, 900))))
        db.execute("UPDATE %s.total SET v = v + 1 WHERE k = 0" % schema)
    db.execute("COMMIT")


class Stop:
    def __init__(self):
        self.asked = False
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, *unused):
        self.asked = True


def open_database(path, uri):
    return sqlite3.connect("file:%s?mode=%s" % (path, uri), uri=True, isolation_level=None, timeout=30)


def attached(db):
    return [schema for _, schema, _ in db.execute("PRAGMA database_list") if schema not in ("main", "temp")]


def open_to_write(args, path):
    db = open_database(path, "rw")
    for i, other in enumerate(args.attach):
        db.execute("ATTACH ? AS other%d" % i, (other,))
    for schema in ["main"] + attached(db):
        if args.mode:
            got = db.execute("PRAGMA %s.journal_mode=%s" % (schema, args.mode)).fetchone()[0]
            if got != args.mode:
                raise AssertionError("%s: the journal mode is %s, not %s" % (path, got, args.mode))
        if args.sync:
            db.execute("PRAGMA %s.synchronous=%s" % (schema, args.sync))
    return db


def close_quietly(db):
    try:
        if db:
            db.close()
    except sqlite3.Error:
        pass


def writer(args, stop):
    dice, db, at, n, retries = random.Random(args.seed), None, 0, 0, 0
    while not stop.asked:
        try:
            if db is None:
                db = open_to_write(args, args.paths[at])
            transaction(db, dice, args.tag, n)
        except sqlite3.Error as error:
            if not args.patient:
                raise
            if args.verbose:
                print("%s: %s" % (args.paths[at], error), file=sys.stderr, flush=True)
            close_quietly(db)
            db, at, retries = None, (at + 1) % len(args.paths), retries + 1
            n += 1
            time.sleep(0.01)
            continue
        os.write(1, b"%d\n" % n)
        n += 1
        if args.pause:
            time.sleep(args.pause * (0.5 + dice.random()))
    close_quietly(db)
    return {"retries": retries}


def reader(args, stop):
    db, checks, retries, last = None, 0, 0, 0
    # At least one look, however short the time was.
    while not stop.asked or not (checks or retries):
        try:
            if db is None:
                db = open_database(args.paths[0], "ro")
            if args.hold:
                hold(db, args.hold, stop)
            rows = check(db)
        except sqlite3.Error as error:
            if not args.patient:
                raise
            if args.verbose:
                print(error, file=sys.stderr, flush=True)
            close_quietly(db)
            db, retries = None, retries + 1
            time.sleep(0.01)
            continue
        checks, last = checks + 1, rows
        if args.tell and checks % args.tell == 0:
            os.write(1, b"looked\n")
        if args.reopen and checks % 10 == 0:
            close_quietly(db)
            db = None
        time.sleep(args.pause)
    close_quietly(db)
    return {"checks": checks, "retries": retries, "rows": last}


def hold(db, seconds, stop):
    """A long read transaction: what it sees first is what it sees to the end."""
    db.execute("BEGIN")
    first = db.execute("SELECT count(*) FROM acked").fetchone()
    os.write(1, b"holding %d\n" % first)
    end = time.monotonic() + seconds
    while time.monotonic() < end and not stop.asked:
        time.sleep(0.02)
    if db.execute("SELECT count(*) FROM acked").fetchone() != first:
        raise AssertionError("the snapshot of a read transaction has changed")
    db.execute("COMMIT")
    os.write(1, b"released\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["writer", "reader"])
    parser.add_argument("paths", nargs="+")
    parser.add_argument("--tag")
    parser.add_argument("--patient", action="store_true")
    parser.add_argument("--reopen", action="store_true")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--mode")
    parser.add_argument("--sync")
    parser.add_argument("--attach", nargs="*", default=[])
    parser.add_argument("--hold", type=float, default=0)
    parser.add_argument("--pause", type=float, default=0)
    parser.add_argument("--tell", type=int, default=0)
    parser.add_argument("--seed", type=int, default=None)
    args = parser.parse_args()
    stop = Stop()
    os.write(1, b"started\n")
    result = (writer if args.what == "writer" else reader)(args, stop)
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
