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

#include "fs/db/locks.h"
#include "ltx/base/err.h"
#include "tests/lib/scratch.h"
#include "tests/lib/sql.h"

/* Our locks against those of SQLite in another process. */

static char root[SCRATCH_PATH_MAX];
static char path[SCRATCH_PATH_MAX + 8];

static int make_folder(void **state)
{
    (void)state;
    scratch_make(root);
    snprintf(path, sizeof path, "%s/a.db", root);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    scratch_remove(root);
    return 0;
}

/* A process with a connection, which does one statement for each that it is sent. */
struct client {
    pid_t pid;
    int to, from;
};

static void serve(int in, int out)
{
    sqlite3 *db = sql_open(path, NULL);
    sqlite3_busy_timeout(db, 0);
    char text[256];
    for (ssize_t n; (n = read(in, text, sizeof text - 1)) > 0;) {
        text[n] = '\0';
        if (strcmp(text, "end") == 0)
            break;
        int rc = sqlite3_exec(db, text, NULL, NULL, NULL) & 0xff;
        if (write(out, &rc, sizeof rc) != sizeof rc)
            break;
    }
    _exit(0);
}

static struct client start_client(void)
{
    int to[2], from[2];
    assert_int_equal(pipe(to), 0);
    assert_int_equal(pipe(from), 0);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        close(to[1]);
        close(from[0]);
        serve(to[0], from[1]);
    }
    close(to[0]);
    close(from[1]);
    return (struct client){.pid = pid, .to = to[1], .from = from[0]};
}

static int ask(struct client *c, const char *text)
{
    int rc;
    dprintf(c->to, "%s", text);
    assert_int_equal(read(c->from, &rc, sizeof rc), sizeof rc);
    return rc;
}

static void end_client(struct client *c)
{
    dprintf(c->to, "end");
    close(c->to);
    close(c->from);
    waitpid(c->pid, NULL, 0);
}

static void make_database(const char *mode)
{
    sqlite3 *db = sql_open(path, NULL);
    sql_do(db, "PRAGMA journal_mode=%s; CREATE TABLE t(x); INSERT INTO t VALUES(1)", mode);
    sql_close(db);
}

static void a_reader_and_our_shared_lock_get_along(void **state)
{
    (void)state;
    make_database("DELETE");
    struct client c = start_client();
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_int_equal(ask(&c, "BEGIN; SELECT * FROM t"), SQLITE_OK);
    assert_int_equal(lock_database_shared(fd), 0);
    assert_int_equal(lock_database_exclusive(fd), -ERR_BUSY);
    lock_database_release(fd);
    assert_int_equal(ask(&c, "COMMIT"), SQLITE_OK);
    /* A writer may prepare while we read, and not commit. */
    assert_int_equal(lock_database_shared(fd), 0);
    assert_int_equal(ask(&c, "BEGIN; INSERT INTO t VALUES(2)"), SQLITE_OK);
    assert_int_equal(ask(&c, "COMMIT"), SQLITE_BUSY);
    lock_database_release(fd);
    assert_int_equal(ask(&c, "COMMIT"), SQLITE_OK);
    close(fd);
    end_client(&c);
}

static void a_writer_keeps_us_out(void **state)
{
    (void)state;
    make_database("DELETE");
    struct client c = start_client();
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_int_equal(ask(&c, "BEGIN EXCLUSIVE"), SQLITE_OK);
    assert_int_equal(lock_database_shared(fd), -ERR_BUSY);
    assert_int_equal(lock_database_exclusive(fd), -ERR_BUSY);
    assert_int_equal(ask(&c, "COMMIT"), SQLITE_OK);
    assert_int_equal(lock_database_shared(fd), 0);
    close(fd);
    end_client(&c);
}

static void our_exclusive_lock_keeps_clients_out(void **state)
{
    (void)state;
    make_database("DELETE");
    struct client c = start_client();
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_int_equal(lock_database_exclusive(fd), 0);
    assert_int_equal(ask(&c, "SELECT * FROM t"), SQLITE_BUSY);
    assert_int_equal(ask(&c, "INSERT INTO t VALUES(1)"), SQLITE_BUSY);
    /* Another descriptor of the file that is closed changes nothing. */
    close(open(path, O_RDONLY | O_CLOEXEC));
    assert_int_equal(ask(&c, "SELECT * FROM t"), SQLITE_BUSY);
    lock_database_release(fd);
    assert_int_equal(ask(&c, "INSERT INTO t VALUES(1)"), SQLITE_OK);
    close(fd);
    end_client(&c);
}

/* Readers that are in go on, new ones wait, and once the last has left we are in. */
static void what_was_got_is_kept_so_that_trying_again_makes_progress(void **state)
{
    (void)state;
    make_database("DELETE");
    struct client reader = start_client(), late = start_client();
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_int_equal(ask(&reader, "BEGIN; SELECT * FROM t"), SQLITE_OK);
    assert_int_equal(lock_database_exclusive(fd), -ERR_BUSY);
    assert_int_equal(ask(&late, "SELECT * FROM t"), SQLITE_BUSY);
    assert_int_equal(ask(&reader, "SELECT count(*) FROM t"), SQLITE_OK);
    assert_int_equal(ask(&reader, "COMMIT"), SQLITE_OK);
    assert_int_equal(lock_database_exclusive(fd), 0);
    lock_database_release(fd);
    assert_int_equal(ask(&late, "SELECT * FROM t"), SQLITE_OK);
    close(fd);
    end_client(&reader);
    end_client(&late);
}

static void the_write_lock_of_the_wal_index_is_sqlites(void **state)
{
    (void)state;
    char shm[SCRATCH_PATH_MAX + 16];
    make_database("WAL");
    struct client c = start_client();
    assert_int_equal(ask(&c, "SELECT * FROM t"), SQLITE_OK);
    snprintf(shm, sizeof shm, "%s-shm", path);
    int fd = open(shm, O_RDWR | O_CLOEXEC);
    assert_int_equal(lock_exclusive(fd, LOCK_SHM_WRITE, 1), 0);
    assert_int_equal(ask(&c, "SELECT * FROM t"), SQLITE_OK); /* readers do not care */
    assert_int_equal(ask(&c, "INSERT INTO t VALUES(1)"), SQLITE_BUSY);
    assert_int_equal(lock_release(fd, LOCK_SHM_WRITE, 1), 0);
    assert_int_equal(ask(&c, "BEGIN IMMEDIATE"), SQLITE_OK);
    assert_int_equal(lock_exclusive(fd, LOCK_SHM_WRITE, 1), -ERR_BUSY);
    assert_int_equal(ask(&c, "COMMIT"), SQLITE_OK);
    /* A reader of the WAL holds one of the read marks. */
    assert_int_equal(ask(&c, "INSERT INTO t VALUES(1); BEGIN; SELECT * FROM t"), SQLITE_OK);
    assert_int_equal(lock_exclusive(fd, LOCK_SHM_READ(1), 4), -ERR_BUSY);
    assert_int_equal(ask(&c, "COMMIT"), SQLITE_OK);
    assert_int_equal(lock_exclusive(fd, LOCK_SHM_READ(1), 4), 0);
    close(fd);
    end_client(&c);
}

#define in_folder(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        in_folder(a_reader_and_our_shared_lock_get_along),
        in_folder(a_writer_keeps_us_out),
        in_folder(our_exclusive_lock_keeps_clients_out),
        in_folder(what_was_got_is_kept_so_that_trying_again_makes_progress),
        in_folder(the_write_lock_of_the_wal_index_is_sqlites),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
