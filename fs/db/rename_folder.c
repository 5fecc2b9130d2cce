/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "fs/db/capture_pages.h"
#include "fs/db/catalog_impl.h"
#include "fs/db/database_impl.h"
#include "fs/db/raw.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"
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

static bool is_below(const struct database *db, const char *folder)
{
    size_t n = strlen(folder);
    return strncmp(db->path, folder, n) == 0 && db->path[n] == '/';
}

static void disappeared(struct database *db)
{
    mutex_lock(&db->mutex);
    for (enum file_kind k = FILE_MAIN; k < FILE_KIND_COUNT; k++)
        database_file_gone(db, k);
    mutex_unlock(&db->mutex);
    database_has_moved_away(db);
}

int catalog_folder_will_move(struct catalog *c, const char *from)
{
    size_t count;
    int err = 0;
    struct database **all = catalog_all(c, &count);
    if (!all)
        return -ERR_NOMEM;
    for (size_t i = 0; !err && i < count; i++)
        if (is_below(all[i], from))
            err = database_will_move(all[i]);
    catalog_put_all(all, count);
    return err;
}

int catalog_folder_renamed(struct catalog *c, const char *from, const char *to)
{
    size_t count;
    char parent[DATABASE_PATH_MAX];
    const char *slash = strrchr(to, '/');
    snprintf(parent, sizeof parent, "%.*s", slash ? (int)(slash - to) : 1, slash ? to : ".");
    int err = file_sync_dir(c->tree_dirfd, parent);
    if (err)
        log_error("fs", "the folder of %s cannot be synced: %s", to, err_text(err));
    struct database **all = catalog_all(c, &count);
    if (!all)
        return -ERR_NOMEM;
    for (size_t i = 0; i < count; i++)
        if (is_below(all[i], from))
            disappeared(all[i]);
    catalog_put_all(all, count);
    struct renamed r = {.catalog = c, .to = to, .to_len = strlen(to)};
    err = tree_walk(c->tree_dirfd, FILE_MAIN, appeared, &r);
    catalog_poke(c);
    return err;
}
