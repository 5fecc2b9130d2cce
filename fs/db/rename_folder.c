/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "fs/db/capture_pages.h"
#include "fs/db/catalog_impl.h"
#include "fs/db/database_impl.h"
#include "fs/db/raw.h"
#include "ltx/base/err.h"
#include "ltx/base/logger.h"

/*
 * A folder got another name, and so has every database below it: deleted under the old name, there
 * with all its pages under the new one.
 */

struct renamed {
    struct catalog *catalog;
    const char *to;
    size_t to_len;
};

static int appeared(void *ctx, const char *path)
{
    struct renamed *r = ctx;
    if (strncmp(path, r->to, r->to_len) != 0 || path[r->to_len] != '/')
        return 0;
    struct database *db = catalog_get(r->catalog, path);
    if (!db)
        return -ERR_NOMEM;
    mutex_lock(&db->mutex);
    database_close_files(db);
    raw_note(db);
    int err = capture_pages(db, CAPTURE_QUIET);
    mutex_unlock(&db->mutex);
    if (err)
        log_warn("capture", "%s: not recorded under its new name yet: %s", path, err_text(err));
    catalog_put(db);
    return 0; /* it stays dirty: the settler tries again */
}

static void disappeared(struct database *db)
{
    mutex_lock(&db->mutex);
    for (enum file_kind k = FILE_MAIN; k < FILE_KIND_COUNT; k++)
        database_file_gone(db, k);
    capture_wal_reset(db);
    database_close_files(db);
    if (capture_deletion(db) == 0)
        dirty_clear(&db->dirty);
    else
        db->dirty.all = true;
    mutex_unlock(&db->mutex);
}

int catalog_folder_renamed(struct catalog *c, const char *from, const char *to)
{
    size_t count, n = strlen(from);
    struct database **all = catalog_all(c, &count);
    if (!all)
        return -ERR_NOMEM;
    for (size_t i = 0; i < count; i++)
        if (strncmp(all[i]->path, from, n) == 0 && all[i]->path[n] == '/')
            disappeared(all[i]);
    catalog_put_all(all, count);
    struct renamed r = {.catalog = c, .to = to, .to_len = strlen(to)};
    int err = tree_walk(c->tree_dirfd, appeared, &r);
    catalog_poke(c);
    return err;
}
