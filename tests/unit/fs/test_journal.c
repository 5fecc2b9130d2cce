/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "fs/db/journal.h"
#include "ltx/base/bytes.h"
#include "ltx/base/file.h"
#include "tests/lib/dice.h"
#include "tests/lib/scratch.h"
#include "tests/lib/sql.h"

#define FILE_MAX (4 * 1024 * 1024)

static char root[SCRATCH_PATH_MAX];
static char path[SCRATCH_PATH_MAX + 8], journal_path[SCRATCH_PATH_MAX + 24];

static int make_folder(void **state)
{
    (void)state;
    scratch_make(root);
    snprintf(path, sizeof path, "%s/a.db", root);
    snprintf(journal_path, sizeof journal_path, "%s-journal", path);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    scratch_remove(root);
    return 0;
}

struct bytes {
    uint8_t *data;
    size_t size;
};

static struct bytes read_file(const char *name)
{
    struct bytes b = {.data = malloc(FILE_MAX)};
    int fd;
    assert_int_equal(file_open(AT_FDCWD, name, O_RDONLY, 0, &fd), 0);
    assert_int_equal(file_read_some(fd, b.data, FILE_MAX, 0, &b.size), 0);
    assert_true(b.size < FILE_MAX);
    file_close(fd);
    return b;
}

static void write_file(const char *name, const void *data, size_t size)
{
    int fd;
    assert_int_equal(file_open(AT_FDCWD, name, O_RDWR | O_CREAT | O_TRUNC, 0600, &fd), 0);
    assert_int_equal(file_write(fd, data, size, 0), 0);
    file_close(fd);
}

static void make_database(uint32_t page_size, unsigned rows)
{
    sqlite3 *db = sql_open(path, NULL);
    sql_do(db, "PRAGMA page_size=%u; CREATE TABLE t(a INTEGER PRIMARY KEY, b); BEGIN", page_size);
    for (unsigned i = 0; i < rows; i++)
        sql_do(db, "INSERT INTO t(b) VALUES(randomblob(%u))", page_size / 3);
    sql_do(db, "COMMIT");
    sql_close(db);
}

/* A process dies in the middle of a transaction that its small cache has written in part. */
static void die_in_transaction(const char *pragmas, unsigned times)
{
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        sqlite3 *db = sql_open(path, NULL);
        sql_do(db, "PRAGMA cache_size=6; %s; BEGIN", pragmas);
        for (unsigned i = 0; i < times; i++)
            sql_do(db,
                   "UPDATE t SET b = randomblob(length(b)) WHERE a %% %u = 0;"
                   "INSERT INTO t(b) VALUES(randomblob(300))",
                   i + 1);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static int put(void *ctx, uint32_t pgno, const void *page, uint32_t page_size)
{
    return file_write(*(int *)ctx, page, page_size, (int64_t)(pgno - 1) * page_size);
}

static int resize(void *ctx, uint32_t page_count, uint32_t page_size)
{
    return file_truncate(*(int *)ctx, (int64_t)page_count * page_size);
}

/* Plays the journal back into the database. How many pages. */
static uint32_t play_back(void)
{
    uint32_t pages;
    int fd = open(path, O_RDWR | O_CLOEXEC), journal = open(journal_path, O_RDONLY | O_CLOEXEC);
    struct journal_target target = {.put = put, .resize = resize, .ctx = &fd};
    assert_true(fd >= 0 && journal >= 0);
    assert_int_equal(journal_play_back(journal, target, &pages), 0);
    close(fd);
    close(journal);
    return pages;
}

static bool is_hot(void)
{
    int fd = open(journal_path, O_RDONLY | O_CLOEXEC);
    bool hot;
    assert_int_equal(journal_look(fd, &hot), 0);
    close(fd);
    return hot;
}

static unsigned count_segments(void)
{
    struct bytes b = read_file(journal_path);
    unsigned n = 0;
    for (size_t off = 0; off + 8 <= b.size; off += 512)
        n += memcmp(b.data + off, JOURNAL_MAGIC, 8) == 0;
    free(b.data);
    return n;
}

static void assert_restored(struct bytes before)
{
    struct bytes now = read_file(path);
    assert_int_equal(now.size, before.size);
    assert_memory_equal(now.data, before.data, now.size);
    free(now.data);
}

static void an_unfinished_transaction_is_undone(void **state)
{
    (void)state;
    static const char *const pragmas[] = {"PRAGMA synchronous=FULL", "PRAGMA synchronous=OFF",
                                          "PRAGMA synchronous=NORMAL"};
    for (unsigned i = 0; i < 8; i++) {
        make_database(512u << i, 60);
        struct bytes before = read_file(path);
        die_in_transaction(pragmas[i % 3], 4);
        assert_true(is_hot());
        struct bytes after = read_file(path);
        assert_true(after.size != before.size || memcmp(after.data, before.data, before.size) != 0);
        assert_true(play_back() > 5);
        assert_restored(before);
        free(before.data);
        free(after.data);
        unlink(path);
        unlink(journal_path);
    }
}

static void a_journal_of_several_segments_is_played_back_whole(void **state)
{
    (void)state;
    make_database(1024, 300);
    struct bytes before = read_file(path);
    die_in_transaction("PRAGMA synchronous=FULL", 8);
    assert_true(count_segments() > 3);
    assert_true(play_back() > 50);
    assert_restored(before);
    free(before.data);
}

/* SQLite and we agree, whatever became of the journal. */
static void a_damaged_journal_ends_where_sqlite_says(void **state)
{
    (void)state;
    make_database(1024, 120);
    die_in_transaction("PRAGMA synchronous=FULL", 5);
    struct bytes torn = read_file(path), journal = read_file(journal_path);
    for (unsigned i = 0; i < 60; i++) {
        size_t size = i % 2 ? journal.size : 40 + dice_u64() % journal.size;
        uint8_t *changed = malloc(size);
        memset(changed, 0, size);
        memcpy(changed, journal.data, size < journal.size ? size : journal.size);
        if (i % 2) /* not the header: SQLite judges page size and sector size by more than we do */
            changed[512 + dice_u64() % (size - 512)] ^= (uint8_t)(1 + dice_below(255));
        write_file(journal_path, changed, size);
        play_back();
        struct bytes ours = read_file(path);

        write_file(path, torn.data, torn.size);
        sqlite3 *db = sql_open(path, NULL);
        sqlite3_exec(db, "SELECT * FROM t", NULL, NULL, NULL);
        sqlite3_close(db);
        assert_int_equal(access(journal_path, F_OK), -1);
        struct bytes theirs = read_file(path);
        assert_int_equal(ours.size, theirs.size);
        assert_memory_equal(ours.data, theirs.data, ours.size);
        write_file(path, torn.data, torn.size);
        free(changed);
        free(ours.data);
        free(theirs.data);
    }
    free(torn.data);
    free(journal.data);
}

static void garbage_is_no_journal(void **state)
{
    (void)state;
    static uint8_t bytes[20000];
    make_database(1024, 20);
    struct bytes before = read_file(path);
    for (unsigned i = 0; i < 40; i++) {
        dice_fill(bytes, sizeof bytes);
        if (i % 2) /* a header whose numbers make no sense, and what follows neither */
            memcpy(bytes, JOURNAL_MAGIC, 8);
        write_file(journal_path, bytes, dice_below(sizeof bytes));
        if (i % 2 == 0)
            assert_false(is_hot());
        assert_int_equal(play_back(), 0);
        assert_restored(before);
    }
    free(before.data);
}

static void a_kept_journal_is_not_hot(void **state)
{
    (void)state;
    make_database(1024, 100);
    sqlite3 *db = sql_open(path, NULL);
    sql_do(db, "PRAGMA journal_mode=PERSIST; UPDATE t SET b = randomblob(300)");
    sql_close(db);
    struct bytes before = read_file(path);
    assert_int_equal(access(journal_path, F_OK), 0);
    assert_false(is_hot());
    assert_int_equal(play_back(), 0);
    assert_restored(before);

    /* A shorter transaction dies over what the longer one left in the journal. */
    die_in_transaction("PRAGMA journal_mode=PERSIST; PRAGMA synchronous=FULL", 1);
    assert_true(is_hot());
    play_back();
    assert_restored(before);
    free(before.data);
}

static void no_file_is_not_hot(void **state)
{
    (void)state;
    write_file(journal_path, "", 0);
    assert_false(is_hot());
    write_file(journal_path, JOURNAL_MAGIC, 7);
    assert_false(is_hot());
}

#define in_folder(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        in_folder(an_unfinished_transaction_is_undone),
        in_folder(a_journal_of_several_segments_is_played_back_whole),
        in_folder(a_damaged_journal_ends_where_sqlite_says),
        in_folder(garbage_is_no_journal),
        in_folder(a_kept_journal_is_not_hot),
        in_folder(no_file_is_not_hot),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
