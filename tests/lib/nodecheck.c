/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/nodecheck.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "ltx/base/err.h"
#include "tests/lib/logcopy.h"
#include "tests/lib/sql.h"

char nodecheck_what[500];

static bool is_there(struct fsnode *n, const char *name)
{
    struct stat st;
    return stat(fsnode_path(n, name), &st) == 0 && st.st_size > 0;
}

/* In words; NULL: it is broken. To be freed. */
static char *content_of(struct fsnode *n, const char *name)
{
    sqlite3 *reader = sql_open(fsnode_path(n, name), "tap");
    char *said = sql_text(reader, "PRAGMA integrity_check"), *all = NULL;
    if (strcmp(said, "ok") == 0) {
        char *schema = sql_text(reader, "SELECT group_concat(name) FROM sqlite_schema");
        char *rows =
            strstr(schema, "t") == NULL
                ? strdup("")
                : sql_text(reader, "SELECT group_concat(a || ' ' || k || ' ' || length(b)) "
                                   "FROM t");
        /* A database without a table is no different from none. */
        if (*schema == '\0')
            all = strdup("");
        else if (asprintf(&all, "%s: %s: %s\n", name, schema, rows) < 0)
            all = NULL;
        free(schema);
        free(rows);
    }
    free(said);
    sql_close(reader);
    return all;
}

char *nodecheck_content(struct fsnode *n, const char *const *names)
{
    char *all = strdup("");
    for (; *names; names++) {
        if (!is_there(n, *names))
            continue;
        char *one = content_of(n, *names), *more = NULL;
        if (!one || asprintf(&more, "%s%s", all, one) < 0)
            more = strdup(NODECHECK_BROKEN);
        free(all);
        free(one);
        all = more;
        if (strcmp(all, NODECHECK_BROKEN) == 0)
            break;
    }
    return all;
}

bool nodecheck_log_has_failed(struct fsnode *n)
{
    for (uint32_t i = 0; i < store_count(n->store); i++)
        if (txlog_reserve(ledger_log(store_at(n->store, i)), 1) == -ERR_IO)
            return true;
    return false;
}

static void check_one(struct fsnode *n, const char *name, const char *when)
{
    struct ledger *l = fsnode_ledger(n, name);
    struct ledger_info info = {0};
    struct logcopy copy;
    size_t size;
    bool there = is_there(n, name);
    if (l)
        ledger_info(l, &info);
    if (info.damaged)
        fail_msg("%s: %s: %s is damaged: %s", nodecheck_what, when, name, info.damage);
    if (there != (info.commit > 0))
        fail_msg("%s: %s: %s is %s, and its log says otherwise", nodecheck_what, when, name,
                 there ? "there" : "not there");
    if (!there || info.first.txid > 0)
        return;
    sqlite3 *reader = sql_open(fsnode_path(n, name), "tap");
    uint8_t *bytes = sql_bytes(reader, "main", &size);
    logcopy_open(&copy);
    logcopy_advance(&copy, l);
    if (!logcopy_equals(&copy, bytes, size))
        fail_msg("%s: %s: the log of %s is not what SQLite sees", nodecheck_what, when, name);
    logcopy_close(&copy);
    sqlite3_free(bytes);
    sql_close(reader);
}

void nodecheck_file_is_log(struct fsnode *n, const char *const *names, const char *when)
{
    free(nodecheck_content(n, names)); /* the first to read rolls back what a client has left */
    fsnode_settle(n);
    for (; *names; names++)
        check_one(n, *names, when);
}

void nodecheck_can_write(struct fsnode *n, const char *name, const char *when)
{
    sqlite3 *client = sql_open(fsnode_path(n, name), "tap");
    uint64_t before = fsnode_txid(n, name);
    int rc = sql_try(client, "CREATE TABLE after(x)");
    if (rc != SQLITE_OK)
        fail_msg("%s: %s: no transaction is possible: %s", nodecheck_what, when,
                 sqlite3_errmsg(client));
    fsnode_settle(n);
    if (fsnode_txid(n, name) <= before)
        fail_msg("%s: %s: the log did not take the next transaction", nodecheck_what, when);
    sql_do(client, "DROP TABLE after");
    sql_close(client);
}
