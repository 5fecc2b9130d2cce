/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "fs/ident.h"
#include "fs/info.h"
#include "fs/ops.h"
#include "fs/permit.h"
#include "fs/loop.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"

/* From open and create to release. */

/*
 * How the backing file is opened. Only the access mode counts: the kernel gives each write its
 * offset (O_APPEND would override it), follows a write to an O_SYNC file with an fsync, truncates
 * by setattr, and aligns nothing for O_DIRECT.
 */
static int backing_flags(int flags)
{
    return (flags & O_ACCMODE) | O_NOFOLLOW | O_CLOEXEC;
}

/* Through a name if there is one, else through any open handle (a /proc/PID/fd of a removed file).
 */
static int open_backing(struct fs *fs, struct inode *i, int flags, int *fd)
{
    char path[PATH_MAX];
    fs_names_hold(fs);
    int err = ops_path(fs, i, path);
    if (!err && (*fd = file_ops->openat(fs->tree_dirfd, path, backing_flags(flags), 0)) < 0)
        err = errno;
    fs_names_release(fs);
    if (err != ENOENT)
        return err;
    struct handle *h = handle_any(fs, i);
    if (!h)
        return err;
    snprintf(path, sizeof path, "/proc/self/fd/%d", h->fd);
    *fd = file_ops->openat(AT_FDCWD, path, backing_flags(flags) & ~O_NOFOLLOW, 0);
    err = *fd < 0 ? errno : 0;
    handle_put(fs, h);
    return err;
}

/*
 * What the kernel does with the handle. Cached pages stay valid from one opening to the next.
 * Nothing follows from closing a journal or a handle of our own, so the kernel need not tell; for our
 * own it must not: a daemon that is killed would wait for its own answer.
 */
static void fill_info(struct fuse_file_info *fi, struct handle *h)
{
    fi->fh = (uintptr_t)h;
    fi->keep_cache = 1;
    fi->noflush =
        !h->db || h->own || (h->kind != FILE_MAIN && h->kind != FILE_WAL && h->kind != FILE_SHM);
}

static void set_database(struct fs *fs, struct handle *h, const struct ident *id, bool own)
{
    h->own = own;
    if (!id)
        return;
    handle_is_of(fs, h, id->db, id->kind);
    h->file = database_opened(h->db, h->kind, own);
}

/* The opposite of handle_new and set_database. */
static void end_handle(struct fs *fs, struct handle *h)
{
    if (h->db)
        database_released(h->db, h->kind, h->file, h->own);
    handle_put(fs, h);
}

static void open_info(fuse_req_t req, struct inode *i, struct fuse_file_info *fi)
{
    struct fs *fs = ops_fs(req);
    if ((fi->flags & O_ACCMODE) != O_RDONLY) {
        fuse_reply_err(req, EACCES);
        return;
    }
    struct handle *h = handle_new(fs, i, -1, fi->flags, INFO_SIZE_MAX);
    if (!h) {
        fuse_reply_err(req, ENOMEM);
        return;
    }
    fi->fh = (uintptr_t)h;
    fi->direct_io = 1;
    fi->noflush = 1;
    if (fuse_reply_open(req, fi))
        handle_put(fs, h);
}

void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct fs *fs = ops_fs(req);
    struct inode *i = ops_inode(fs, ino);
    bool own = ops_own(req);
    int fd = -1;

    if (i->info) {
        open_info(req, i, fi);
        return;
    }
    const struct ident *id = ident_of(fs, i);
    int err = id ? permit_open(fs, id->db, id->kind, fi->flags, own) : 0;
    if (!err)
        err = open_backing(fs, i, fi->flags, &fd);
    if (err) {
        fuse_reply_err(req, err);
        return;
    }
    struct handle *h = handle_new(fs, i, fd, fi->flags, 0);
    if (!h) {
        file_close(fd);
        fuse_reply_err(req, ENOMEM);
        return;
    }
    set_database(fs, h, id, own);
    fill_info(fi, h);
    if (fuse_reply_open(req, fi))
        end_handle(fs, h);
}

/* Makes the file, or opens it if somebody was faster. */
static int create_backing(fuse_req_t req, const char *path, int flags, mode_t mode, int *fd)
{
    struct fs *fs = ops_fs(req);
    int how = backing_flags(flags) | O_CREAT;
    *fd = file_ops->openat(fs->tree_dirfd, path, how | O_EXCL, mode);
    if (*fd < 0 && errno == EEXIST && !(flags & O_EXCL)) {
        *fd = file_ops->openat(fs->tree_dirfd, path, how, mode);
        return *fd < 0 ? errno : 0;
    }
    if (*fd < 0)
        return errno;
    int err = ops_give_to_caller(req, path);
    if (err) {
        file_close(*fd);
        file_ops->unlinkat(fs->tree_dirfd, path, 0);
    }
    return err;
}

/* Makes the file, its inode and a handle; `id` becomes the inode's, unless it has one. */
static int create_handle(fuse_req_t req, struct inode *parent, const char *name, mode_t mode,
                         int flags, struct ident *id, struct stat *st, struct handle **out)
{
    struct fs *fs = ops_fs(req);
    char path[PATH_MAX];
    struct inode *i = NULL;
    int fd = -1;
    fs_names_hold(fs);
    int err = ops_child_path(fs, parent, name, path);
    if (!err)
        err = create_backing(req, path, flags, mode, &fd);
    if (!err && fstat(fd, st))
        err = errno;
    if (!err && !(i = inode_enter(&fs->inodes, parent, name, st)))
        err = ENOMEM;
    if (!err && !(*out = handle_new(fs, i, fd, flags, 0)))
        err = ENOMEM;
    struct ident *now = err ? NULL : inode_set_ident(&fs->inodes, i, id, true);
    fs_names_release(fs);
    if (now != id)
        ident_free(id);
    if (!err) {
        set_database(fs, *out, now, ops_own(req));
        return 0;
    }
    if (i)
        inode_forget(&fs->inodes, i, 1);
    file_close(fd);
    return err;
}

void op_create(fuse_req_t req, fuse_ino_t parent_ino, const char *name, mode_t mode,
               struct fuse_file_info *fi)
{
    struct fs *fs = ops_fs(req);
    struct inode *parent = ops_inode(fs, parent_ino);
    char path[PATH_MAX];
    struct handle *h = NULL;
    struct stat st;

    /* Which database it belongs to must be known before the file exists. */
    fs_names_hold(fs);
    int err = ops_child_path(fs, parent, name, path);
    fs_names_release(fs);
    struct ident *id = err ? NULL : ident_new(fs, path);
    if (!err && !id)
        err = ENOMEM;
    if (!err && info_is_name(name) && info_kind_of(fs, path) != INFO_NONE)
        err = EACCES;
    if (!err)
        err = permit_open(fs, id->db, id->kind, fi->flags | O_CREAT, ops_own(req));
    if (err) {
        ident_free(id);
        fuse_reply_err(req, err);
        return;
    }
    bool matters = database_making_counts(id->kind);
    err = create_handle(req, parent, name, mode, fi->flags, id, &st, &h);
    if (matters)
        atomic_fetch_add(&parent->changes, 1);
    if (err) {
        fuse_reply_err(req, err);
        return;
    }
    struct fuse_entry_param entry;
    ops_entry(fs, h->inode, name, &st, &entry);
    fill_info(fi, h);
    if (fuse_reply_create(req, &entry, fi)) {
        struct inode *i = h->inode;
        end_handle(fs, h);
        inode_forget(&fs->inodes, i, 1);
    }
}

static void flush_done(void *req)
{
    fuse_reply_err(req, 0);
}

void op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino;
    struct handle *h = ops_handle(fi);
    loop_long_begin();
    int rc = h->db ? database_flushed(h->db, h->kind, h->file, h->own) : 0;
    loop_long_end();
    if (rc || !h->db ||
        !database_closing(h->db, h->kind, h->own, fuse_req_ctx(req)->pid, flush_done, req))
        fuse_reply_err(req, rc ? err_errno(rc) : 0);
}

void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino;
    end_handle(ops_fs(req), ops_handle(fi));
    fuse_reply_err(req, 0);
}
