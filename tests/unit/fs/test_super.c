/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "fs/db/journal.h"
#include "fs/db/super.h"
#include "ltx/base/bytes.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/base/logger.h"
#include "tests/lib/dice.h"
#include "tests/lib/fsnode.h"
#include "tests/lib/logcopy.h"
#include "tests/lib/sql.h"

/* Transactions over three attached databases, which a super-journal ties together. */

#define DATABASES 3
#define TRANSACTIONS 6
#define SAMPLES 50

static const char *const names[DATABASES] = {"a.db", "sub/b.db", "c.db"};
static const char *const modes[] = {"DELETE", "TRUNCATE", "PERSIST"};

static char root[SCRATCH_PATH_MAX];
static struct fsnode node;

static struct report {
    unsigned acknowledged;
    uint64_t steps;
} * report;

static void begin(void)
{
    scratch_make(root);
    fsnode_open(&node, root, false);
    mkdir(fsnode_path(&node, "sub"), 0755);
    fsnode_lead(&node);
    tapvfs_register(fsnode_listen, &node);
    fsnode_fill_disk(false);
}

static void end(void)
{
    fsnode_close(&node);
    scratch_remove(root);
}

static sqlite3 *open_all(const char *mode)
{
    sqlite3 *db = sql_open(fsnode_path(&node, names[0]), "tap");
    sql_do(db, "ATTACH '%s' AS b; ATTACH '%s' AS c", fsnode_path(&node, names[1]),
           fsnode_path(&node, names[2]));
    if (mode)
        sql_do(db,
               "PRAGMA main.journal_mode=%s; PRAGMA b.journal_mode=%s; PRAGMA c.journal_mode=%s",
               mode, mode, mode);
    sql_do(db, "PRAGMA main.cache_size=5; PRAGMA b.cache_size=5; PRAGMA c.cache_size=5");
    return db;
}

static void create(sqlite3 *db)
{
    static const char *const schema[] = {"main", "b", "c"};
    for (unsigned i = 0; i < DATABASES; i++)
        sql_do(db,
               "CREATE TABLE IF NOT EXISTS %s.m(n); CREATE TABLE IF NOT EXISTS %s.t(x);"
               "INSERT INTO %s.m SELECT 0 WHERE NOT EXISTS(SELECT 1 FROM %s.m)",
               schema[i], schema[i], schema[i], schema[i]);
}

static int transaction(sqlite3 *db, unsigned n)
{
    return sql_try(
        db,
        "BEGIN; UPDATE main.m SET n=%u; UPDATE b.m SET n=%u; UPDATE c.m SET n=%u;"
        "INSERT INTO main.t VALUES(zeroblob(%u)); INSERT INTO b.t VALUES(zeroblob(9000));"
        "UPDATE b.t SET x = zeroblob(%u); INSERT INTO c.t VALUES(1); COMMIT",
        n, n, n, 100 + n * 700, 500 + n * 100);
}

/* What the log of each database says is what SQLite sees; the number of the last transaction. */
static void look(unsigned numbers[DATABASES])
{
    fsnode_settle(&node);
    for (unsigned i = 0; i < DATABASES; i++) {
        struct logcopy copy;
        size_t size;
        sqlite3 *db = sql_open(fsnode_path(&node, names[i]), "tap");
        sql_check(db);
        fsnode_settle(&node);
        uint8_t *bytes = sql_bytes(db, "main", &size);
        logcopy_open(&copy);
        logcopy_advance(&copy, fsnode_ledger(&node, names[i]));
        if (!logcopy_equals(&copy, bytes, size))
            fail_msg("%s: the log is not what SQLite sees", names[i]);
        numbers[i] = sql_int(db, "SELECT count(*) FROM sqlite_schema WHERE name='m'")
                         ? (unsigned)sql_int(db, "SELECT total(n) FROM m")
                         : 0;
        logcopy_close(&copy);
        sqlite3_free(bytes);
        sql_close(db);
    }
}

static void each_database_gets_its_record(void **state)
{
    (void)state;
    for (unsigned mode = 0; mode < 3; mode++) {
        unsigned numbers[DATABASES];
        begin();
        sqlite3 *db = open_all(modes[mode]);
        create(db);
        for (unsigned n = 1; n <= TRANSACTIONS; n++) {
            uint64_t before[DATABASES];
            for (unsigned i = 0; i < DATABASES; i++)
                before[i] = fsnode_txid(&node, names[i]);
            assert_int_equal(transaction(db, n), SQLITE_OK);
            look(numbers);
            for (unsigned i = 0; i < DATABASES; i++) {
                assert_int_equal(numbers[i], n);
                assert_true(fsnode_txid(&node, names[i]) == before[i] + 1);
            }
        }
        sql_close(db);
        end();
    }
}

static void a_refused_one_leaves_all_as_they_were(void **state)
{
    (void)state;
    for (unsigned mode = 0; mode < 3; mode++) {
        unsigned numbers[DATABASES];
        begin();
        sqlite3 *db = open_all(modes[mode]);
        create(db);
        assert_int_equal(transaction(db, 1), SQLITE_OK);
        assert_int_equal(role_close(&node.role, -ERR_NOTPRIMARY, 1000), 0);
        assert_int_equal(transaction(db, 2) & 0xff, SQLITE_IOERR);
        (void)sql_try(db, "ROLLBACK");
        sql_close(db);
        role_open(&node.role);
        look(numbers);
        for (unsigned i = 0; i < DATABASES; i++)
            assert_int_equal(numbers[i], 1);
        db = open_all(NULL);
        assert_int_equal(transaction(db, 3), SQLITE_OK);
        sql_close(db);
        look(numbers);
        assert_true(numbers[0] == 3 && numbers[1] == 3 && numbers[2] == 3);
        end();
    }
}

static void work(const char *mode, bool create_only)
{
    sqlite3 *db = open_all(mode);
    create(db);
    for (unsigned n = 1; n <= TRANSACTIONS && !create_only && !tapvfs_killed(); n++)
        if (transaction(db, n) == SQLITE_OK && !tapvfs_killed())
            report->acknowledged = n;
    sql_close(db);
}

/* Killed at one of its calls, the client leaves the transaction in all of them or in none. */
static void a_killed_client_leaves_all_or_none(void **state)
{
    (void)state;
    uint64_t calls = 1; /* until they have been counted */
    for (unsigned i = 0; i <= SAMPLES; i++) {
        unsigned numbers[DATABASES];
        const char *mode = modes[i % 3];
        begin();
        work(mode, true);
        report->acknowledged = 0;
        sqlite3 *db = open_all(NULL);
        tapvfs_kill_at(i == 0 ? 0 : 1 + dice_u64() % calls);
        for (unsigned n = 1; n <= TRANSACTIONS && !tapvfs_killed(); n++)
            if (transaction(db, n) == SQLITE_OK && !tapvfs_killed())
                report->acknowledged = n;
        sql_close(db);
        if (i == 0)
            calls = tapvfs_calls() * 9 / 10;
        tapvfs_register(fsnode_listen, &node);
        look(numbers);
        if (numbers[0] != numbers[1] || numbers[0] != numbers[2] ||
            numbers[0] < report->acknowledged)
            fail_msg("%s: %u acknowledged, the databases have %u, %u and %u", mode,
                     report->acknowledged, numbers[0], numbers[1], numbers[2]);
        end();
    }
}

static int work_and_die(const char *mode, uint64_t die_at)
{
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        fsnode_open(&node, root, false);
        mkdir(fsnode_path(&node, "sub"), 0755);
        fsnode_lead(&node);
        tapvfs_register(fsnode_listen, &node);
        fsnode_die_at(die_at);
        work(mode, false);
        report->steps = fsnode_steps();
        fsnode_close(&node);
        _exit(0);
    }
    int status;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* A transaction that has not ended leaves nothing behind. */
static void need_no_super_journal(void)
{
    DIR *dir = opendir(fsnode_path(&node, "."));
    assert_non_null(dir);
    for (const struct dirent *e = readdir(dir); e; e = readdir(dir))
        if (strstr(e->d_name, "-mj"))
            fail_msg("%s is left", e->d_name);
    closedir(dir);
}

static void a_crash_leaves_all_or_none(void **state)
{
    (void)state;
    uint64_t steps = 1; /* until they have been counted */
    for (unsigned i = 0; i <= SAMPLES; i++) {
        unsigned numbers[DATABASES];
        const char *mode = modes[i % 3];
        scratch_make(root);
        report->acknowledged = 0;
        int code = work_and_die(mode, i == 0 ? 0 : 1 + dice_u64() % steps);
        assert_true(code == 0 || code == FSNODE_DIED);
        if (i == 0)
            steps = report->steps;
        fsnode_open(&node, root, false);
        need_no_super_journal();
        fsnode_lead(&node);
        tapvfs_register(fsnode_listen, &node);
        look(numbers);
        for (unsigned k = 0; k < DATABASES; k++)
            if (numbers[k] < report->acknowledged || numbers[k] > report->acknowledged + 1 ||
                numbers[k] != numbers[0])
                fail_msg("%s: %u acknowledged, %s has %u, %s has %u", mode, report->acknowledged,
                         names[k], numbers[k], names[0], numbers[0]);
        end();
    }
}

/* ---- super-journals that somebody else removes ---- */

static bool is_there(const char *name)
{
    return access(fsnode_path(&node, name), F_OK) == 0;
}

static bool find_super_journal(char name[64])
{
    DIR *dir = opendir(node.tree);
    *name = '\0';
    for (const struct dirent *e = readdir(dir); e; e = readdir(dir))
        if (strstr(e->d_name, "-mj"))
            snprintf(name, 64, "%.60s", e->d_name);
    closedir(dir);
    return *name != '\0';
}

/* A client is killed at one of its calls, so that each journal is there and the super-journal is, or is not. */
static void die_with_journals(bool with_super)
{
    char super[64];
    uint64_t calls = 0;
    for (uint64_t call = 0;; call = call ? call - 1 : calls) {
        begin();
        work("DELETE", true);
        sqlite3 *db = open_all(NULL);
        tapvfs_kill_at(call);
        (void)transaction(db, 1);
        calls = tapvfs_calls();
        sql_close(db);
        tapvfs_register(fsnode_listen, &node);
        bool all =
            is_there("a.db-journal") && is_there("sub/b.db-journal") && is_there("c.db-journal");
        if (call && all && find_super_journal(super) == with_super)
            return;
        assert_true(call != 1);
        end();
    }
}

/* The last of its journals is rolled back by a client, which removes it, while another one writes. */
static void one_that_ends_a_rollback_commits_nothing(void **state)
{
    (void)state;
    char super[64];
    die_with_journals(true);
    assert_true(find_super_journal(super));
    for (unsigned i = 1; i < DATABASES; i++) { /* its own rollback */
        sqlite3 *db = sql_open(fsnode_path(&node, names[i]), "tap");
        assert_int_equal(sql_int(db, "SELECT n FROM m"), 0);
        sql_close(db);
    }
    sqlite3 *writer = sql_open(fsnode_path(&node, names[1]), "tap");
    sql_do(writer,
           "CREATE TABLE much AS WITH RECURSIVE k(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM k"
           "  WHERE i < 100) SELECT zeroblob(1000) AS x FROM k;"
           "PRAGMA cache_size=5; BEGIN; UPDATE much SET x = 'half'");
    uint64_t before = fsnode_txid(&node, names[1]);
    assert_true(is_there("sub/b.db-journal") && is_there(super));
    sqlite3 *reader = sql_open(fsnode_path(&node, names[0]), "tap");
    assert_int_equal(sql_int(reader, "SELECT n FROM m"), 0);
    sql_close(reader);
    assert_false(is_there(super));
    assert_true(fsnode_txid(&node, names[1]) == before);
    sql_do(writer, "ROLLBACK");
    sql_close(writer);
    end();
}

/* Its client has not come to the end when this node is no longer the primary. */
static void one_that_has_ended_is_not_undone_by_a_demotion(void **state)
{
    (void)state;
    die_with_journals(false);
    fsnode_follow(&node);
    for (unsigned i = 0; i < DATABASES; i++) {
        struct ledger_info info;
        struct logcopy copy;
        int64_t size;
        int fd;
        ledger_info(fsnode_ledger(&node, names[i]), &info);
        assert_false(info.damaged);
        assert_int_equal(file_open(AT_FDCWD, fsnode_path(&node, names[i]), O_RDONLY, 0, &fd), 0);
        assert_int_equal(file_size(fd, &size), 0);
        uint8_t *bytes = malloc((size_t)size);
        assert_int_equal(file_read(fd, bytes, (size_t)size, 0), 0);
        file_close(fd);
        logcopy_open(&copy);
        logcopy_advance(&copy, fsnode_ledger(&node, names[i]));
        if (!logcopy_equals(&copy, bytes, (size_t)size))
            fail_msg("%s: the file is not what the log says", names[i]);
        logcopy_close(&copy);
        free(bytes);
    }
    end();
}

/* Nor by a start that does not know what the file held before. */
static void one_that_has_ended_is_not_undone_by_a_start(void **state)
{
    (void)state;
    unsigned numbers[DATABASES];
    die_with_journals(false);
    for (unsigned i = 0; i < DATABASES; i++)
        assert_int_equal(ledger_set_unclean(fsnode_ledger(&node, names[i]), true), 0);
    fsnode_close(&node);
    fsnode_open(&node, root, false);
    fsnode_lead(&node);
    tapvfs_register(fsnode_listen, &node);
    look(numbers);
    for (unsigned i = 0; i < DATABASES; i++)
        assert_int_equal(numbers[i], 1);
    end();
}

/* ---- names that clients have ---- */

static void append(const char *path, const void *bytes, size_t n)
{
    int fd;
    int64_t size;
    assert_int_equal(file_open(AT_FDCWD, path, O_RDWR | O_CREAT, 0600, &fd), 0);
    assert_int_equal(file_size(fd, &size), 0);
    assert_int_equal(file_write(fd, bytes, n, size), 0);
    file_close(fd);
}

static void name_super_journal(const char *journal, const char *name)
{
    uint8_t end[16];
    uint32_t sum = 0;
    for (const char *p = name; *p; p++)
        sum += (uint32_t)*p;
    put_be32(end, (uint32_t)strlen(name));
    put_be32(end + 4, sum);
    memcpy(end + 8, JOURNAL_MAGIC, 8);
    append(journal, name, strlen(name));
    append(journal, end, sizeof end);
}

/* A client sees the tree's folder "app" as `seen`. */
static void try_view(const char *seen)
{
    static const char *const databases[] = {"app/a.db", "app/in/b.db"};
    sqlite3 *db[2];
    char name[300], super[300];
    uint64_t before[2];
    int fd;
    bool pending, gone;
    begin();
    mkdir(fsnode_path(&node, "app"), 0755);
    mkdir(fsnode_path(&node, "app/in"), 0755);
    snprintf(super, sizeof super, "%s", fsnode_path(&node, "app/a.db-mj00000A900"));
    for (unsigned i = 0; i < 2; i++) {
        db[i] = sql_open(fsnode_path(&node, databases[i]), "tap");
        sql_do(db[i],
               "CREATE TABLE t AS WITH RECURSIVE k(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM k"
               "  WHERE i < 100) SELECT zeroblob(1000) AS x FROM k;"
               "PRAGMA cache_size=5; BEGIN; UPDATE t SET x = 'half'");
        before[i] = fsnode_txid(&node, databases[i]);
        snprintf(name, sizeof name, "%s/a.db-mj00000A900", seen);
        name_super_journal(fsnode_path(&node, i ? "app/in/b.db-journal" : "app/a.db-journal"),
                           name);
        snprintf(name, sizeof name, "%s%s-journal", seen, databases[i] + strlen("app"));
        append(super, name, strlen(name) + 1);
    }
    assert_int_equal(
        file_open(AT_FDCWD, fsnode_path(&node, "app/in/b.db-journal"), O_RDONLY, 0, &fd), 0);
    assert_int_equal(super_is_pending(node.catalog, "app/in/b.db-journal", fd, &pending, &gone), 0);
    assert_true(pending);
    assert_int_equal(super_remove_ended(node.catalog), 0);
    assert_true(is_there("app/a.db-mj00000A900"));
    assert_int_equal(super_commit(node.catalog, "app/a.db-mj00000A900"), 0);
    for (unsigned i = 0; i < 2; i++) {
        assert_true(fsnode_txid(&node, databases[i]) == before[i] + 1);
        sql_do(db[i], "ROLLBACK");
        sql_close(db[i]);
    }
    append(super, "/outside/x.db-journal", sizeof "/outside/x.db-journal");
    assert_int_equal(super_remove_ended(node.catalog), 0);
    assert_true(is_there("app/a.db-mj00000A900")); /* it may be needed there */
    unlink(super);
    for (unsigned i = 0; i < 2; i++) {
        snprintf(name, sizeof name, "%s%s-journal", seen, databases[i] + strlen("app"));
        append(super, name, strlen(name) + 1);
    }
    assert_int_equal(super_remove_ended(node.catalog), 0);
    assert_false(is_there("app/a.db-mj00000A900"));
    assert_int_equal(super_is_pending(node.catalog, "app/in/b.db-journal", fd, &pending, &gone), 0);
    assert_false(pending);
    file_close(fd);
    end();
}

static void names_that_containers_have_are_understood(void **state)
{
    (void)state;
    try_view("/data");
    try_view("/app");
    try_view("/srv/app");
    try_view("/srv/lapp");
    try_view("");
}

int main(void)
{
    logger_configure(LOGGER_ERROR, false);
    tapvfs_lock_by_description();
    report = mmap(NULL, sizeof *report, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_database_gets_its_record),
        cmocka_unit_test(a_refused_one_leaves_all_as_they_were),
        cmocka_unit_test(a_killed_client_leaves_all_or_none),
        cmocka_unit_test(a_crash_leaves_all_or_none),
        cmocka_unit_test(one_that_ends_a_rollback_commits_nothing),
        cmocka_unit_test(one_that_has_ended_is_not_undone_by_a_demotion),
        cmocka_unit_test(one_that_has_ended_is_not_undone_by_a_start),
        cmocka_unit_test(names_that_containers_have_are_understood),
    };
    if (getenv("TEST_FILTER"))
        cmocka_set_test_filter(getenv("TEST_FILTER"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
