/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/db/catalog.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "fs/db/boot.h"
#include "fs/db/catalog_impl.h"
#include "fs/db/database_impl.h"
#include "fs/db/demote.h"
#include "fs/db/dying.h"
#include "fs/db/header.h"
#include "fs/db/scrub.h"
#include "fs/db/super.h"
#include "fs/db/unmap.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/base/logger.h"

#define DRAIN_LIMIT_MS 60000
#define REPLICA_SYNC_US 10000 /* the primary is told of durability this much later at most */

int catalog_open(struct catalog **out, const struct catalog_options *options)
{
    struct catalog *c = calloc(1, sizeof *c);
    if (!c || !(c->mountpoint = strdup(options->mountpoint))) {
        free(c);
        return -ERR_NOMEM;
    }
    c->store = options->store;
    c->role = options->role;
    c->tree_dirfd = options->tree_dirfd;
    c->replica_writes = options->replica_writes;
    c->scrub_interval_ms = options->scrub_interval_ms;
    c->scrub_bytes_per_s = options->scrub_bytes_per_s;
    mutex_init(&c->mutex, RANK_FS_CONTROL);
    cond_init(&c->poked);
    cond_init(&c->death);
    *out = c;
    return 0;
}

static void database_free(struct database *db)
{
    unmap_fini(db);
    database_close_files(db);
    capture_wal_fini(db);
    dirty_fini(&db->dirty);
    ledger_tx_fini(&db->tx);
    cond_fini(&db->unchanging);
    cond_fini(&db->mended);
    cond_fini(&db->unmapped);
    mutex_fini(&db->mutex);
    free(db->path);
    free(db);
}

void catalog_close(struct catalog *c)
{
    if (!c)
        return;
    for (size_t i = 0; i < CATALOG_BUCKETS; i++)
        for (struct database *db = c->bucket[i], *next; db; db = next) {
            next = db->next;
            database_free(db);
        }
    cond_fini(&c->death);
    cond_fini(&c->poked);
    mutex_fini(&c->mutex);
    free(c->mountpoint);
    free(c);
}

/* ---- the table ---- */

static size_t bucket_of(const char *path)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (; *path; path++)
        h = (h ^ (uint8_t)*path) * UINT64_C(0x100000001b3);
    return (size_t)(h % CATALOG_BUCKETS);
}

static struct database *database_new(struct catalog *c, const char *path)
{
    struct database *db = calloc(1, sizeof *db);
    if (!db || !(db->path = strdup(path))) {
        free(db);
        return NULL;
    }
    db->catalog = c;
    db->main_fd = db->wal_fd = -1;
    mutex_init(&db->mutex, RANK_FS_DATABASE);
    cond_init(&db->unchanging);
    cond_init(&db->mended);
    cond_init(&db->unmapped);
    db->ledger = store_find(c->store, path);
    return db;
}

struct database *catalog_get(struct catalog *c, const char *path)
{
    size_t b = bucket_of(path);
    mutex_lock(&c->mutex);
    struct database *db = c->bucket[b];
    while (db && strcmp(db->path, path) != 0)
        db = db->next;
    if (!db && (db = database_new(c, path))) {
        db->next = c->bucket[b];
        c->bucket[b] = db;
        c->count++;
    }
    if (db)
        db->refs++;
    mutex_unlock(&c->mutex);
    return db;
}

/* Worth keeping without anybody holding it? */
static bool has_state(struct database *db)
{
    return db->ledger || dirty_any(&db->dirty) || db->leftover;
}

void catalog_put(struct database *db)
{
    struct catalog *c = db->catalog;
    bool gone = false;
    mutex_lock(&c->mutex);
    if (--db->refs == 0 && !has_state(db)) {
        struct database **p = &c->bucket[bucket_of(db->path)];
        while (*p != db)
            p = &(*p)->next;
        *p = db->next;
        c->count--;
        gone = true;
    }
    mutex_unlock(&c->mutex);
    if (gone)
        database_free(db);
}

struct database **catalog_all(struct catalog *c, size_t *count)
{
    mutex_lock(&c->mutex);
    struct database **all = calloc(c->count + 1, sizeof(struct database *));
    size_t n = 0;
    for (size_t i = 0; all && i < CATALOG_BUCKETS; i++)
        for (struct database *db = c->bucket[i]; db; db = db->next) {
            db->refs++;
            all[n++] = db;
        }
    mutex_unlock(&c->mutex);
    *count = n;
    return all;
}

void catalog_put_all(struct database **all, size_t count)
{
    for (size_t i = 0; i < count; i++)
        catalog_put(all[i]);
    free(all);
}

/* ---- what others ask ---- */

struct ledger *catalog_ledger(struct catalog *c, const char *path)
{
    return store_find(c->store, path);
}

const char *database_path(const struct database *db)
{
    return db->path;
}

struct catalog *database_catalog(const struct database *db)
{
    return db->catalog;
}

struct store *database_store(const struct database *db)
{
    return db->catalog->store;
}

struct role_state *database_role(const struct database *db)
{
    return db->catalog->role;
}

int database_tree(const struct database *db)
{
    return db->catalog->tree_dirfd;
}

const char *catalog_mountpoint(const struct catalog *c)
{
    return c->mountpoint;
}

int catalog_tree(const struct catalog *c)
{
    return c->tree_dirfd;
}

bool catalog_writes_wait(const struct catalog *c)
{
    return c->replica_writes == REPLICA_WRITES_WAIT;
}

void catalog_poke(struct catalog *c)
{
    mutex_lock(&c->mutex);
    if (!c->poke) {
        c->poke = true;
        cond_signal(&c->poked);
    }
    mutex_unlock(&c->mutex);
}

const char *catalog_journal_mode(struct catalog *c, const char *path)
{
    struct db_header h;
    int fd;
    if (file_open(c->tree_dirfd, path, O_RDONLY | O_NOFOLLOW, 0, &fd) != 0)
        return "";
    const char *mode = db_header_read(fd, &h) != 0 ? "" : h.wal ? "wal" : "delete";
    file_close(fd);
    return mode;
}

struct plain_count {
    struct catalog *catalog;
    uint32_t count;
};

static int count_plain(void *ctx, const char *path)
{
    struct plain_count *p = ctx;
    struct ledger *l = store_find(p->catalog->store, path);
    struct ledger_info info = {0};
    if (l)
        ledger_info(l, &info);
    if (info.commit == 0)
        p->count++;
    return 0;
}

uint32_t catalog_plain_files(struct catalog *c)
{
    struct plain_count p = {.catalog = c};
    tree_walk(c->tree_dirfd, FILE_MAIN, count_plain, &p);
    return p.count;
}

/* ---- start ---- */

/* A database that no record has yet: created, or being copied in, when the daemon died. */
static int adopt(void *ctx, const char *path)
{
    struct catalog *c = ctx;
    struct ledger *l = store_find(c->store, path);
    struct ledger_info info = {0};
    if (l)
        ledger_info(l, &info);
    if (info.commit > 0)
        return 0;
    int err = recover_stranger(c, path);
    if (err || !*catalog_journal_mode(c, path))
        return err;
    struct database *db = catalog_get(c, path);
    if (!db)
        return -ERR_NOMEM;
    mutex_lock(&db->mutex);
    db->dirty.all = true;
    db->leftover = true;
    mutex_unlock(&db->mutex);
    catalog_put(db);
    log_info("recover",
             "%s: found in the data folder without records; it is taken in when this node is the "
             "primary",
             path);
    return 0;
}

int catalog_recover(struct catalog *c)
{
    int err = 0;
    c->same_boot = boot_is_same(store_data_dirfd(c->store));
    for (uint32_t i = 0; !err && i < store_count(c->store); i++)
        err = recover_database(c, store_at(c->store, i));
    if (!err)
        err = tree_walk(c->tree_dirfd, FILE_MAIN, adopt, c);
    if (!err)
        err = super_remove_ended(c);
    return err ? err : boot_remember(store_data_dirfd(c->store));
}

int catalog_start(struct catalog *c)
{
    int err = settler_start(c);
    if (!err)
        err = dying_start(c);
    if (!err)
        err = scrub_start(c, c->scrub_interval_ms, c->scrub_bytes_per_s, &c->scrub);
    if (err) {
        catalog_quit(c);
        thread_join(&c->settler);
        dying_join(c);
    }
    return err;
}

struct scrub *catalog_scrub(struct catalog *c)
{
    return c->scrub;
}

void catalog_quit(struct catalog *c)
{
    dying_quit(c);
    mutex_lock(&c->mutex);
    c->quit = true;
    cond_broadcast(&c->poked);
    mutex_unlock(&c->mutex);
    if (c->scrub)
        scrub_quit(c->scrub);
}

void catalog_join(struct catalog *c)
{
    thread_join(&c->settler);
    dying_join(c);
    scrub_stop(c->scrub);
    c->scrub = NULL;
    catalog_release_held(c);
    follow_stop(c->follow);
    c->follow = NULL;
    /* What the clients left is brought to rest, so that the next start has nothing to redo. */
    size_t count;
    struct database **all = catalog_all(c, &count);
    for (size_t i = 0; all && i < count; i++)
        settle_at_end(all[i]);
    if (all)
        catalog_put_all(all, count);
}

/* ---- roles ---- */

void catalog_release_held(struct catalog *c)
{
    mutex_lock(&c->mutex);
    struct follow *f = c->held;
    c->held = NULL;
    mutex_unlock(&c->mutex);
    follow_stop(f);
}

int catalog_become_primary(struct catalog *c)
{
    if (c->follow) {
        int err = follow_drain(c->follow, DRAIN_LIMIT_MS);
        if (err)
            return err;
        /* Writers that wait for the locks must not meet a node that is not the primary yet. */
        follow_halt(c->follow);
        mutex_lock(&c->mutex);
        c->held = c->follow;
        mutex_unlock(&c->mutex);
        c->follow = NULL;
        if (!catalog_writes_wait(c))
            catalog_release_held(c);
    }
    size_t count;
    struct database **all = catalog_all(c, &count);
    if (!all)
        return -ERR_NOMEM;
    for (size_t i = 0; i < count; i++) {
        mutex_lock(&all[i]->mutex);
        all[i]->demoted = false;
        database_close_files(all[i]);
        int err = capture_wal_attach(all[i]);
        if (err)
            log_error("capture", "%s-wal cannot be read: %s", all[i]->path, err_text(err));
        mutex_unlock(&all[i]->mutex);
    }
    catalog_put_all(all, count);
    store_set_group_sync(c->store, 0);
    catalog_poke(c);
    return 0;
}

int catalog_become_replica(struct catalog *c)
{
    if (c->follow)
        return 0;
    catalog_release_held(c);
    demote_databases(c);
    store_set_group_sync(c->store, REPLICA_SYNC_US);
    return follow_start(c, &c->follow);
}
