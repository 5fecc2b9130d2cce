/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/base/logger.h"
#include "ltx/checksum.h"
#include "ltx/ledger_internal.h"

/*
 * From a folder to a ledger: the sums of S, and over them the records after S, must come to the
 * checksum of the last position (I6). If they do not, the ledger is opened all the same and says
 * that it is damaged: its log may still be what the cluster needs.
 */

static struct ledger *new_ledger(const struct ledger_options *o)
{
    struct ledger *l = calloc(1, sizeof *l);
    if (l == NULL)
        return NULL;
    mutex_init(&l->mutex, RANK_LEDGER);
    cond_init(&l->saved);
    l->dirfd = -1;
    l->data_dirfd = o->data_dirfd;
    l->feeds = o->feeds;
    l->node_id = o->node_id;
    snprintf(l->folder, sizeof l->folder, "%s", o->folder);
    return l;
}

static int open_folder(struct ledger *l)
{
    char path[LEDGER_FOLDER_SIZE + 4];
    snprintf(path, sizeof path, "db/%s", l->folder);
    return file_open(l->data_dirfd, path, O_RDONLY | O_DIRECTORY, 0, &l->dirfd);
}

static int open_log(struct ledger *l, const struct ledger_options *o)
{
    struct txlog_options options = {.segment_bytes = o->segment_bytes, .feeds = o->feeds};
    return txlog_open(&l->log, l->dirfd, l->name, &options);
}

static bool folder_is_empty(int dirfd, const char *path)
{
    int fd;
    if (file_open(dirfd, path, O_RDONLY | O_DIRECTORY, 0, &fd) < 0)
        return false;
    DIR *dir = fdopendir(fd);
    if (dir == NULL) {
        (void)file_close(fd);
        return false;
    }
    const struct dirent *e;
    int rc = file_next_entry(dir, &e);
    closedir(dir);
    return rc == 0 && e == NULL;
}

/* A folder without a state is one that a crash kept from being finished, if it holds nothing but what is
 * made before that. */
static bool folder_is_unfinished(int dirfd)
{
    int fd;
    if (file_open(dirfd, ".", O_RDONLY | O_DIRECTORY, 0, &fd) < 0)
        return false;
    DIR *dir = fdopendir(fd);
    if (dir == NULL) {
        (void)file_close(fd);
        return false;
    }
    const struct dirent *e;
    int rc;
    while ((rc = file_next_entry(dir, &e)) == 0 && e != NULL)
        if (strcmp(e->d_name, "state.tmp") != 0 &&
            ((strcmp(e->d_name, "log") != 0 && strcmp(e->d_name, "ltx") != 0) ||
             !folder_is_empty(dirfd, e->d_name)))
            break;
    closedir(dir);
    return rc == 0 && e == NULL;
}

static int load_sums(struct ledger *l)
{
    int fd;
    int rc = file_open(l->dirfd, "sums", O_RDONLY, 0, &fd);
    if (rc == -ERR_NOTFOUND)
        return pagesums_resize(&l->sums, l->state.commit);
    if (rc == 0) {
        rc = pagesums_load(&l->sums, fd, l->state.commit);
        (void)file_close(fd);
    }
    return rc;
}

/* The sums of one record over those before it. */
static int redo_record(struct ledger *l, struct txlog_entry *e)
{
    struct ltx_decoder d = {0};
    int rc = ltx_decode_begin(&d, txlog_entry_source(e));
    const struct ltx_header *h = &d.header;
    uint8_t *page = rc < 0 ? NULL : malloc(h->page_size);
    if (rc == 0 && page == NULL)
        rc = -ERR_NOMEM;
    if (rc == 0 && (ltx_header_is_snapshot(h) || ledger_is_fresh(l, h->page_size, h->commit)))
        rc = pagesums_resize(&l->sums, 0);
    if (rc == 0)
        rc = pagesums_resize(&l->sums, h->commit);
    while (rc == 0) {
        uint32_t pgno;
        rc = ltx_decode_page(&d, &pgno, page);
        if (rc <= 0)
            break;
        rc = pagesums_set(&l->sums, pgno, checksum_page(pgno, page, h->page_size));
    }
    if (rc == 0) {
        l->last = (struct position){e->max_txid, e->post_checksum};
        l->page_size = h->page_size;
        l->commit = h->commit;
        l->timestamp_ms = h->timestamp_ms;
    } else if (rc != -ERR_NOMEM)
        log_error("ledger", "%s: record %016" PRIx64 "-%016" PRIx64 " cannot be read: %s", l->name,
                  e->min_txid, e->max_txid, d.fault);
    free(page);
    ltx_decode_fini(&d);
    return rc;
}

static int redo(struct ledger *l)
{
    struct txlog_entry e;
    int rc = txlog_find_from(l->log, l->last, &e);
    while (rc == 0) {
        rc = redo_record(l, &e);
        if (rc < 0)
            txlog_entry_release(&e);
        else
            rc = txlog_next(l->log, &e);
    }
    return rc == -ERR_NOTFOUND ? 0 : rc;
}

/* The sums are lost: position and size are the last record's all the same. */
static void skip_to_last(struct ledger *l)
{
    struct txlog_entry e;
    l->last = txlog_last(l->log);
    if (txlog_find_ending(l->log, l->last, &e) < 0)
        return;
    l->page_size = e.page_size;
    l->commit = e.commit;
    txlog_entry_release(&e);
}

static uint64_t expected_total(const struct ledger *l)
{
    return l->last.txid == 0 ? LTX_EMPTY_CHECKSUM : l->last.checksum;
}

/* Only for want of memory does this fail; what is wrong with the files is damage. */
static int recover(struct ledger *l)
{
    struct position s = l->state.recovery, last = txlog_last(l->log);
    l->last = l->applied = s;
    l->page_size = l->state.page_size;
    l->commit = l->state.commit;
    l->timestamp_ms = l->state.timestamp_ms;
    int rc = load_sums(l);
    if (rc == 0)
        rc = redo(l);
    if (rc == -ERR_NOMEM)
        return rc;
    char why[sizeof l->damage] = "";
    if (rc < 0)
        snprintf(why, sizeof why, "its page checksums or its log cannot be read: %s", err_text(rc));
    else if (!position_equal(l->last, last))
        snprintf(why, sizeof why,
                 "its log (%016" PRIx64 " to %016" PRIx64
                 ") does not go on from its file (%016" PRIx64 ")",
                 txlog_first(l->log).txid, last.txid, s.txid);
    else if (pagesums_total(&l->sums) != expected_total(l))
        snprintf(why, sizeof why,
                 "page checksums come to %016" PRIx64 " at %016" PRIx64 ", not to %016" PRIx64,
                 pagesums_total(&l->sums), last.txid, last.checksum);
    if (why[0] != '\0') {
        skip_to_last(l);
        mutex_lock(&l->mutex);
        ledger_damage_locked(l, why);
        mutex_unlock(&l->mutex);
    }
    /* A start may have come between a checkpoint after a rebase and the end of its cleaning. */
    return txlog_drop_superseded(l->log, s);
}

static int sum_pages(struct pagesums *sums, uint32_t page_size, uint32_t commit,
                     int (*read)(void *ctx, uint32_t pgno, void *page), void *ctx)
{
    uint8_t *page = malloc(page_size);
    int rc = page == NULL ? -ERR_NOMEM : pagesums_resize(sums, commit);
    for (uint32_t pgno = 1; rc == 0 && pgno <= commit; pgno++) {
        if (pgno == ltx_lock_pgno(page_size))
            continue;
        rc = read(ctx, pgno, page);
        if (rc == 0)
            rc = pagesums_set(sums, pgno, checksum_page(pgno, page, page_size));
    }
    free(page);
    return rc;
}

int ledger_create(struct ledger **out, const char *name, const struct ledger_options *o)
{
    struct ledger *l = new_ledger(o);
    if (l == NULL)
        return -ERR_NOMEM;
    char path[LEDGER_FOLDER_SIZE + 4];
    snprintf(path, sizeof path, "db/%s", o->folder);
    l->name = strdup(name);
    int rc = l->name == NULL ? -ERR_NOMEM : file_mkdir(o->data_dirfd, path, 0700);
    if (rc == 0)
        rc = open_folder(l);
    if (rc == 0)
        rc = open_log(l, o);
    /* With the state the names of the log's folders come to disk. */
    if (rc == 0)
        rc = ledger_state_write(l->dirfd, &l->state, l->name);
    if (rc == 0)
        rc = file_sync_dir(o->data_dirfd, "db");
    if (rc < 0) {
        ledger_close(l);
        return rc;
    }
    struct ledger_kept kept;
    ledger_kept(l, &kept);
    *out = l;
    return 0;
}

int ledger_open(struct ledger **out, const struct ledger_options *o)
{
    struct ledger *l = new_ledger(o);
    if (l == NULL)
        return -ERR_NOMEM;
    int rc = open_folder(l);
    if (rc == 0)
        rc = ledger_state_read(l->dirfd, &l->state, &l->name);
    if (rc == -ERR_NOTFOUND && l->dirfd >= 0 && !folder_is_unfinished(l->dirfd))
        rc = -ERR_CORRUPT;
    if (rc == 0)
        rc = open_log(l, o);
    /* The state that was read may be in the kernel's memory alone, if its writer was killed before it had
     * synced the name; from here on records are removed for it. */
    if (rc == 0)
        rc = file_sync_dir(l->dirfd, ".");
    /* Nothing has come after ledger_create, which may have been killed before it was at its end. */
    if (rc == 0 && l->state.recovery.txid == 0)
        rc = file_sync_dir(o->data_dirfd, "db");
    if (rc == 0)
        rc = recover(l);
    if (rc < 0) {
        ledger_close(l);
        return rc;
    }
    struct ledger_kept kept;
    ledger_kept(l, &kept);
    *out = l;
    return 0;
}

void ledger_close(struct ledger *l)
{
    if (l == NULL)
        return;
    txlog_close(l->log);
    pagesums_fini(&l->sums);
    free(l->bad);
    (void)file_close(l->dirfd);
    cond_fini(&l->saved);
    mutex_fini(&l->mutex);
    free(l->name);
    free(l);
}

int ledger_rebuild_sums(struct ledger *l, int (*read)(void *ctx, uint32_t pgno, void *page),
                        void *ctx)
{
    /* The append slot keeps position and size where they are. */
    struct txlog_append slot = {0};
    int rc = txlog_append_begin(l->log, &slot, 0);
    if (rc < 0)
        return rc;
    struct pagesums sums = {0};
    if (l->commit > 0)
        rc = sum_pages(&sums, l->page_size, l->commit, read, ctx);
    if (rc == 0 && pagesums_total(&sums) != expected_total(l)) {
        log_warn("ledger",
                 "%s: the pages of the file come to checksum %016" PRIx64 ", and at %016" PRIx64
                 " it is %016" PRIx64,
                 l->name, pagesums_total(&sums), l->last.txid, l->last.checksum);
        rc = -ERR_CHECKSUM;
    }
    if (rc == 0) {
        mutex_lock(&l->mutex);
        struct pagesums old = l->sums;
        l->sums = sums;
        sums = old;
        l->damaged = false;
        l->damage[0] = '\0';
        mutex_unlock(&l->mutex);
    }
    pagesums_fini(&sums);
    txlog_append_abort(&slot);
    return rc;
}

int ledger_take_stock(struct ledger *l, uint32_t page_size, struct pagesums *sums)
{
    mutex_lock(&l->mutex);
    bool damaged = l->damaged;
    struct position here = {.txid = l->last.txid};
    if (here.txid < l->state.recovery.txid)
        here.txid = l->state.recovery.txid;
    mutex_unlock(&l->mutex);
    if (!damaged)
        return -ERR_INVALID;
    if (here.txid == 0)
        here.txid = 1;
    here.checksum = pagesums_total(sums);
    int rc = txlog_reset(l->log, here);
    if (rc < 0)
        return rc;
    mutex_lock(&l->mutex);
    struct pagesums old = l->sums;
    l->sums = *sums;
    *sums = old;
    l->last = l->applied = here;
    l->bad_count = 0;
    l->page_size = page_size;
    l->commit = l->sums.count;
    mutex_unlock(&l->mutex);
    pagesums_fini(sums);
    return 0;
}
