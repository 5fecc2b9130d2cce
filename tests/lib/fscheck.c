/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/fscheck.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <fcntl.h>
#include <unistd.h>

#include <cmocka.h>

#include "fs/db/database_impl.h"
#include "ltx/base/err.h"
#include "tests/lib/sql.h"

sqlite3 *fscheck_make(struct fsnode *n, const char *name, const char *journal_mode)
{
    sqlite3 *db = sql_open(fsnode_path(n, name), "tap");
    sql_do(db, "PRAGMA journal_mode=%s; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(x)",
           journal_mode);
    for (unsigned i = 0; i < 20; i++)
        sql_do(db, "INSERT INTO t VALUES(zeroblob(3000))");
    return db;
}

void fscheck_flip(const char *path, int64_t off)
{
    uint8_t byte;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, off), 1);
    byte ^= 0x10;
    assert_int_equal(pwrite(fd, &byte, 1, off), 1);
    close(fd);
}

bool fscheck_rest(void *ctx, int64_t us)
{
    (void)ctx;
    usleep((useconds_t)us);
    return false;
}

struct check_result fscheck_look_resting(struct fsnode *n, const char *name,
                                         bool (*rest_us)(void *ctx, int64_t us))
{
    struct check_options o = {.rest_us = rest_us};
    struct check_result r;
    struct database *db = catalog_get(n->catalog, name);
    int err = check_database(db, &o, &r);
    catalog_put(db);
    if (err != 0)
        fail_msg("it cannot be checked: %s", err_text(err));
    return r;
}

struct check_result fscheck_look(struct fsnode *n, const char *name)
{
    return fscheck_look_resting(n, name, fscheck_rest);
}

void fscheck_need_right(struct fsnode *n, const char *name)
{
    struct check_result r = fscheck_look(n, name);
    assert_int_equal(r.bad, 0);
    assert_int_equal(r.undecided, 0);
    assert_int_equal(r.log_faults, 0);
    assert_true(r.ended_ms > 0);
}

uint32_t fscheck_bad_pages(struct fsnode *n, const char *name)
{
    struct ledger_info info;
    ledger_info(fsnode_ledger(n, name), &info);
    return info.bad;
}
