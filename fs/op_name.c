/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <unistd.h>

#include "fs/db/catalog.h"
#include "fs/ident.h"
#include "fs/info.h"
#include "fs/ops.h"
#include "fs/permit.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"

/* Names that are found, and names that are made without being opened. */

/* Enters what is at `path` into the table. Under the lock of names. */
static int enter(struct fs *fs, struct inode *parent, const char *name, const char *path,
                 struct inode **out, struct stat *st)
{
    if (fstatat(fs->tree_dirfd, path, st, AT_SYMLINK_NOFOLLOW))
        return errno;
    *out = inode_enter(&fs->inodes, parent, name, st);
    return *out ? 0 : ENOMEM;
}

static int lookup_info(struct fs *fs, struct inode *parent, const char *name, const char *path,
                       struct inode **out, struct stat *st)
{
    enum info_kind kind = info_kind_of(fs, path);
    if (kind == INFO_NONE)
        return ENOENT;
    struct inode *i = inode_enter_info(&fs->inodes, parent, name, kind);
    if (!i)
        return ENOMEM;
    int err = ops_info_stat(fs, i, st);
    if (err)
        inode_forget(&fs->inodes, i, 1);
    else
        *out = i;
    return err;
}

/* The kernel may remember that there is no such name: only it can make one. */
static void reply_nothing(fuse_req_t req, const char *name)
{
    if (info_is_name(name)) {
        fuse_reply_err(req, ENOENT);
        return;
    }
    struct fuse_entry_param none = {.entry_timeout = OPS_TIMEOUT_S};
    fuse_reply_entry(req, &none);
}

void op_lookup(fuse_req_t req, fuse_ino_t parent_ino, const char *name)
{
    struct fs *fs = ops_fs(req);
    struct inode *parent = ops_inode(fs, parent_ino), *i = NULL;
    char path[PATH_MAX];
    struct stat st;

    fs_names_hold(fs);
    int err = ops_child_path(fs, parent, name, path);
    if (!err && info_is_name(name)) {
        err = lookup_info(fs, parent, name, path, &i, &st);
        if (err == ENOENT)
            err = enter(fs, parent, name, path, &i, &st);
    } else if (!err) {
        err = enter(fs, parent, name, path, &i, &st);
    }
    fs_names_release(fs);

    if (!err)
        ops_reply_entry(req, i, name, &st);
    else if (err == ENOENT)
        reply_nothing(req, name);
    else
        fuse_reply_err(req, err);
}

void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t lookups)
{
    struct fs *fs = ops_fs(req);
    inode_forget(&fs->inodes, ops_inode(fs, ino), lookups);
    fuse_reply_none(req);
}

void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
    struct fs *fs = ops_fs(req);
    for (size_t n = 0; n < count; n++)
        inode_forget(&fs->inodes, ops_inode(fs, forgets[n].ino), forgets[n].nlookup);
    fuse_reply_none(req);
}

/* What the operations below make at a path; the rest is the same for all of them. */
struct making {
    mode_t mode;
    dev_t rdev;
    const char *target; /* of a symbolic link */
    const char *from;   /* path of the file to link to */
};

static int make_node(struct fs *fs, const char *path, const struct making *what)
{
    return file_ops->mknodat(fs->tree_dirfd, path, what->mode, what->rdev);
}

static int make_folder(struct fs *fs, const char *path, const struct making *what)
{
    return file_ops->mkdirat(fs->tree_dirfd, path, what->mode);
}

static int make_symlink(struct fs *fs, const char *path, const struct making *what)
{
    return file_ops->symlinkat(what->target, fs->tree_dirfd, path);
}

static int make_link(struct fs *fs, const char *path, const struct making *what)
{
    return file_ops->linkat(fs->tree_dirfd, what->from, fs->tree_dirfd, path, 0);
}

static void make(fuse_req_t req, fuse_ino_t parent_ino, const char *name,
                 int (*how)(struct fs *, const char *, const struct making *),
                 const struct making *what)
{
    struct fs *fs = ops_fs(req);
    struct inode *parent = ops_inode(fs, parent_ino), *i = NULL;
    char path[PATH_MAX];
    struct stat st;

    int err = permit_change(fs, ops_own(req));
    if (err) {
        fuse_reply_err(req, err);
        return;
    }
    fs_names_hold(fs);
    err = ops_child_path(fs, parent, name, path);
    if (!err && how(fs, path, what))
        err = errno;
    if (!err && how != make_link)
        err = ops_give_to_caller(req, path);
    if (!err)
        err = enter(fs, parent, name, path, &i, &st);
    fs_names_release(fs);
    atomic_fetch_add(&parent->changes, 1);
    if (err)
        fuse_reply_err(req, err);
    else
        ops_reply_entry(req, i, name, &st);
}

void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
    if (!S_ISREG(mode) && !S_ISFIFO(mode) && !S_ISSOCK(mode))
        fuse_reply_err(req, EPERM);
    else
        make(req, parent, name, make_node, &(struct making){.mode = mode, .rdev = rdev});
}

void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
    make(req, parent, name, make_folder, &(struct making){.mode = mode});
}

void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
    make(req, parent, name, make_symlink, &(struct making){.target = target});
}

void op_readlink(fuse_req_t req, fuse_ino_t ino)
{
    struct fs *fs = ops_fs(req);
    char path[PATH_MAX], target[PATH_MAX + 1];

    fs_names_hold(fs);
    ssize_t n = 0;
    int err = ops_path(fs, ops_inode(fs, ino), path);
    if (!err && (n = readlinkat(fs->tree_dirfd, path, target, sizeof target - 1)) < 0)
        err = errno;
    fs_names_release(fs);
    if (err) {
        fuse_reply_err(req, err);
        return;
    }
    target[n] = 0;
    fuse_reply_readlink(req, target);
}

/*
 * A second name for an ordinary file. A database with two names would have two journals, and SQLite
 * warns of it: refused for what is replicated, and for SQLite's side files.
 */
void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
    struct fs *fs = ops_fs(req);
    struct inode *i = ops_inode(fs, ino);
    char from[PATH_MAX];
    size_t base_len;

    if (i->info || file_kind_of(name, &base_len) != FILE_MAIN) {
        fuse_reply_err(req, EPERM);
        return;
    }
    struct ident *id = ident_of(fs, i);
    if (id && (id->kind != FILE_MAIN || catalog_ledger(fs->catalog, database_path(id->db)))) {
        fuse_reply_err(req, EPERM);
        return;
    }
    fs_names_hold(fs);
    int err = ops_path(fs, i, from);
    fs_names_release(fs);
    if (err)
        fuse_reply_err(req, err);
    else
        make(req, parent, name, make_link, &(struct making){.from = from});
}
