/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "fs/db/catalog.h"
#include "fs/ident.h"
#include "fs/info.h"
#include "fs/ops.h"
#include "fs/permit.h"
#include "fs/loop.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/base/logger.h"

/* Names that go away or change: unlink, rmdir, rename. */

/* What a name stands for before it is removed or changed. */
struct found {
    char path[PATH_MAX];
    struct stat st;
    struct ident *id; /* of an ordinary file; ident_free ends it */
};

static int find(struct fs *fs, struct inode *parent, const char *name, struct found *f)
{
    f->id = NULL;
    fs_names_hold(fs);
    int err = ops_child_path(fs, parent, name, f->path);
    if (!err && fstatat(fs->tree_dirfd, f->path, &f->st, AT_SYMLINK_NOFOLLOW))
        err = errno;
    fs_names_release(fs);
    if (err || !S_ISREG(f->st.st_mode))
        return err;
    f->id = ident_new(fs, f->path);
    return f->id ? 0 : ENOMEM;
}

/* An informational file can be neither removed nor replaced. */
static bool is_informational(struct fs *fs, const char *name, const char *path)
{
    return info_is_name(name) && info_kind_of(fs, path) != INFO_NONE;
}

/* The next fsync of the folder matters, unless it was one of SQLite's side files that went. */
static void removed_from(struct inode *parent, const struct ident *id)
{
    if (!id || database_removal_counts(id->kind))
        atomic_fetch_add(&parent->changes, 1);
}

static int unlink_file(struct fs *fs, struct inode *parent, const char *name, struct found *f,
                       bool own)
{
    int rc = f->id ? database_before_unlink(f->id->db, f->id->kind, f->path, own) : 0;
    if (rc)
        return err_errno(rc);
    int err = 0;
    fs_names_hold(fs);
    if (file_ops->unlinkat(fs->tree_dirfd, f->path, 0))
        err = errno;
    else
        inode_unnamed(&fs->inodes, parent, name, f->st.st_nlink - 1);
    fs_names_release(fs);
    if (err && f->id && !own)
        database_unlink_failed(f->id->db, f->id->kind);
    if (err)
        return err;
    removed_from(parent, f->id);
    if (f->id)
        database_after_unlink(f->id->db, f->id->kind, own);
    return 0;
}

void op_unlink(fuse_req_t req, fuse_ino_t parent_ino, const char *name)
{
    struct fs *fs = ops_fs(req);
    struct inode *parent = ops_inode(fs, parent_ino);
    struct found f;
    bool own = ops_own(req);

    int err = permit_change(fs, own);
    if (err) {
        fuse_reply_err(req, err);
        return;
    }
    loop_long_begin(); /* for a journal, this is the commit */
    err = find(fs, parent, name, &f);
    if (!err || err == ENOENT)
        err = is_informational(fs, name, f.path) ? EPERM : err;
    if (!err)
        err = unlink_file(fs, parent, name, &f, own);
    ident_free(f.id);
    loop_long_end();
    fuse_reply_err(req, err);
}

void op_rmdir(fuse_req_t req, fuse_ino_t parent_ino, const char *name)
{
    struct fs *fs = ops_fs(req);
    struct inode *parent = ops_inode(fs, parent_ino);
    char path[PATH_MAX];

    int err = permit_change(fs, ops_own(req));
    if (err) {
        fuse_reply_err(req, err);
        return;
    }
    fs_names_hold(fs);
    err = ops_child_path(fs, parent, name, path);
    if (!err && file_ops->unlinkat(fs->tree_dirfd, path, AT_REMOVEDIR))
        err = errno;
    if (!err)
        inode_unnamed(&fs->inodes, parent, name, 0);
    fs_names_release(fs);
    if (!err)
        atomic_fetch_add(&parent->changes, 1);
    fuse_reply_err(req, err);
}

/* The names change on disk and in the table as one step for every path that is in use. */
static int rename_names(struct fs *fs, struct inode *parent, const char *name,
                        struct inode *to_parent, const char *to_name, unsigned flags, bool folder)
{
    char from[PATH_MAX], to[PATH_MAX];
    struct stat replaced;
    fs_names_change(fs);
    int err = ops_child_path(fs, parent, name, from);
    if (!err)
        err = ops_child_path(fs, to_parent, to_name, to);
    bool replaces = !err && fstatat(fs->tree_dirfd, to, &replaced, AT_SYMLINK_NOFOLLOW) == 0;
    if (!err && file_ops->renameat2(fs->tree_dirfd, from, fs->tree_dirfd, to, flags))
        err = errno;
    if (!err) {
        if (replaces)
            inode_unnamed(&fs->inodes, to_parent, to_name,
                          S_ISDIR(replaced.st_mode) ? 0 : replaced.st_nlink - 1);
        if (inode_renamed(&fs->inodes, parent, name, to_parent, to_name))
            log_warn("fs", "out of memory while %s was renamed to %s; it will be looked up anew",
                     from, to);
        if (folder) {
            struct inode *i = inode_find(&fs->inodes, to_parent, to_name);
            if (i) {
                inode_clear_idents_below(&fs->inodes, i);
                inode_release(&fs->inodes, i);
            }
        }
    }
    fs_names_release(fs);
    if (!err) {
        atomic_fetch_add(&parent->changes, 1);
        atomic_fetch_add(&to_parent->changes, 1);
    }
    return err;
}

static int rename_folder(struct fs *fs, struct inode *parent, const char *name, struct found *f,
                         struct inode *to_parent, const char *to_name, unsigned flags)
{
    char to[PATH_MAX];
    int err = ops_child_path(fs, to_parent, to_name, to);
    int rc = err ? 0 : catalog_folder_will_move(fs->catalog, f->path);
    if (!err)
        err = rc ? err_errno(rc) : rename_names(fs, parent, name, to_parent, to_name, flags, true);
    if (err)
        return err;
    /* It is done; what could not be captured is named by fs/db and captured again later. */
    rc = catalog_folder_renamed(fs->catalog, f->path, to);
    if (rc)
        log_error("fs", "databases below %s (now %s) could not all be recorded: %s", f->path, to,
                  err_text(rc));
    return 0;
}

static int rename_file(struct fs *fs, struct inode *parent, const char *name, struct found *f,
                       struct inode *to_parent, const char *to_name, unsigned flags)
{
    char path[PATH_MAX];
    struct stat st;
    int err = ops_child_path(fs, to_parent, to_name, path);
    if (err)
        return err;
    if (fstatat(fs->tree_dirfd, path, &st, AT_SYMLINK_NOFOLLOW) == 0) {
        if (flags & RENAME_NOREPLACE)
            return EEXIST;
        if (st.st_dev == f->st.st_dev && st.st_ino == f->st.st_ino)
            return 0; /* two names of one file: POSIX has nothing happen */
    }
    if (!f->id)
        return rename_names(fs, parent, name, to_parent, to_name, flags, false);
    struct ident *to = ident_new(fs, path);
    if (!to)
        return ENOMEM;
    int rc = database_before_rename(f->id->db, f->id->kind, to->db, to->kind);
    err = rc ? err_errno(rc) : rename_names(fs, parent, name, to_parent, to_name, flags, false);
    if (!err)
        database_after_rename(f->id->db, f->id->kind, to->db, to->kind);
    ident_free(to);
    return err;
}

void op_rename(fuse_req_t req, fuse_ino_t parent_ino, const char *name, fuse_ino_t to_ino,
               const char *to_name, unsigned flags)
{
    struct fs *fs = ops_fs(req);
    struct inode *parent = ops_inode(fs, parent_ino), *to_parent = ops_inode(fs, to_ino);
    char to_path[PATH_MAX];
    struct found f;

    int err = permit_change(fs, ops_own(req));
    if (!err && (flags & ~(unsigned)RENAME_NOREPLACE))
        err = EINVAL; /* an exchange of two databases would be two renames in one record */
    if (err) {
        fuse_reply_err(req, err);
        return;
    }
    loop_long_begin();
    err = find(fs, parent, name, &f);
    if (!err)
        err = ops_child_path(fs, to_parent, to_name, to_path);
    if (!err && (is_informational(fs, name, f.path) || is_informational(fs, to_name, to_path)))
        err = EPERM;
    if (!err)
        err = S_ISDIR(f.st.st_mode) ? rename_folder(fs, parent, name, &f, to_parent, to_name, flags)
                                    : rename_file(fs, parent, name, &f, to_parent, to_name, flags);
    ident_free(f.id);
    loop_long_end();
    fuse_reply_err(req, err);
}
