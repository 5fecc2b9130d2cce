/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The load of `make bench`: one subcommand for each thing that is measured, through plain SQLite,
 * so that the same program measures a plain directory and a mount. Prints one line of "name value"
 * pairs.
 *
 *   load setup DB JOURNAL ROWS                          a table of ROWS rows of 100 bytes
 *   load read DB SECONDS                                point SELECTs by primary key: "per_s"
 *   load insert DB JOURNAL SYNC SECONDS                 one-row INSERTs, each its own transaction:
 * "per_s" load bulk DB JOURNAL ROWS TRANSACTIONS              ROWS rows of 1 kB a transaction:
 * "mb_s" load visible PRIMARY REPLICA COUNT EVERY_US READERS PACE_US HOLD_MS commit returned ->
 * seen on the replica: "p50_us" ...
 */
#include <errno.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void sleep_us(int64_t us)
{
    struct timespec t = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};
    while (nanosleep(&t, &t) != 0 && errno == EINTR)
        ;
}

static void fail(sqlite3 *db, const char *what)
{
    fprintf(stderr, "load: %s: %s\n", what, db ? sqlite3_errmsg(db) : "failed");
    exit(1);
}

static sqlite3 *open_db(const char *path, int flags)
{
    sqlite3 *db;
    if (sqlite3_open_v2(path, &db, flags, NULL) != SQLITE_OK)
        fail(db, path);
    sqlite3_busy_timeout(db, 20000);
    return db;
}

static void run(sqlite3 *db, const char *sql)
{
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK)
        fail(db, sql);
}

static void set_pragma(sqlite3 *db, const char *name, const char *value)
{
    char sql[100];
    snprintf(sql, sizeof sql, "PRAGMA %s=%s", name, value);
    run(db, sql);
}

static sqlite3_stmt *prepare(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *s;
    if (sqlite3_prepare_v2(db, sql, -1, &s, NULL) != SQLITE_OK)
        fail(db, sql);
    return s;
}

/* Runs a statement that gives no row. */
static void step_done(sqlite3 *db, sqlite3_stmt *s)
{
    if (sqlite3_step(s) != SQLITE_DONE || sqlite3_reset(s) != SQLITE_OK)
        fail(db, sqlite3_sql(s));
}

/* The first column of the only row. */
static int64_t step_value(sqlite3 *db, sqlite3_stmt *s)
{
    if (sqlite3_step(s) != SQLITE_ROW)
        fail(db, sqlite3_sql(s));
    int64_t value = sqlite3_column_int64(s, 0);
    if (sqlite3_reset(s) != SQLITE_OK)
        fail(db, sqlite3_sql(s));
    return value;
}

static uint32_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

static int setup(char **argv)
{
    sqlite3 *db = open_db(argv[0], SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE);
    set_pragma(db, "journal_mode", argv[1]);
    char sql[300];
    snprintf(sql, sizeof sql,
             "CREATE TABLE kv(k INTEGER PRIMARY KEY, v BLOB);"
             "CREATE TABLE log(k INTEGER PRIMARY KEY, v BLOB);"
             "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n WHERE i < %d) "
             "INSERT INTO kv SELECT i, randomblob(100) FROM n",
             atoi(argv[2]));
    run(db, sql);
    sqlite3_close(db);
    return 0;
}

static int point_reads(char **argv)
{
    sqlite3 *db = open_db(argv[0], SQLITE_OPEN_READONLY);
    sqlite3_stmt *s = prepare(db, "SELECT v FROM kv WHERE k = ?");
    int64_t rows = step_value(db, prepare(db, "SELECT max(k) FROM kv"));
    uint64_t dice = 1;
    /* The whole table once, so that every page has been seen. */
    step_value(db, prepare(db, "SELECT sum(length(v)) FROM kv"));
    int64_t end_us = (int64_t)(atof(argv[1]) * 1e6), begin_us = now_us(), count = 0;
    while (count % 256 != 0 || now_us() - begin_us < end_us) {
        sqlite3_bind_int64(s, 1, 1 + next_random(&dice) % rows);
        if (sqlite3_step(s) != SQLITE_ROW)
            fail(db, "a row is missing");
        sqlite3_reset(s);
        count++;
    }
    printf("per_s %.1f\n", (double)count * 1e6 / (double)(now_us() - begin_us));
    return 0;
}

static int inserts(char **argv)
{
    sqlite3 *db = open_db(argv[0], SQLITE_OPEN_READWRITE);
    set_pragma(db, "journal_mode", argv[1]);
    set_pragma(db, "synchronous", argv[2]);
    sqlite3_stmt *s = prepare(db, "INSERT INTO log(v) VALUES(?)");
    char value[100];
    memset(value, 'v', sizeof value);
    sqlite3_bind_blob(s, 1, value, sizeof value, SQLITE_STATIC);
    for (int i = 0; i < 20; i++)
        step_done(db, s);
    int64_t end_us = (int64_t)(atof(argv[3]) * 1e6), begin_us = now_us(), count = 0;
    while (now_us() - begin_us < end_us) {
        step_done(db, s);
        count++;
    }
    printf("per_s %.1f\n", (double)count * 1e6 / (double)(now_us() - begin_us));
    sqlite3_finalize(s);
    sqlite3_close(db);
    return 0;
}

static int bulk(char **argv)
{
    int rows = atoi(argv[2]), transactions = atoi(argv[3]);
    sqlite3 *db = open_db(argv[0], SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE);
    set_pragma(db, "journal_mode", argv[1]);
    set_pragma(db, "synchronous", "NORMAL");
    run(db, "CREATE TABLE IF NOT EXISTS bulk(k INTEGER PRIMARY KEY, v BLOB)");
    sqlite3_stmt *s = prepare(db, "INSERT INTO bulk(v) VALUES(?)");
    /* Text of words, as rows are: neither zeros nor noise. */
    static const char *const words[] = {"tandem", "replica", "commit", "primary",
                                        "page",   "journal", "record", "mount"};
    char value[1000];
    uint64_t dice = 7;
    int64_t begin_us = now_us();
    for (int t = 0; t < transactions; t++) {
        run(db, "BEGIN IMMEDIATE");
        for (int i = 0; i < rows; i++) {
            size_t at = 0;
            while (at < sizeof value) {
                uint32_t r = next_random(&dice);
                int n = snprintf(value + at, sizeof value - at, "%s %u ", words[r % 8], r >> 8);
                at += (size_t)n;
            }
            sqlite3_bind_blob(s, 1, value, sizeof value, SQLITE_STATIC);
            step_done(db, s);
        }
        run(db, "COMMIT");
    }
    double seconds = (double)(now_us() - begin_us) / 1e6;
    printf("mb_s %.2f\n", rows * 1e-3 * transactions / seconds);
    sqlite3_finalize(s);
    sqlite3_close(db);
    return 0;
}

#define COMMITS_MAX 100000

/* What writer, watcher and the others share; times in us, 0 = not yet. */
struct shared {
    _Atomic int64_t committed_us[COMMITS_MAX];
    int64_t seen_us[COMMITS_MAX];
    _Atomic bool ready, stop, held;
    _Atomic int64_t reads;
};

/* Looks at the replica until it has seen row `count`. Pauses between two looks: a replica has other
 * readers than one that spins, and with few cores one that spins would be measured itself. */
static void watch(const char *path, struct shared *shared, int64_t first, int count)
{
    sqlite3 *db = open_db(path, SQLITE_OPEN_READONLY);
    sqlite3_stmt *s = prepare(db, "SELECT max(k) FROM log");
    int seen = 0;
    step_value(db, s);
    shared->ready = true;
    while (seen < count && !shared->stop) {
        int64_t last = step_value(db, s) - first, at_us = now_us();
        for (; seen < count && seen < last; seen++)
            shared->seen_us[seen] = at_us;
        sleep_us(20);
    }
}

static void read_all_the_time(const char *path, struct shared *shared, int64_t pace_us, int number)
{
    sqlite3 *db = open_db(path, SQLITE_OPEN_READONLY);
    sqlite3_stmt *s = prepare(db, "SELECT v FROM kv WHERE k = ?");
    int64_t rows = step_value(db, prepare(db, "SELECT max(k) FROM kv"));
    uint64_t dice = (uint64_t)number;
    while (!shared->stop) {
        sqlite3_bind_int64(s, 1, 1 + next_random(&dice) % rows);
        if (sqlite3_step(s) != SQLITE_ROW)
            fail(db, "a row is missing");
        sqlite3_reset(s);
        shared->reads++;
        if (pace_us)
            sleep_us(pace_us);
    }
}

static void hold_a_snapshot(const char *path, struct shared *shared, int64_t hold_ms)
{
    sqlite3 *db = open_db(path, SQLITE_OPEN_READONLY);
    run(db, "BEGIN");
    sqlite3_stmt *s = prepare(db, "SELECT max(k) FROM log");
    int64_t first = step_value(db, s), end_us = now_us() + hold_ms * 1000;
    shared->held = true;
    while (!shared->stop && now_us() < end_us)
        sleep_us(10000);
    if (step_value(db, s) != first)
        fail(NULL, "the snapshot of a read transaction has changed");
    run(db, "COMMIT");
}

static int compare(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static pid_t begin_child(void)
{
    fflush(NULL);
    pid_t pid = fork();
    if (pid < 0)
        fail(NULL, "fork");
    return pid;
}

static void end_child(void)
{
    _exit(0);
}

static void write_rows(const char *path, struct shared *shared, int count, int64_t every_us)
{
    sqlite3 *db = open_db(path, SQLITE_OPEN_READWRITE);
    set_pragma(db, "synchronous", "FULL");
    sqlite3_stmt *s = prepare(db, "INSERT INTO log(v) VALUES(randomblob(100))");
    uint64_t dice = 3;
    for (int i = 0; i < count && !shared->stop; i++) {
        step_done(db, s);
        shared->committed_us[i] = now_us();
        /* Not in step with anything: between half and one and a half of the interval. */
        sleep_us(every_us / 2 + (every_us ? next_random(&dice) % every_us : 0));
    }
    sqlite3_finalize(s);
    sqlite3_close(db);
}

static void print_latencies(struct shared *shared, int count, double seconds)
{
    int64_t *us = calloc((size_t)count, sizeof *us);
    if (!us)
        fail(NULL, "memory");
    for (int i = 0; i < count; i++) {
        us[i] = shared->seen_us[i] - shared->committed_us[i];
        /* Seen before COMMIT had returned to the writer. */
        if (us[i] < 0)
            us[i] = 0;
    }
    qsort(us, (size_t)count, sizeof *us, compare);
    printf(
        "p50_us %lld p90_us %lld p99_us %lld max_us %lld count %d seconds %.2f reads_per_s %.0f\n",
        (long long)us[count / 2], (long long)us[count * 9 / 10], (long long)us[count * 99 / 100],
        (long long)us[count - 1], count, seconds, (double)shared->reads / seconds);
    free(us);
}

static int visible(char **argv)
{
    const char *primary = argv[0], *replica = argv[1];
    int count = atoi(argv[2]), readers = atoi(argv[4]), children = 0;
    int64_t every_us = atoll(argv[3]), pace_us = atoll(argv[5]), hold_ms = atoll(argv[6]);
    if (count < 1 || count > COMMITS_MAX)
        fail(NULL, "COUNT is out of range");
    struct shared *shared =
        mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        fail(NULL, "mmap");
    /* No connection may be open across the forks. */
    sqlite3 *db = open_db(primary, SQLITE_OPEN_READONLY);
    sqlite3_stmt *s = prepare(db, "SELECT coalesce(max(k), 0) FROM log");
    int64_t first = step_value(db, s);
    sqlite3_finalize(s);
    sqlite3_close(db);
    pid_t pids[64], watcher = begin_child();
    if (watcher == 0) {
        watch(replica, shared, first, count);
        end_child();
    }
    for (int i = 0; i < readers && children < 60; i++)
        if ((pids[children++] = begin_child()) == 0) {
            read_all_the_time(replica, shared, pace_us, i + 1);
            end_child();
        }
    if (hold_ms && (pids[children++] = begin_child()) == 0) {
        hold_a_snapshot(replica, shared, hold_ms);
        end_child();
    }
    while (!shared->ready || (hold_ms && !shared->held))
        sleep_us(1000);
    int64_t begin_us = now_us();
    write_rows(primary, shared, count, every_us);
    double seconds = (double)(now_us() - begin_us) / 1e6;
    int status, bad = 0;
    for (int64_t end_us = now_us() + 20000000; waitpid(watcher, &status, WNOHANG) == 0;) {
        if (now_us() > end_us) {
            kill(watcher, SIGKILL);
            waitpid(watcher, &status, 0);
            break;
        }
        sleep_us(1000);
    }
    bad |= status;
    shared->stop = true;
    for (int i = 0; i < children; i++) {
        waitpid(pids[i], &status, 0);
        bad |= status;
    }
    if (bad)
        fail(NULL, "a reader or the row that was waited for");
    print_latencies(shared, count, seconds);
    return 0;
}

static const struct {
    const char *name;
    int args;
    int (*run)(char **argv);
} commands[] = {
    {"setup", 3, setup}, {"read", 2, point_reads}, {"insert", 4, inserts},
    {"bulk", 4, bulk},   {"visible", 7, visible},
};

int main(int argc, char **argv)
{
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (argc >= 2 && strcmp(argv[1], commands[i].name) == 0 && argc == commands[i].args + 2)
            return commands[i].run(argv + 2);
    fprintf(stderr, "load: see the head of load.c\n");
    return 2;
}
