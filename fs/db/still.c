/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/db/still.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "fs/db/catalog_impl.h"
#include "fs/db/database_impl.h"
#include "ltx/base/bytes.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"

#define LOOK_MS 2 /* the end of an applier's round is no event */

int wal_list_frames(int fd, struct wal_header *header, uint32_t **pgno, uint32_t *frames)
{
    uint8_t head[WAL_HEADER_SIZE];
    size_t got;
    int64_t size = 0;
    *pgno = NULL;
    *frames = 0;
    int err = file_read_some(fd, head, sizeof head, 0, &got);
    if (!err)
        err = file_size(fd, &size);
    if (err || got < sizeof head || size <= WAL_HEADER_SIZE || !wal_header_parse(head, header))
        return err;
    uint32_t n = wal_frame_at(header->page_size, size) - 1;
    uint32_t *list = calloc((size_t)n + 1, sizeof *list);
    if (!list)
        return -ERR_NOMEM;
    for (uint32_t f = 1; !err && f <= n; f++) {
        err = file_read_some(fd, head, 16, wal_frame_offset(header->page_size, f), &got);
        if (!err && got == 16 && memcmp(head + 8, header->salt, sizeof header->salt) == 0)
            list[f - 1] = get_be32(head);
    }
    if (err) {
        free(list);
        return err;
    }
    *pgno = list;
    *frames = n;
    return 0;
}

/* May anything be said of this database at all? */
static int comparable(const struct ledger_info *info)
{
    if (info->damaged)
        return -ERR_DAMAGED;
    return info->last.txid == 0 || info->commit == 0 ? -ERR_NOTFOUND : 0;
}

/* ---- primary ---- */

/* Between two transactions of another kind than WAL, files may hold what has no record yet; what of
 * that is known page by page is looked at in still_compare. */
static bool explained(struct database *db)
{
    if (db->changing > 0 || db->demoted || db->raw || db->committing || db->leftover ||
        db->dirty.all || db->dirty.size)
        return false;
    /* Behind the closed gate the role changes, and with it what is known of the files. */
    if (role_enter(database_role(db)) != 0)
        return false;
    role_leave(database_role(db));
    return true;
}

static int begin_primary(struct still *s)
{
    struct database *db = s->db;
    mutex_lock(&db->mutex);
    int err = db->ledger ? 0 : -ERR_NOTFOUND;
    if (!err) {
        ledger_info(db->ledger, &s->info);
        err = comparable(&s->info);
    }
    if (!err && !explained(db))
        err = -ERR_BUSY;
    if (err)
        mutex_unlock(&db->mutex);
    return err;
}

static bool is_dirty(const struct database *db, uint32_t pgno)
{
    for (uint32_t i = 0; i < db->dirty.len; i++)
        if (db->dirty.pgno[i] == pgno)
            return true;
    return false;
}

/* ---- replica ---- */

static int open_files(struct still *s)
{
    char path[DATABASE_PATH_MAX];
    int tree = database_tree(s->db);
    database_file_path(s->db, FILE_MAIN, path);
    int err = file_open(tree, path, O_RDONLY | O_NOFOLLOW, 0, &s->main_fd);
    if (err)
        return err == -ERR_NOTFOUND ? 0 : err; /* every page is missing then */
    database_file_path(s->db, FILE_WAL, path);
    err = file_open(tree, path, O_RDONLY | O_NOFOLLOW, 0, &s->wal_fd);
    if (!err)
        err = wal_list_frames(s->wal_fd, &s->wal, &s->pgno, &s->frames);
    return err == -ERR_NOTFOUND ? 0 : err;
}

static void close_files(struct still *s)
{
    file_close(s->main_fd);
    file_close(s->wal_fd);
    free(s->pgno);
    s->main_fd = s->wal_fd = -1;
    s->pgno = NULL;
}

static int wait_applied(struct still *s, struct ledger *l, int64_t wait_ms)
{
    struct feed *feed = &store_feeds(database_store(s->db))->applied;
    struct mono start = mono_now();
    for (;;) {
        ledger_info(l, &s->info);
        int err = comparable(&s->info);
        if (err)
            return err;
        if (position_equal(s->info.last, s->info.applied) && !s->db->applying)
            return 0;
        if (mono_since_ms(start) >= wait_ms)
            return -ERR_BUSY;
        feed_wait(feed, feed_count(feed), LOOK_MS);
    }
}

static int begin_replica(struct still *s, int64_t wait_ms)
{
    struct ledger *l = catalog_ledger(s->db->catalog, s->db->path);
    if (!l)
        return -ERR_NOTFOUND;
    int err = txlog_hold(ledger_log(l));
    if (err)
        return err;
    err = wait_applied(s, l, wait_ms);
    if (!err)
        err = open_files(s);
    if (err) {
        close_files(s);
        txlog_let_go(ledger_log(l));
    }
    return err;
}

/* ---- both ---- */

int still_begin(struct still *s, struct database *db, int64_t wait_ms)
{
    *s = (struct still){.db = db, .primary = database_is_primary(db), .main_fd = -1, .wal_fd = -1};
    return s->primary ? begin_primary(s) : begin_replica(s, wait_ms);
}

bool still_end(struct still *s)
{
    bool same = database_is_primary(s->db) == s->primary;
    if (s->primary) {
        mutex_unlock(&s->db->mutex);
        return same;
    }
    close_files(s);
    txlog_let_go(ledger_log(catalog_ledger(s->db->catalog, s->db->path)));
    return same;
}

uint32_t still_place(struct still *s, uint32_t pgno)
{
    if (s->primary)
        return capture_wal_frame_of(s->db, pgno, false);
    uint32_t f = s->frames;
    while (f > 0 && s->pgno[f - 1] != pgno)
        f--;
    return f;
}

static int read_place(struct still *s, uint32_t pgno, uint32_t frame, void *page)
{
    uint32_t page_size = s->info.page_size;
    int wal_fd = s->primary ? s->db->wal_fd : s->wal_fd;
    size_t got = 0;
    if (frame)
        return file_read(wal_fd, page, page_size,
                         wal_frame_offset(page_size, frame) + WAL_FRAME_HEADER_SIZE);
    if (s->primary)
        return database_read_main(s->db, page_size, pgno, page);
    int err = s->main_fd < 0 ? 0
                             : file_read_some(s->main_fd, page, page_size,
                                              (int64_t)(pgno - 1) * page_size, &got);
    memset((uint8_t *)page + got, 0, page_size - got);
    return err;
}

int still_compare(struct still *s, uint32_t pgno, void *page)
{
    struct database *db = s->db;
    struct ledger *l = catalog_ledger(db->catalog, db->path);
    if (pgno == 0 || pgno > s->info.commit || pgno == ltx_lock_pgno(s->info.page_size))
        return 0;
    uint32_t frame = still_place(s, pgno);
    uint32_t in_wal = s->primary ? db->wal.header.page_size : s->wal.page_size;
    if (frame && in_wal != s->info.page_size)
        return -ERR_BUSY;
    int err = read_place(s, pgno, frame, page);
    if (!err && checksum_page(pgno, page, s->info.page_size) == ledger_page_sum(l, pgno))
        return 0;
    if (s->primary && is_dirty(db, pgno))
        return -ERR_BUSY;
    return err && err != -ERR_TRUNCATED ? err : -ERR_CHECKSUM;
}
