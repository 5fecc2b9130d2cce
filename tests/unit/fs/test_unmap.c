/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "fs/db/catalog.h"
#include "fs/db/database.h"
#include "fs/db/unmap.h"
#include "ltx/base/clock.h"
#include "ltx/base/logger.h"
#include "ltx/base/thread.h"
#include "tests/lib/fsnode.h"
#include "tests/lib/scratch.h"
#include "tests/lib/sql.h"

/* What is mapped of -shm is unmapped only while no client has it open. */

#define SIZE 32768
#define ROUNDS 20000

static char root[SCRATCH_PATH_MAX];
static struct fsnode node;
static struct database *db;

static int begin(void **state)
{
    (void)state;
    scratch_make(root);
    fsnode_open(&node, root, false);
    db = catalog_get(node.catalog, "app.db");
    return db ? 0 : -1;
}

static int end(void **state)
{
    (void)state;
    catalog_put(db);
    fsnode_close(&node);
    scratch_remove(root);
    return 0;
}

static void *map(void)
{
    void *p = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(p != MAP_FAILED);
    return p;
}

static bool is_mapped(void *p)
{
    unsigned char pages[SIZE / 4096];
    return mincore(p, SIZE, pages) == 0;
}

static bool maps_shm(void)
{
    char line[600];
    bool found = false;
    FILE *f = fopen("/proc/self/maps", "re");
    assert_non_null(f);
    while (!found && fgets(line, sizeof line, f))
        found = strstr(line, root) && strstr(line, "-shm");
    fclose(f);
    return found;
}

static void a_mapping_waits_until_no_client_has_the_file_open(void **state)
{
    (void)state;
    void *first = map(), *second = map();
    unmap(db, first, SIZE);
    assert_false(is_mapped(first));
    unsigned one = database_opened(db, FILE_SHM, false), two = database_opened(db, FILE_SHM, false);
    unmap(db, second, SIZE);
    database_released(db, FILE_SHM, one, false);
    unmap_waiting(db);
    assert_true(is_mapped(second));
    database_released(db, FILE_SHM, two, false);
    assert_true(is_mapped(second));
    unmap_waiting(db);
    assert_false(is_mapped(second));
}

static void what_sqlite_unmaps_waits_as_well(void **state)
{
    (void)state;
    unmap_enter(db);
    sqlite3 *conn = sql_open(fsnode_path(&node, "app.db"), NULL);
    sql_do(conn, "PRAGMA journal_mode=WAL; CREATE TABLE t(a)");
    assert_true(maps_shm());
    unsigned file = database_opened(db, FILE_SHM, false);
    sql_close(conn);
    unmap_leave();
    assert_true(maps_shm());
    database_released(db, FILE_SHM, file, false);
    unmap_waiting(db);
    assert_false(maps_shm());
    /* Other connections of the process are as they were. */
    conn = sql_open(fsnode_path(&node, "app.db"), NULL);
    sql_do(conn, "INSERT INTO t VALUES(1)");
    file = database_opened(db, FILE_SHM, false);
    sql_close(conn);
    assert_false(maps_shm());
    database_released(db, FILE_SHM, file, false);
}

static void unmap_much(void *arg)
{
    (void)arg;
    for (int i = 0; i < ROUNDS; i++)
        unmap(db, map(), SIZE);
}

/* Nobody waits for ever, and in the end nothing is mapped. */
static void clients_come_and_go_meanwhile(void **state)
{
    (void)state;
    struct thread threads[2];
    for (int i = 0; i < 2; i++)
        assert_int_equal(thread_start(&threads[i], "unmap", unmap_much, NULL), 0);
    for (int i = 0; i < ROUNDS; i++) {
        database_released(db, FILE_SHM, database_opened(db, FILE_SHM, false), false);
        unmap_waiting(db);
    }
    for (int i = 0; i < 2; i++)
        thread_join(&threads[i]);
    unmap_waiting(db);
    void *last = map();
    unmap(db, last, SIZE);
    assert_false(is_mapped(last));
}

int main(void)
{
    logger_configure(LOGGER_ERROR + 1, false);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_mapping_waits_until_no_client_has_the_file_open, begin,
                                        end),
        cmocka_unit_test_setup_teardown(what_sqlite_unmaps_waits_as_well, begin, end),
        cmocka_unit_test_setup_teardown(clients_come_and_go_meanwhile, begin, end),
    };
    if (getenv("TEST_FILTER"))
        cmocka_set_test_filter(getenv("TEST_FILTER"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
