/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/fsnode.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/db/catalog_impl.h"
#include "fs/db/database_impl.h"
#include "ltx/base/assert.h"
#include "ltx/base/err.h"

/* ---- steps and faults ---- */

static atomic_ullong steps, last_step;
static atomic_int write_error;
static atomic_uint writes_until_error;
static atomic_bool disk_full;
static char log_prefix[SCRATCH_PATH_MAX + 8];

static void step(void)
{
    if (atomic_fetch_add(&steps, 1) + 1 == atomic_load(&last_step))
        _exit(FSNODE_DIED);
}

static bool is_log(int fd)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    return n > 0 && strncmp(path, log_prefix, strlen(log_prefix)) == 0;
}

static bool no_room(int fd, off_t end)
{
    struct stat st;
    if (!atomic_load(&disk_full) || !is_log(fd) || fstat(fd, &st) != 0 || end <= st.st_size)
        return false;
    errno = ENOSPC;
    return true;
}

static bool fails(int fd)
{
    if (atomic_load(&writes_until_error) == 0 || !is_log(fd) ||
        atomic_fetch_sub(&writes_until_error, 1) != 1)
        return false;
    errno = atomic_load(&write_error);
    return true;
}

static void (*watch_write)(int fd, size_t size, off_t off);

static ssize_t step_pwrite(int fd, const void *buf, size_t n, off_t off)
{
    step();
    if (watch_write)
        watch_write(fd, n, off);
    return no_room(fd, off + (off_t)n) || fails(fd) ? -1 : pwrite(fd, buf, n, off);
}

static int step_fallocate(int fd, int mode, off_t off, off_t len)
{
    step();
    return no_room(fd, off + len) || fails(fd) ? -1 : fallocate(fd, mode, off, len);
}

static int step_ftruncate(int fd, off_t size)
{
    step();
    return ftruncate(fd, size);
}

static int step_fdatasync(int fd)
{
    step();
    return fdatasync(fd);
}

static int step_fsync(int fd)
{
    step();
    return fsync(fd);
}

static int step_renameat2(int olddir, const char *from, int newdir, const char *to, unsigned flags)
{
    step();
    return renameat2(olddir, from, newdir, to, flags);
}

static int step_unlinkat(int dirfd, const char *path, int flags)
{
    step();
    return unlinkat(dirfd, path, flags);
}

static int step_mkdirat(int dirfd, const char *path, mode_t mode)
{
    step();
    return mkdirat(dirfd, path, mode);
}

static struct file_ops step_ops;

void fsnode_die_at(uint64_t s)
{
    atomic_store(&steps, 0);
    atomic_store(&last_step, s);
}

void fsnode_watch_writes(void (*watch)(int fd, size_t size, off_t off))
{
    watch_write = watch;
}

uint64_t fsnode_steps(void)
{
    return atomic_load(&steps);
}

void fsnode_fill_disk(bool on)
{
    atomic_store(&disk_full, on);
}

void fsnode_fail_write(unsigned n, int errnum)
{
    atomic_store(&write_error, errnum);
    atomic_store(&writes_until_error, n);
}

/* ---- folders, as fs/op_dir.c keeps them ---- */

static struct folder_changes {
    char path[SCRATCH_PATH_MAX + 256];
    unsigned changes, synced;
} folders[16];
static unsigned folder_count;
static pthread_mutex_t folder_mutex = PTHREAD_MUTEX_INITIALIZER; /* both; clients are threads */

static struct folder_changes *folder_with(const char *path)
{
    size_t n = (size_t)(strrchr(path, '/') - path);
    struct folder_changes *f = folders;
    while (f < folders + folder_count && (strlen(f->path) != n || strncmp(f->path, path, n) != 0))
        f++;
    if (f == folders + folder_count) {
        ASSERT(folder_count < sizeof folders / sizeof *folders, "a test uses few folders");
        folder_count++;
        *f = (struct folder_changes){.changes = 1}; /* as inode.c: nobody knows what was before */
        snprintf(f->path, sizeof f->path, "%.*s", (int)n, path);
    }
    return f;
}

static void folder_changed(const char *path)
{
    pthread_mutex_lock(&folder_mutex);
    folder_with(path)->changes++;
    pthread_mutex_unlock(&folder_mutex);
}

/* As the product: what changes while the folder is synced has not been synced. */
static int sync_folder(const char *path)
{
    pthread_mutex_lock(&folder_mutex);
    struct folder_changes *f = folder_with(path);
    unsigned changes = f->changes;
    bool synced = f->synced >= changes;
    pthread_mutex_unlock(&folder_mutex);
    int err = synced ? 0 : file_sync_dir(AT_FDCWD, f->path);
    if (err)
        return err;
    pthread_mutex_lock(&folder_mutex);
    if (f->synced < changes)
        f->synced = changes;
    pthread_mutex_unlock(&folder_mutex);
    return 0;
}

/* ---- the node ---- */

static void must(int err, const char *what)
{
    if (err == 0)
        return;
    fprintf(stderr, "%s: %s\n", what, err_text(err));
    abort();
}

static int open_folder(const char *path, int *fd)
{
    int err = file_mkdirs(AT_FDCWD, path, 0755);
    return err ? err : file_open(AT_FDCWD, path, O_RDONLY | O_DIRECTORY, 0, fd);
}

static int64_t segment_bytes;
static const char *mounted_at;

static void use_steps(void)
{
    if (file_ops != &file_ops_system)
        return;
    step_ops = file_ops_system;
    step_ops.pwrite = step_pwrite;
    step_ops.fallocate = step_fallocate;
    step_ops.ftruncate = step_ftruncate;
    step_ops.fdatasync = step_fdatasync;
    step_ops.fsync = step_fsync;
    step_ops.renameat2 = step_renameat2;
    step_ops.unlinkat = step_unlinkat;
    step_ops.mkdirat = step_mkdirat;
    file_ops = &step_ops;
}

void fsnode_segment_bytes(int64_t bytes)
{
    segment_bytes = bytes;
}

void fsnode_mounted_at(const char *path)
{
    mounted_at = path;
}

static int open_parts(struct fsnode *n)
{
    struct store_options store = {.node_id = 7, .segment_bytes = segment_bytes};
    int err = open_folder(n->root, &n->data_dirfd);
    if (!err)
        err = open_folder(n->tree, &n->tree_dirfd);
    if (!err)
        err = store_open(&n->store, n->data_dirfd, &store);
    if (!err && n->threads)
        err = store_start(n->store);
    struct catalog_options options = {.store = n->store,
                                      .role = &n->role,
                                      .tree_dirfd = n->tree_dirfd,
                                      .mountpoint = mounted_at ? mounted_at : n->tree};
    if (!err)
        err = catalog_open(&n->catalog, &options);
    if (!err)
        err = catalog_recover(n->catalog);
    if (!err)
        store_set_page_reader(n->store, catalog_page_reader(n->catalog));
    return err || !n->threads ? err : catalog_start(n->catalog);
}

int fsnode_try_open(struct fsnode *n, const char *root, bool threads)
{
    *n = (struct fsnode){.threads = threads, .data_dirfd = -1, .tree_dirfd = -1};
    use_steps();
    folder_count = 0;
    snprintf(n->root, sizeof n->root, "%s", root);
    snprintf(n->tree, sizeof n->tree, "%s/tree", root);
    snprintf(log_prefix, sizeof log_prefix, "%s/db/", root);
    role_init(&n->role, 7);
    int err = open_parts(n);
    if (!err)
        return 0;
    ASSERT(!threads, "a start that may fail is tried without threads");
    catalog_close(n->catalog);
    store_close(n->store);
    role_fini(&n->role);
    file_close(n->tree_dirfd);
    file_close(n->data_dirfd);
    return err;
}

void fsnode_open(struct fsnode *n, const char *root, bool threads)
{
    must(fsnode_try_open(n, root, threads), root);
}

void fsnode_lead(struct fsnode *n)
{
    role_set(&n->role, ROLE_PRIMARY, role_epoch(&n->role) + 1, "");
    must(catalog_become_primary(n->catalog), "catalog_become_primary");
    role_open(&n->role);
}

void fsnode_follow(struct fsnode *n)
{
    role_close(&n->role, -ERR_NOTPRIMARY, 1000);
    role_set(&n->role, ROLE_REPLICA, role_epoch(&n->role), "");
    must(catalog_become_replica(n->catalog), "catalog_become_replica");
}

void fsnode_settle(struct fsnode *n)
{
    size_t count;
    struct database **all = catalog_all(n->catalog, &count);
    ASSERT(all != NULL, "a test has memory");
    for (size_t i = 0; i < count; i++) {
        all[i]->dirty.last_write = all[i]->checkpointed = (struct mono){0};
        settle(all[i]);
    }
    catalog_put_all(all, count);
}

void fsnode_maintain(struct fsnode *n, const struct txlog_retention *r)
{
    for (uint32_t i = 0; i < store_count(n->store); i++) {
        struct ledger *l = store_at(n->store, i);
        struct ledger_info info;
        ledger_info(l, &info);
        (void)txlog_maintain(ledger_log(l), r, info.recovery.txid);
    }
}

void fsnode_close(struct fsnode *n)
{
    catalog_quit(n->catalog);
    catalog_join(n->catalog);
    if (n->threads) {
        store_quit(n->store);
        store_join(n->store);
    }
    catalog_close(n->catalog);
    store_close(n->store);
    role_fini(&n->role);
    file_close(n->tree_dirfd);
    file_close(n->data_dirfd);
    *n = (struct fsnode){0};
    if (file_ops == &step_ops)
        file_ops = &file_ops_system;
}

const char *fsnode_path(const struct fsnode *n, const char *name)
{
    static char path[4][SCRATCH_PATH_MAX + 256];
    static unsigned next;
    char *out = path[next++ % 4];
    snprintf(out, sizeof path[0], "%s/%s", n->tree, name);
    return out;
}

struct ledger *fsnode_ledger(const struct fsnode *n, const char *name)
{
    return store_find(n->store, name);
}

uint64_t fsnode_txid(const struct fsnode *n, const char *name)
{
    struct ledger *l = fsnode_ledger(n, name);
    return l ? ledger_last(l).txid : 0;
}

/* ---- in place of the FUSE adapter ---- */

/* With the environment variable TANDEMFS_TRACE set, each event is a line on stderr. */
static const char *const op_name[] = {
    "may open",       "opened",       "before write", "after write", "before truncate",
    "after truncate", "sync",         "sync folder",  "flushed",     "released",
    "before unlink",  "after unlink", "unlink failed"};

struct told {
    struct database *db;
    enum file_kind kind;
    unsigned file;
};

static int lookup(struct fsnode *n, const char *path, struct told *out)
{
    size_t len = strlen(n->tree), base;
    ASSERT(strncmp(path, n->tree, len) == 0 && path[len] == '/', "the test uses the node's tree");
    path += len + 1;
    out->kind = file_kind_of(path, &base);
    char *name = strndup(path, base);
    out->db = catalog_get(n->catalog, name);
    free(name);
    return out->db ? 0 : -ERR_NOMEM;
}

static int sync_file(struct told *t, const char *path)
{
    /* Not a call of the daemon: that has the file open. */
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return err_from_errno(errno);
    int err = 0;
    if (!database_is_synced(t->db, t->kind))
        err = database_sync(t->db, t->kind, false, fd);
    close(fd);
    return err;
}

static int open_or_close(struct fsnode *n, const struct tap_event *e)
{
    struct told *t = *e->file, found;
    int err = 0;
    switch (e->op) {
    case TAP_MAY_OPEN:
        err = lookup(n, e->path, &found);
        if (err)
            return err;
        err = database_may_open(found.db, found.kind, e->flags, false);
        catalog_put(found.db);
        return err;
    case TAP_OPENED:
        t = *e->file = calloc(1, sizeof *t);
        err = t ? lookup(n, e->path, t) : -ERR_NOMEM;
        if (!err)
            t->file = database_opened(t->db, t->kind, false);
        if (!err && e->made && database_making_counts(t->kind))
            folder_changed(e->path);
        return err;
    case TAP_FLUSHED: return database_flushed(t->db, t->kind, t->file, false);
    default:
        database_released(t->db, t->kind, t->file, false);
        catalog_put(t->db);
        free(t);
        *e->file = NULL;
        return 0;
    }
}

static int unlinked(struct fsnode *n, const struct tap_event *e)
{
    struct told t;
    int err = lookup(n, e->path, &t);
    if (err)
        return err;
    if (e->op == TAP_BEFORE_UNLINK)
        err = database_before_unlink(t.db, t.kind, e->path + strlen(n->tree) + 1, false);
    else if (e->op == TAP_AFTER_UNLINK)
        database_after_unlink(t.db, t.kind, false);
    else
        database_unlink_failed(t.db, t.kind);
    if (e->op == TAP_AFTER_UNLINK && database_removal_counts(t.kind))
        folder_changed(e->path);
    catalog_put(t.db);
    return err;
}

int fsnode_mkdir(struct fsnode *n, const char *path)
{
    if (file_ops->mkdirat(n->tree_dirfd, path, 0755) != 0)
        return errno;
    folder_changed(fsnode_path(n, path));
    return 0;
}

int fsnode_rename(struct fsnode *n, const char *from, const char *to)
{
    const char *from_path = fsnode_path(n, from), *to_path = fsnode_path(n, to);
    struct told a, b;
    int err = lookup(n, from_path, &a);
    if (err)
        return err_errno(err);
    err = lookup(n, to_path, &b);
    if (!err)
        err = database_before_rename(a.db, a.kind, b.db, b.kind);
    if (!err && file_ops->renameat2(n->tree_dirfd, from, n->tree_dirfd, to, 0) != 0)
        err = err_from_errno(errno);
    if (!err) {
        folder_changed(from_path);
        folder_changed(to_path);
        database_after_rename(a.db, a.kind, b.db, b.kind);
    }
    catalog_put(b.db);
    catalog_put(a.db);
    return err ? err_errno(err) : 0;
}

int fsnode_unlink(struct fsnode *n, const char *path)
{
    struct tap_event e = {.op = TAP_BEFORE_UNLINK, .path = fsnode_path(n, path)};
    int err = fsnode_listen(n, &e);
    if (err)
        return err;
    if (file_ops->unlinkat(n->tree_dirfd, path, 0) != 0)
        err = errno;
    e.op = err ? TAP_UNLINK_FAILED : TAP_AFTER_UNLINK;
    (void)fsnode_listen(n, &e);
    return err;
}

int fsnode_sync_dir(struct fsnode *n, const char *path_in_it)
{
    int err = sync_folder(fsnode_path(n, path_in_it));
    return err ? err_errno(err) : 0;
}

int fsnode_listen(void *ctx, const struct tap_event *e)
{
    struct fsnode *n = ctx;
    int err = 0;
    step();
    struct told *t = e->file ? *e->file : NULL;
    switch (e->op) {
    case TAP_MAY_OPEN:
    case TAP_OPENED:
    case TAP_FLUSHED:
    case TAP_RELEASED: err = open_or_close(n, e); break;
    case TAP_BEFORE_UNLINK:
    case TAP_AFTER_UNLINK:
    case TAP_UNLINK_FAILED: err = unlinked(n, e); break;
    case TAP_BEFORE_WRITE: err = database_before_write(t->db, t->kind, false, e->off, e->n); break;
    case TAP_AFTER_WRITE: err = database_after_write(t->db, t->kind, false, e->off, e->n); break;
    case TAP_BEFORE_TRUNCATE: err = database_before_truncate(t->db, t->kind, false, e->off); break;
    case TAP_AFTER_TRUNCATE: err = database_after_truncate(t->db, t->kind, false, e->off); break;
    case TAP_SYNC: err = sync_file(t, e->path); break;
    case TAP_SYNC_DIR: err = sync_folder(e->path); break;
    }
    if (getenv("TANDEMFS_TRACE"))
        fprintf(stderr, "%s %s off %lld n %zu: %s\n", op_name[e->op], strrchr(e->path, '/') + 1,
                (long long)e->off, e->n, err_name(err));
    return err ? err_errno(err) : 0;
}

int fsnode_listen_and_settle(void *ctx, const struct tap_event *e)
{
    int err = fsnode_listen(ctx, e);
    if (e->op == TAP_BEFORE_UNLINK || e->op == TAP_BEFORE_TRUNCATE || e->op == TAP_SYNC)
        fsnode_settle(ctx);
    return err;
}
