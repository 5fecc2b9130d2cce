/* SPDX-License-Identifier: Apache-2.0 */
/* What import does, on a plain folder: contents, journal modes and page sizes of both sides. */
#include <fcntl.h>
#include <setjmp.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "ltx/base/err.h"
#include "tools/sqlite_copy.h"

static char folder[64], why[1024];

static int enter(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/test-copy-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int leave(void **state)
{
    char command[96];
    (void)state;
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command);
}

static const char *path(const char *name)
{
    static char paths[4][128];
    static int next;
    next = (next + 1) % 4;
    snprintf(paths[next], sizeof paths[0], "%s/%s", folder, name);
    return paths[next];
}

static sqlite3 *open_db(const char *name)
{
    sqlite3 *db;
    assert_int_equal(sqlite3_open(path(name), &db), SQLITE_OK);
    return db;
}

/* The first value of the first row, as text. */
static const char *value(sqlite3 *db, const char *sql)
{
    static char text[256];
    sqlite3_stmt *stmt;
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &stmt, NULL), SQLITE_OK);
    int rc = sqlite3_step(stmt);
    assert_true(rc == SQLITE_ROW || rc == SQLITE_DONE);
    snprintf(text, sizeof text, "%s",
             rc == SQLITE_ROW ? (const char *)sqlite3_column_text(stmt, 0) : "");
    sqlite3_finalize(stmt);
    return text;
}

static void make(const char *name, const char *mode, int page_size, int rows)
{
    char sql[256];
    sqlite3 *db = open_db(name);
    snprintf(sql, sizeof sql, "PRAGMA page_size=%d", page_size);
    value(db, sql);
    snprintf(sql, sizeof sql, "PRAGMA journal_mode=%s", mode);
    assert_string_equal(value(db, sql), mode);
    value(db, "CREATE TABLE t(a)");
    snprintf(sql, sizeof sql,
             "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < %d) "
             "INSERT INTO t SELECT hex(i) || zeroblob(300) FROM n",
             rows);
    value(db, sql);
    sqlite3_close(db);
}

static void expect(const char *name, const char *mode, int page_size, int rows)
{
    sqlite3 *db = open_db(name);
    assert_string_equal(value(db, "PRAGMA journal_mode"), mode);
    assert_int_equal(atoi(value(db, "PRAGMA page_size")), page_size);
    assert_int_equal(atoi(value(db, "SELECT count(*) FROM t")), rows);
    assert_string_equal(value(db, "PRAGMA integrity_check"), "ok");
    sqlite3_close(db);
}

static void copy(const char *from, const char *to)
{
    int err = sqlite_copy(path(from), path(to), NULL, NULL, why, sizeof why);
    if (err)
        print_error("%s\n", why);
    assert_int_equal(err, 0);
}

static void a_new_database_gets_content_size_and_mode_of_its_source(void **state)
{
    static const char *const modes[] = {"wal", "delete"};
    static const int sizes[] = {512, 4096, 65536};
    (void)state;
    for (int m = 0; m < 2; m++) {
        for (int s = 0; s < 3; s++) {
            char from[32], to[32];
            struct sqlite_file file;
            snprintf(from, sizeof from, "from-%s-%d", modes[m], sizes[s]);
            snprintf(to, sizeof to, "to-%s-%d", modes[m], sizes[s]);
            make(from, modes[m], sizes[s], 1000);
            assert_int_equal(sqlite_examine(path(from), &file, why, sizeof why), 0);
            assert_int_equal(file.page_size, sizes[s]);
            assert_int_equal(file.wal, m == 0);
            copy(from, to);
            expect(to, modes[m], sizes[s], 1000);
        }
    }
}

static void an_existing_database_keeps_its_mode_whatever_the_page_sizes(void **state)
{
    static const char *const modes[] = {"wal", "delete"};
    (void)state;
    for (int from_mode = 0; from_mode < 2; from_mode++) {
        for (int to_mode = 0; to_mode < 2; to_mode++) {
            for (int size = 1024; size <= 8192; size *= 8) {
                unlink(path("from"));
                unlink(path("to"));
                make("from", modes[from_mode], size, 500);
                make("to", modes[to_mode], 1024, 2000);
                copy("from", "to");
                expect("to", modes[to_mode], size, 500);
            }
        }
    }
}

static void a_database_in_use_is_replaced_under_its_readers(void **state)
{
    (void)state;
    make("from", "delete", 4096, 10);
    make("to", "wal", 4096, 20);
    sqlite3 *reader = open_db("to");
    value(reader, "BEGIN");
    assert_int_equal(atoi(value(reader, "SELECT count(*) FROM t")), 20);
    copy("from", "to");
    assert_int_equal(atoi(value(reader, "SELECT count(*) FROM t")), 20); /* its snapshot */
    value(reader, "COMMIT");
    assert_int_equal(atoi(value(reader, "SELECT count(*) FROM t")), 10);
    sqlite3_close(reader);
}

static void another_page_size_under_a_reader_is_refused_and_changes_nothing(void **state)
{
    (void)state;
    make("from", "delete", 8192, 10);
    make("to", "wal", 4096, 20);
    sqlite3 *reader = open_db("to");
    value(reader, "BEGIN");
    value(reader, "SELECT count(*) FROM t");
    assert_int_equal(sqlite_copy(path("from"), path("to"), NULL, NULL, why, sizeof why), -ERR_BUSY);
    assert_non_null(strstr(why, path("to")));
    sqlite3_close(reader);
    expect("to", "wal", 4096, 20);
}

static void what_is_no_database_is_refused_with_a_sentence(void **state)
{
    struct sqlite_file file;
    char bytes[4096];
    (void)state;
    memset(bytes, 0x5a, sizeof bytes);
    int fd = open(path("garbage"), O_WRONLY | O_CREAT, 0600);
    assert_int_equal(write(fd, bytes, sizeof bytes), sizeof bytes);
    close(fd);
    close(open(path("empty"), O_WRONLY | O_CREAT, 0600));
    mkdir(path("folder"), 0700);
    make("good", "delete", 4096, 100);
    char command[300];
    snprintf(command, sizeof command, "head -c 50 %s > %s", path("good"), path("short"));
    assert_int_equal(system(command), 0);
    /* A header that is right before a file that is not. */
    snprintf(command, sizeof command, "(head -c 100 %s; head -c 9000 /dev/zero) > %s", path("good"),
             path("hollow"));
    assert_int_equal(system(command), 0);
    static const char *const names[] = {"garbage", "empty", "folder", "short", "hollow", "nothing"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        why[0] = '\0';
        assert_int_equal(sqlite_examine(path(names[i]), &file, why, sizeof why), -ERR_INVALID);
        assert_true(strlen(why) > 10);
    }
}

int main(void)
{
#define IN_A_FOLDER(f) cmocka_unit_test_setup_teardown(f, enter, leave)
    const struct CMUnitTest tests[] = {
        IN_A_FOLDER(a_new_database_gets_content_size_and_mode_of_its_source),
        IN_A_FOLDER(an_existing_database_keeps_its_mode_whatever_the_page_sizes),
        IN_A_FOLDER(a_database_in_use_is_replaced_under_its_readers),
        IN_A_FOLDER(another_page_size_under_a_reader_is_refused_and_changes_nothing),
        IN_A_FOLDER(what_is_no_database_is_refused_with_a_sentence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
