# SPDX-License-Identifier: Apache-2.0
"""A seeded random workload over everything that SQLite writes in its own way.

It keeps the invariant of client.py, so that readers can check each state they see: the sum of `acct`, and the
number of rows of `acked` in `total`.
"""
import contextlib

from lib import client

JOURNAL_MODES = ("delete", "truncate", "persist", "memory", "off", "wal")
PAGE_SIZES = (512, 4096, 65536)


class Workload:
    def __init__(self, node, name, mode, page_size, dice):
        self.node, self.name, self.mode, self.page_size, self.dice = node, name, mode, page_size, dice
        self.tables, self.serial, self.rows = [], 0, 0
        self.steps = [(self.transfer, 6), (self.fill, 5), (self.change, 4), (self.remove, 3), (self.schema, 3),
                      (self.vacuum, 1), (self.reopen, 2), (self.spill, 1)]
        # Without a journal SQLite cannot roll back: what it would leave is a broken database anywhere.
        if mode != "off":
            self.steps += [(self.savepoints, 4), (self.rollback, 3), (self.failed_statement, 1)]
        if mode == "wal":
            self.steps += [(self.checkpoint, 3)]
        else:
            self.steps += [(self.incremental_vacuum, 1)]
        self.db = None

    def run(self, steps):
        self.open()
        client.create(self.db)
        functions = [f for f, _ in self.steps]
        weights = [w for _, w in self.steps]
        # Each kind at least once, whatever the dice say.
        plan = functions + self.dice.choices(functions, weights, k=max(0, steps - len(functions)))
        head = plan[:2]
        rest = plan[2:]
        self.dice.shuffle(rest)
        for step in head + rest:
            step()
        self.close()

    def open(self):
        self.db = self.node.connect(self.name)
        self.db.execute("PRAGMA page_size=%d" % self.page_size)
        if self.mode != "wal" and not self.tables:
            self.db.execute("PRAGMA auto_vacuum=2")
        got = self.db.execute("PRAGMA journal_mode=" + self.mode).fetchone()[0]
        assert got == self.mode, "journal_mode is %s" % got
        self.db.execute("PRAGMA synchronous=" + self.dice.choice(["NORMAL", "FULL"]))
        if self.mode == "wal":
            self.db.execute("PRAGMA wal_autocheckpoint=%d" % self.dice.choice([0, 10, 100, 1000]))

    def close(self):
        if self.db:
            self.db.close()
        self.db = None

    def reopen(self):
        self.close()
        self.open()

    @contextlib.contextmanager
    def transaction(self, end="COMMIT"):
        self.db.execute(self.dice.choice(["BEGIN", "BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"]))
        yield
        self.db.execute(end)

    # Steps

    def transfer(self):
        with self.transaction():
            self._transfers(self.dice.randint(1, 5))

    def _transfers(self, count):
        for _ in range(count):
            a, b = self.dice.randrange(client.ACCOUNTS), self.dice.randrange(client.ACCOUNTS)
            amount = self.dice.randint(1, 50)
            self.db.execute("UPDATE acct SET amount = amount - ? WHERE id = ?", (amount, a))
            self.db.execute("UPDATE acct SET amount = amount + ? WHERE id = ?", (amount, b))
            self.rows += 1
            self.db.execute("INSERT INTO acked VALUES('w', ?, NULL)", (self.rows,))
            self.db.execute("UPDATE total SET v = v + 1 WHERE k = 0")

    def _table(self):
        if not self.tables:
            self._create()
        return self.dice.choice(self.tables)

    def _create(self):
        self.serial += 1
        name = "t%d" % self.serial
        kind = self.dice.choice(["(k INTEGER PRIMARY KEY, a, b)", "(k PRIMARY KEY, a, b) WITHOUT ROWID"])
        self.db.execute("CREATE TABLE %s%s" % (name, kind))
        self.tables.append(name)

    def _insert(self, count, size):
        table = self._table()
        for _ in range(count):
            self.serial += 1
            self.db.execute("INSERT INTO %s(k, a, b) VALUES(?, ?, ?)" % table, (
                self.serial, self.dice.randbytes(self.dice.randint(0, size)), self.dice.randint(0, 1000)))

    def fill(self):
        with self.transaction():
            self._insert(self.dice.randint(1, 12), min(3 * self.page_size, 6000))
            self._transfers(1)

    def change(self):
        with self.transaction():
            self.db.execute("UPDATE %s SET a = ?, b = b + 1 WHERE b %% 3 = ?" % self._table(), (
                self.dice.randbytes(self.dice.randint(0, 800)), self.dice.randrange(3)))

    def remove(self):
        with self.transaction():
            self.db.execute("DELETE FROM %s WHERE b %% 4 = ?" % self._table(), (self.dice.randrange(4),))
            if self.dice.random() < 0.1:
                self.db.execute("DELETE FROM " + self._table())

    def schema(self):
        choice = self.dice.randrange(5)
        if choice == 0 or not self.tables:
            self._create()
        elif choice == 1:
            self.serial += 1
            self.db.execute("CREATE INDEX i%d ON %s(b, a)" % (self.serial, self._table()))
        elif choice == 2:
            self.serial += 1
            self.db.execute("ALTER TABLE %s ADD COLUMN c%d DEFAULT 7" % (self._table(), self.serial))
        elif choice == 3 and len(self.tables) > 1:
            self.db.execute("DROP TABLE " + self.tables.pop(self.dice.randrange(len(self.tables))))
        else:
            self.serial += 1
            table = self.dice.randrange(len(self.tables))
            self.db.execute("ALTER TABLE %s RENAME TO t%d" % (self.tables[table], self.serial))
            self.tables[table] = "t%d" % self.serial

    def savepoints(self):
        with self.transaction():
            self._insert(2, 500)
            for depth in range(self.dice.randint(1, 3)):
                self.db.execute("SAVEPOINT s%d" % depth)
                self._insert(self.dice.randint(1, 6), 2000)
                self._transfers(1)
                if self.dice.random() < 0.5:
                    self.db.execute("ROLLBACK TO s%d" % depth)
                self.db.execute("RELEASE s%d" % depth)

    def rollback(self):
        tables = list(self.tables)
        with self.transaction("ROLLBACK"):
            self._insert(self.dice.randint(1, 10), 3000)
            self._transfers(2)
            if tables:
                self.db.execute("DELETE FROM " + self.dice.choice(tables))
        self.tables = tables

    def failed_statement(self):
        """A statement that fails after it has written: SQLite takes it back, the transaction goes on."""
        with self.transaction():
            self._transfers(1)
            try:
                self.db.execute("INSERT INTO acct SELECT id + 1000 - 2000 * (id = 40), 0 FROM acct "
                                "UNION ALL SELECT 1000, 0")
            except Exception as error:  # pylint: disable=broad-except
                assert "UNIQUE" in str(error), error
            else:
                raise AssertionError("the statement should have failed")

    def spill(self):
        """More dirty pages than the cache takes: SQLite writes before the commit, in WAL mode frames twice."""
        self.db.execute("PRAGMA cache_size=10")
        with self.transaction():
            self._insert(25, 2 * min(self.page_size, 4096))
            self.db.execute("UPDATE %s SET b = b + 1" % self._table())
            self.db.execute("UPDATE acct SET amount = amount + 1")
            self._transfers(3)
            self.db.execute("UPDATE acct SET amount = amount - 1")
        self.db.execute("PRAGMA cache_size=-2000")

    def vacuum(self):
        self.db.execute("VACUUM")

    def incremental_vacuum(self):
        # Each step of this statement frees one page, and the module takes the first step alone.
        self.db.executescript("PRAGMA incremental_vacuum(%d)" % self.dice.randint(0, 20))

    def checkpoint(self):
        kind = self.dice.choice(["PASSIVE", "FULL", "RESTART", "TRUNCATE"])
        self.db.execute("PRAGMA wal_checkpoint(%s)" % kind).fetchall()
