/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/powerloss.h"

#include <errno.h>
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ltx/base/assert.h"
#include "ltx/base/file.h"

static struct powerloss *now;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static size_t freeze_at;              /* operations; 0: never */
static const struct file_ops *thawed; /* while it is frozen: the table from before */

/* ---- nodes ---- */

static uint32_t add_node(struct powerloss *p, uint64_t inode, bool folder)
{
    if (p->node_count == p->node_cap) {
        p->node_cap = p->node_cap ? p->node_cap * 2 : 64;
        p->nodes = realloc(p->nodes, p->node_cap * sizeof *p->nodes);
        ASSERT(p->nodes != NULL, "a test has memory");
    }
    p->nodes[p->node_count] = (struct power_node){.inode = inode, .folder = folder};
    return (uint32_t)p->node_count++;
}

/* The newest of that inode: a number may be used again. 0: not below the root. */
static uint32_t node_of(const struct powerloss *p, const struct stat *st)
{
    for (size_t i = p->node_count; i-- > 1;)
        if (p->nodes[i].inode == st->st_ino)
            return (uint32_t)i;
    return 0;
}

static uint32_t node_of_fd(const struct powerloss *p, int fd)
{
    struct stat st;
    return fstat(fd, &st) == 0 ? node_of(p, &st) : 0;
}

static uint32_t node_of_path(const struct powerloss *p, int dirfd, const char *path)
{
    struct stat st;
    return fstatat(dirfd, path, &st, AT_SYMLINK_NOFOLLOW) == 0 ? node_of(p, &st) : 0;
}

/* The folder that `path` lies in, and its last part. 0: not below the root. */
static uint32_t folder_of(const struct powerloss *p, int dirfd, const char *path, char *name)
{
    const char *slash = strrchr(path, '/');
    const char *last = slash ? slash + 1 : path;
    if (strlen(last) >= POWER_NAME_MAX)
        return 0;
    strcpy(name, last);
    if (!slash)
        return dirfd == AT_FDCWD ? 0 : node_of_fd(p, dirfd);
    char *folder = strndup(path, slash == path ? 1 : (size_t)(slash - path));
    uint32_t node = node_of_path(p, dirfd, folder);
    free(folder);
    return node;
}

static void read_content(struct power_node *n, int dirfd, const char *name, size_t size)
{
    int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC);
    n->data = malloc(size + 1);
    n->size = size;
    ASSERT(fd >= 0 && n->data != NULL && pread(fd, n->data, size, 0) == (ssize_t)size,
           "a file of the test can be read");
    close(fd);
}

/* What is in folder `node` when the recording begins. */
static void read_folder(struct powerloss *p, uint32_t node, int fd)
{
    DIR *dir = fdopendir(fd);
    const struct dirent *e;
    ASSERT(dir != NULL, "a folder of the test can be read");
    while ((e = readdir(dir)) != NULL) {
        struct stat st;
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        ASSERT(fstatat(dirfd(dir), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0, "an entry is there");
        uint32_t below = add_node(p, st.st_ino, S_ISDIR(st.st_mode));
        if (S_ISDIR(st.st_mode))
            read_folder(p, below, openat(dirfd(dir), e->d_name, O_RDONLY | O_DIRECTORY));
        else
            read_content(&p->nodes[below], dirfd(dir), e->d_name, (size_t)st.st_size);
        struct power_node *n = &p->nodes[node];
        n->entries = realloc(n->entries, (n->entry_count + 1) * sizeof *n->entries);
        ASSERT(n->entries != NULL, "a test has memory");
        struct power_entry *entry = &n->entries[n->entry_count++];
        snprintf(entry->name, sizeof entry->name, "%s", e->d_name);
        entry->node = below;
    }
    closedir(dir);
}

/* ---- operations ---- */

static struct power_op *add(enum power_kind kind, uint32_t node)
{
    if (now->op_count == now->op_cap) {
        now->op_cap = now->op_cap ? now->op_cap * 2 : 1024;
        now->ops = realloc(now->ops, now->op_cap * sizeof *now->ops);
        ASSERT(now->ops != NULL, "a test has memory");
    }
    struct power_op *op = &now->ops[now->op_count++];
    *op = (struct power_op){.kind = kind, .node = node};
    if (now->op_count == freeze_at)
        powerloss_freeze();
    return op;
}

static void add_size(enum power_kind kind, int fd, int64_t size)
{
    pthread_mutex_lock(&mutex);
    uint32_t node = node_of_fd(now, fd);
    if (node)
        add(kind, node)->off = size;
    pthread_mutex_unlock(&mutex);
}

static void add_name(int dirfd, const char *path, bool there)
{
    char name[POWER_NAME_MAX];
    struct stat st;
    pthread_mutex_lock(&mutex);
    uint32_t folder = folder_of(now, dirfd, path, name), node = 0;
    if (folder && there && fstatat(dirfd, path, &st, AT_SYMLINK_NOFOLLOW) == 0) {
        bool known = st.st_nlink > 1 && !S_ISDIR(st.st_mode);
        node = known ? node_of(now, &st) : add_node(now, st.st_ino, S_ISDIR(st.st_mode));
    }
    if (folder && (node || !there)) {
        struct power_op *op = add(POWER_NAME, folder);
        strcpy(op->name, name);
        op->stands_for = node;
    }
    pthread_mutex_unlock(&mutex);
}

static int note_openat(int dirfd, const char *path, int flags, mode_t mode)
{
    struct stat st;
    bool there = fstatat(dirfd, path, &st, 0) == 0;
    int fd = file_ops_system.openat(dirfd, path, flags, mode);
    if (fd >= 0 && (flags & O_CREAT) && !there)
        add_name(dirfd, path, true);
    if (fd >= 0 && (flags & O_TRUNC) && there && st.st_size > 0)
        add_size(POWER_SIZE, fd, 0);
    return fd;
}

static ssize_t note_pwrite(int fd, const void *buf, size_t n, off_t off)
{
    ssize_t done = file_ops_system.pwrite(fd, buf, n, off);
    if (done <= 0)
        return done;
    pthread_mutex_lock(&mutex);
    uint32_t node = node_of_fd(now, fd);
    if (node) {
        struct power_op *op = add(POWER_WRITE, node);
        op->off = off;
        op->n = (size_t)done;
        op->data = malloc(op->n);
        ASSERT(op->data != NULL, "a test has memory");
        memcpy(op->data, buf, op->n);
    }
    pthread_mutex_unlock(&mutex);
    return done;
}

static int note_sync(int fd, int (*sync)(int fd))
{
    int rc = sync(fd);
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&mutex);
    uint32_t node = node_of_fd(now, fd);
    if (node)
        add(now->nodes[node].folder ? POWER_SYNC_DIR : POWER_SYNC, node);
    pthread_mutex_unlock(&mutex);
    return rc;
}

static int note_fdatasync(int fd)
{
    return note_sync(fd, file_ops_system.fdatasync);
}

static int note_fsync(int fd)
{
    return note_sync(fd, file_ops_system.fsync);
}

static int note_ftruncate(int fd, off_t size)
{
    int rc = file_ops_system.ftruncate(fd, size);
    if (rc == 0)
        add_size(POWER_SIZE, fd, size);
    return rc;
}

static int note_fallocate(int fd, int mode, off_t off, off_t len)
{
    int rc = file_ops_system.fallocate(fd, mode, off, len);
    if (rc == 0 && mode == 0)
        add_size(POWER_GROW, fd, off + len);
    return rc;
}

static int note_renameat2(int olddir, const char *oldpath, int newdir, const char *newpath,
                          unsigned flags)
{
    pthread_mutex_lock(&mutex);
    uint32_t node = node_of_path(now, olddir, oldpath);
    pthread_mutex_unlock(&mutex);
    int rc = file_ops_system.renameat2(olddir, oldpath, newdir, newpath, flags);
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&mutex);
    char name[POWER_NAME_MAX], to_name[POWER_NAME_MAX];
    uint32_t from = folder_of(now, olddir, oldpath, name);
    uint32_t to = folder_of(now, newdir, newpath, to_name);
    if (from && to && node) {
        struct power_op *op = add(POWER_RENAME, from);
        op->to_folder = to;
        op->stands_for = node;
        strcpy(op->name, name);
        strcpy(op->to_name, to_name);
    }
    pthread_mutex_unlock(&mutex);
    return rc;
}

static int note_unlinkat(int dirfd, const char *path, int flags)
{
    int rc = file_ops_system.unlinkat(dirfd, path, flags);
    if (rc == 0)
        add_name(dirfd, path, false);
    return rc;
}

static int note_mkdirat(int dirfd, const char *path, mode_t mode)
{
    int rc = file_ops_system.mkdirat(dirfd, path, mode);
    if (rc == 0)
        add_name(dirfd, path, true);
    return rc;
}

static int note_mknodat(int dirfd, const char *path, mode_t mode, dev_t dev)
{
    int rc = file_ops_system.mknodat(dirfd, path, mode, dev);
    if (rc == 0)
        add_name(dirfd, path, true);
    return rc;
}

static int note_linkat(int olddir, const char *oldpath, int newdir, const char *newpath, int flags)
{
    int rc = file_ops_system.linkat(olddir, oldpath, newdir, newpath, flags);
    if (rc == 0)
        add_name(newdir, newpath, true);
    return rc;
}

static struct file_ops ops;

void powerloss_begin(struct powerloss *p, const char *root)
{
    struct stat st;
    *p = (struct powerloss){0};
    ASSERT(now == NULL && thawed == NULL, "one recording at a time");
    freeze_at = 0;
    ASSERT(stat(root, &st) == 0, "the root is there");
    add_node(p, 0, false);
    read_folder(p, add_node(p, st.st_ino, true), open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    now = p;
    ops = file_ops_system;
    ops.openat = note_openat;
    ops.pwrite = note_pwrite;
    ops.fdatasync = note_fdatasync;
    ops.fsync = note_fsync;
    ops.ftruncate = note_ftruncate;
    ops.fallocate = note_fallocate;
    ops.renameat2 = note_renameat2;
    ops.unlinkat = note_unlinkat;
    ops.mkdirat = note_mkdirat;
    ops.mknodat = note_mknodat;
    ops.linkat = note_linkat;
    file_ops = &ops;
}

void powerloss_mark(struct powerloss *p, uint64_t mark)
{
    ASSERT(p == now, "this recording is going on");
    pthread_mutex_lock(&mutex);
    add(POWER_MARK, 0)->mark = mark;
    pthread_mutex_unlock(&mutex);
}

void powerloss_end(struct powerloss *p)
{
    ASSERT(p == now, "this recording is going on");
    file_ops = &file_ops_system;
    now = NULL;
}

void powerloss_fini(struct powerloss *p)
{
    for (size_t i = 0; i < p->node_count; i++) {
        free(p->nodes[i].data);
        free(p->nodes[i].entries);
    }
    for (size_t i = 0; i < p->op_count; i++)
        free(p->ops[i].data);
    free(p->nodes);
    free(p->ops);
    *p = (struct powerloss){0};
}

/* ---- a killed process ---- */

/* Is it a file that is going to be mapped? What is not there of it cannot be touched. */
static bool is_shm(const char *path)
{
    size_t n = strlen(path);
    return n > 4 && strcmp(path + n - 4, "-shm") == 0;
}

static int frozen_openat(int dirfd, const char *path, int flags, mode_t mode)
{
    if (!(flags & (O_CREAT | O_TRUNC)))
        return file_ops_system.openat(dirfd, path, flags, mode);
    if (is_shm(path)) {
        errno = EIO;
        return -1;
    }
    /* A file that nobody else has: what goes past the table (fchmod, fchown) may not reach anything either. */
    return memfd_create("made after death", MFD_CLOEXEC);
}

static ssize_t frozen_pwrite(int fd, const void *buf, size_t n, off_t off)
{
    char link[40], path[1024];
    (void)buf, (void)off;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length > 0 ? length : 0] = '\0';
    if (is_shm(path)) {
        errno = EIO;
        return -1;
    }
    return (ssize_t)n;
}

static int frozen_sync(int fd)
{
    (void)fd;
    return 0;
}

static int frozen_ftruncate(int fd, off_t size)
{
    (void)fd, (void)size;
    return 0;
}

static int frozen_fallocate(int fd, int mode, off_t off, off_t len)
{
    (void)fd, (void)mode, (void)off, (void)len;
    return 0;
}

static int frozen_renameat2(int olddir, const char *oldpath, int newdir, const char *newpath,
                            unsigned flags)
{
    (void)olddir, (void)oldpath, (void)newdir, (void)newpath, (void)flags;
    return 0;
}

static int frozen_unlinkat(int dirfd, const char *path, int flags)
{
    (void)dirfd, (void)path, (void)flags;
    return 0;
}

static int frozen_mkdirat(int dirfd, const char *path, mode_t mode)
{
    (void)dirfd, (void)path, (void)mode;
    return 0;
}

void powerloss_freeze(void)
{
    static struct file_ops frozen;
    frozen = file_ops_system;
    frozen.openat = frozen_openat;
    frozen.pwrite = frozen_pwrite;
    frozen.fdatasync = frozen.fsync = frozen_sync;
    frozen.ftruncate = frozen_ftruncate;
    frozen.fallocate = frozen_fallocate;
    frozen.renameat2 = frozen_renameat2;
    frozen.unlinkat = frozen_unlinkat;
    frozen.mkdirat = frozen_mkdirat;
    if (thawed == NULL) {
        thawed = file_ops;
        file_ops = &frozen;
    }
}

void powerloss_thaw(void)
{
    file_ops = thawed;
    thawed = NULL;
    freeze_at = 0;
}

void powerloss_freeze_after(struct powerloss *p, size_t operations)
{
    freeze_at = operations ? p->op_count + operations : 0;
}

bool powerloss_is_frozen(void)
{
    return thawed != NULL;
}

uint64_t powerloss_marked(const struct powerloss *p, size_t n)
{
    while (n-- > 0)
        if (p->ops[n].kind == POWER_MARK)
            return p->ops[n].mark;
    return 0;
}
