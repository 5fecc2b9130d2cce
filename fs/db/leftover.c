/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/db/leftover.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "fs/db/catalog_impl.h"
#include "fs/db/freelist.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/base/logger.h"

bool leftover_is_newer(struct database *db)
{
    char path[DATABASE_PATH_MAX];
    struct stat st;
    if (!db->catalog->same_boot || !ledger_is_unclean(db->ledger))
        return false;
    database_file_path(db, FILE_WAL, path);
    return fstatat(database_tree(db), path, &st, AT_SYMLINK_NOFOLLOW) != 0 || st.st_size == 0;
}

/* Marks a page that differs from the ledger as dirty. */
static int compare_page(struct database_pages *w, uint32_t pgno, uint8_t *page)
{
    if (pgno == ltx_lock_pgno(w->page_size))
        return 0;
    int err = database_read_main(w->db, w->page_size, pgno, page);
    if (!err && checksum_page(pgno, page, w->page_size) != ledger_page_sum(w->db->ledger, pgno))
        dirty_add_page(&w->db->dirty, pgno);
    return err;
}

static int compare_file(struct database *db, const struct ledger_info *info)
{
    struct database_pages w = {.db = db, .page_size = info->page_size};
    uint8_t *page = malloc(info->page_size);
    int err = page ? 0 : -ERR_NOMEM;
    for (uint32_t pgno = 1; !err && pgno <= info->commit; pgno++)
        err = compare_page(&w, pgno, page);
    free(page);
    return err;
}

static int compare_leaf(void *ctx, uint32_t pgno)
{
    uint8_t page[LTX_MAX_PAGE_SIZE];
    return compare_page(ctx, pgno, page);
}

static int compare_unused(struct database *db, uint32_t page_size, uint32_t page_count)
{
    struct database_pages w = {.db = db, .page_size = page_size};
    return freelist_leaves(
        (struct freelist_walk){.read = database_pages_read, .visit = compare_leaf, .ctx = &w},
        page_size, page_count);
}

/* The journal goes; a start after another crash must know of what is left. */
static int note_leftover(struct database *db)
{
    db->leftover = dirty_any(&db->dirty);
    return db->leftover ? ledger_set_unclean(db->ledger, true) : 0;
}

int leftover_take_in_unused(struct database *db, const struct ledger_info *info)
{
    int err = compare_unused(db, info->page_size, info->commit);
    return err ? err : note_leftover(db);
}

int leftover_take_in_undone(struct database *db, const struct ledger_info *info,
                            const struct dirty *touched, int64_t size)
{
    struct database_pages w = {.db = db, .page_size = info->page_size};
    uint8_t *page = malloc(info->page_size);
    int err = page ? 0 : -ERR_NOMEM;
    for (uint32_t i = 0; !err && i < touched->len; i++)
        err = compare_page(&w, touched->pgno[i], page);
    free(page);
    db->dirty.size = size != (int64_t)info->commit * info->page_size;
    db->dirty.all |= touched->all;
    if (!err)
        err = compare_unused(db, info->page_size, (uint32_t)(size / info->page_size));
    return err ? err : note_leftover(db);
}

/* A commit that shrinks the database cuts the file only afterwards. Page 1 tells whether it did. */
static int cut_tail(struct database *db, const struct ledger_info *info, int fd, int64_t *size)
{
    int64_t want = (int64_t)info->commit * info->page_size;
    uint8_t *page = malloc(info->page_size);
    int err = page ? database_read_main(db, info->page_size, 1, page) : -ERR_NOMEM;
    if (!err && *size > want &&
        checksum_page(1, page, info->page_size) == ledger_page_sum(db->ledger, 1)) {
        err = file_truncate(fd, want);
        *size = want;
    }
    free(page);
    return err;
}

int leftover_take_in(struct database *db, const struct ledger_info *info, int fd, int64_t size)
{
    int err = cut_tail(db, info, fd, &size);
    if (err)
        return err;
    if (size != (int64_t)info->commit * info->page_size)
        db->dirty.all = true;
    else
        err = compare_file(db, info);
    db->leftover = dirty_any(&db->dirty);
    if (db->leftover)
        log_warn("recover",
                 "%s: holds changes that have no record; they are recorded when this node is the "
                 "primary",
                 db->path);
    return err;
}

int leftover_take_in_absence(struct database *db)
{
    db->dirty.all = db->leftover = true;
    log_warn("recover", "%s: is gone; that is recorded when this node is the primary", db->path);
    return 0;
}
