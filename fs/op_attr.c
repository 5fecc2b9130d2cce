/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "fs/ident.h"
#include "fs/ops.h"
#include "fs/permit.h"
#include "fs/loop.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"

/* Attributes. The kernel asks without a handle even for an open file that has no name any more. */

struct target {
    struct handle *h; /* its descriptor, or */
    char path[PATH_MAX];
};

static int target_find(struct fs *fs, struct inode *i, struct target *t)
{
    t->h = handle_any(fs, i);
    return t->h ? 0 : ops_path(fs, i, t->path);
}

static int target_stat(struct fs *fs, const struct target *t, struct stat *st)
{
    int rc = t->h ? fstat(t->h->fd, st) : fstatat(fs->tree_dirfd, t->path, st, AT_SYMLINK_NOFOLLOW);
    return rc ? errno : 0;
}

static int get_attributes(struct fs *fs, struct inode *i, struct stat *st)
{
    struct target t;
    if (i->info)
        return ops_info_stat(fs, i, st);
    fs_names_hold(fs);
    int err = target_find(fs, i, &t);
    if (!err)
        err = target_stat(fs, &t, st);
    fs_names_release(fs);
    if (t.h)
        handle_put(fs, t.h);
    return err;
}

void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)fi;
    struct fs *fs = ops_fs(req);
    struct inode *i = ops_inode(fs, ino);
    struct stat st;
    int err = get_attributes(fs, i, &st);
    if (err)
        fuse_reply_err(req, err);
    else
        fuse_reply_attr(req, &st, ops_attr_timeout(fs, i));
}

static int change_mode(struct fs *fs, const struct target *t, mode_t mode)
{
    int rc = t->h ? fchmod(t->h->fd, mode) : fchmodat(fs->tree_dirfd, t->path, mode, 0);
    return rc ? errno : 0;
}

static int change_owner(struct fs *fs, const struct target *t, uid_t uid, gid_t gid)
{
    int rc = t->h ? fchown(t->h->fd, uid, gid)
                  : fchownat(fs->tree_dirfd, t->path, uid, gid, AT_SYMLINK_NOFOLLOW);
    return rc ? errno : 0;
}

static int change_times(struct fs *fs, const struct target *t, const struct stat *want, int which)
{
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_nsec = UTIME_OMIT}};
    if (which & FUSE_SET_ATTR_ATIME_NOW)
        times[0].tv_nsec = UTIME_NOW;
    else if (which & FUSE_SET_ATTR_ATIME)
        times[0] = want->st_atim;
    if (which & FUSE_SET_ATTR_MTIME_NOW)
        times[1].tv_nsec = UTIME_NOW;
    else if (which & FUSE_SET_ATTR_MTIME)
        times[1] = want->st_mtim;
    int rc = t->h ? futimens(t->h->fd, times)
                  : utimensat(fs->tree_dirfd, t->path, times, AT_SYMLINK_NOFOLLOW);
    return rc ? errno : 0;
}

static int change_attributes(struct fs *fs, struct inode *i, const struct stat *want, int which)
{
    struct target t;
    fs_names_hold(fs);
    int err = target_find(fs, i, &t);
    if (!err && (which & (FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)))
        err = change_owner(fs, &t, which & FUSE_SET_ATTR_UID ? want->st_uid : (uid_t)-1,
                           which & FUSE_SET_ATTR_GID ? want->st_gid : (gid_t)-1);
    if (!err && (which & FUSE_SET_ATTR_MODE))
        err = change_mode(fs, &t, want->st_mode);
    if (!err && (which & (FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_ATIME_NOW |
                          FUSE_SET_ATTR_MTIME_NOW)))
        err = change_times(fs, &t, want, which);
    fs_names_release(fs);
    if (t.h)
        handle_put(fs, t.h);
    return err;
}

/* truncate(2) comes without a handle: a descriptor just for it. */
static int truncate_by_path(struct fs *fs, struct inode *i, off_t size)
{
    char path[PATH_MAX];
    int fd = -1;
    fs_names_hold(fs);
    int err = ops_path(fs, i, path);
    if (!err) {
        fd = file_ops->openat(fs->tree_dirfd, path, O_WRONLY | O_NOFOLLOW | O_CLOEXEC, 0);
        if (fd < 0)
            err = errno;
    }
    fs_names_release(fs);
    if (err)
        return err;
    if (file_ops->ftruncate(fd, size))
        err = errno;
    file_close(fd);
    return err;
}

static int change_size(struct fs *fs, struct inode *i, struct handle *h, bool own, off_t size)
{
    struct ident *id = ident_of(fs, i);
    int err = permit_write(fs, id ? id->kind : FILE_MAIN, own);
    int rc = !err && id ? database_before_truncate(id->db, id->kind, own, size) : 0;
    if (err || rc)
        return err ? err : err_errno(rc);
    if (!h)
        err = truncate_by_path(fs, i, size);
    else if (file_ops->ftruncate(h->fd, size))
        err = errno;
    if (id && (rc = database_after_truncate(id->db, id->kind, own, err ? -1 : size)))
        err = err_errno(rc);
    return err;
}

void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *want, int which,
                struct fuse_file_info *fi)
{
    struct fs *fs = ops_fs(req);
    struct inode *i = ops_inode(fs, ino);
    struct handle *h = fi ? ops_handle(fi) : NULL;
    bool own = h ? h->own : ops_own(req);
    int others = which & ~FUSE_SET_ATTR_SIZE;
    struct stat st;

    loop_long_begin();
    /* A truncation may carry the times along: they are not a change of its own. */
    int err = i->info ? EPERM : 0;
    if (!err && !(which & FUSE_SET_ATTR_SIZE))
        err = permit_change(fs, own);
    if (!err && (which & FUSE_SET_ATTR_SIZE))
        err = change_size(fs, i, h, own, want->st_size);
    if (!err && others)
        err = change_attributes(fs, i, want, which);
    if (!err)
        err = get_attributes(fs, i, &st);
    loop_long_end();
    if (err)
        fuse_reply_err(req, err);
    else
        fuse_reply_attr(req, &st, ops_attr_timeout(fs, i));
}

void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
    (void)ino;
    struct statvfs st;
    if (fstatvfs(ops_fs(req)->tree_dirfd, &st))
        fuse_reply_err(req, errno);
    else
        fuse_reply_statfs(req, &st);
}
