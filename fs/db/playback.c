/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/db/playback.h"

#include <fcntl.h>
#include <stdlib.h>

#include "fs/db/freelist.h"
#include "fs/db/super.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/base/logger.h"

/*
 * What a transaction that has no record began with is what the last record left. A journal may be of an
 * earlier one all the same, or of several: that a commit has finished it need not be on disk, and
 * what the next one has written over it may be there in part. What an earlier one has changed is redone.
 */
static int put_back(void *ctx, uint32_t pgno, const void *page, uint32_t page_size)
{
    struct playback *p = ctx;
    dirty_add_page(&p->touched, pgno);
    if (p->ledger && checksum_page(pgno, page, page_size) != ledger_page_sum(p->ledger, pgno))
        return 0;
    return file_write(p->fd, page, page_size, (int64_t)(pgno - 1) * page_size);
}

static int put_size_back(void *ctx, uint32_t page_count, uint32_t page_size)
{
    struct playback *p = ctx;
    return file_truncate(p->fd, (int64_t)page_count * page_size);
}

static int play(struct database *db, struct playback *p, uint32_t *pages)
{
    char path[DATABASE_PATH_MAX];
    bool gone = false;
    int fd;
    database_file_path(db, FILE_JOURNAL, path);
    int err = file_open(database_tree(db), path, O_RDONLY | O_NOFOLLOW, 0, &fd);
    if (err)
        return err == -ERR_NOTFOUND ? 0 : err;
    err = journal_look(fd, &p->hot);
    if (!err && p->hot)
        err = super_is_pending(db->catalog, path, fd, &p->together, &gone);
    /* It has ended. What a record has brought is not put back, and if nobody knows what that is, nothing. */
    if (!err && p->hot && !(gone && !p->ledger))
        err = journal_play_back(
            fd, (struct journal_target){.put = put_back, .resize = put_size_back, .ctx = p}, pages);
    file_close(fd);
    return err;
}

int playback_run(struct database *db, struct playback *p)
{
    uint32_t pages = 0;
    int err = play(db, p, &pages);
    if (p->hot && !err)
        log_info("recover",
                 "%s: %u pages of an unfinished transaction were put back from its journal",
                 db->path, pages);
    return err;
}

int playback_together(struct database *db, struct playback *p)
{
    uint32_t pages = 0;
    p->ledger = NULL;
    return play(db, p, &pages);
}

/* Pages that differ from the ledger, and how many of them are unused. */
struct wrong {
    struct database *db;
    uint32_t page_size;
    struct dirty pages;
    uint32_t found;
};

static int is_wrong_leaf(void *ctx, uint32_t pgno)
{
    struct wrong *w = ctx;
    for (uint32_t i = 0; i < w->pages.len; i++)
        w->found += w->pages.pgno[i] == pgno;
    return 0;
}

static int read_for_wrong(void *ctx, uint32_t pgno, void *page)
{
    struct wrong *w = ctx;
    return database_read_main(w->db, w->page_size, pgno, page);
}

int playback_check(struct database *db, const struct ledger_info *info, struct dirty *touched)
{
    struct wrong wrong = {.db = db, .page_size = info->page_size};
    uint8_t *page = malloc(LTX_MAX_PAGE_SIZE);
    int err = page ? 0 : -ERR_NOMEM;
    dirty_sort(touched);
    for (uint32_t i = 0; !err && i < touched->len; i++) {
        uint32_t pgno = touched->pgno[i];
        if (pgno > info->commit)
            break;
        err = database_read_main(db, info->page_size, pgno, page);
        if (!err && checksum_page(pgno, page, info->page_size) != ledger_page_sum(db->ledger, pgno))
            dirty_add_page(&wrong.pages, pgno);
    }
    free(page);
    if (!err && wrong.pages.all) /* there was no room to note them */
        err = -ERR_NOMEM;
    if (!err && wrong.pages.len > 0) {
        struct freelist_walk walk = {.read = read_for_wrong, .visit = is_wrong_leaf, .ctx = &wrong};
        err = freelist_leaves(walk, info->page_size, info->commit);
        if (!err && wrong.found != wrong.pages.len)
            err = -ERR_CHECKSUM;
    }
    dirty_fini(&wrong.pages);
    return err;
}
