/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FS_OPS_H
#define FS_OPS_H

#include <fuse_lowlevel.h>
#include <limits.h>

#include "fs/adapter.h"
#include "fs/handle.h"
#include "fs/inode.h"

/*
 * The table of operations, and what they share. Each operation replies exactly once, in the thread
 * that received the request. A file is worked on through its handle's descriptor, everything else
 * by path below the tree's descriptor.
 */
extern const struct fuse_lowlevel_ops fs_ops;

/*
 * All access goes through the mount, so what the kernel knows stays right until the kernel itself
 * changes it. Asked for each time are the names of informational files, and the attributes of a
 * database file that holds part of a transaction.
 */
#define OPS_TIMEOUT_S 86400.0

static inline struct fs *ops_fs(fuse_req_t req)
{
    return fuse_req_userdata(req);
}

/* The number by which the kernel knows an inode is its address, but for the top folder. */
static inline struct inode *ops_inode(struct fs *fs, fuse_ino_t ino)
{
    return ino == FUSE_ROOT_ID ? fs->inodes.root : (struct inode *)(uintptr_t)ino;
}

static inline struct handle *ops_handle(const struct fuse_file_info *fi)
{
    return (struct handle *)(uintptr_t)fi->fh;
}

/* Paths below the tree, for use under the lock of names. */
int ops_path(struct fs *fs, const struct inode *i, char out[PATH_MAX]);
int ops_child_path(struct fs *fs, const struct inode *parent, const char *name, char out[PATH_MAX]);

bool ops_own(fuse_req_t req); /* the daemon itself is asking, through its own mount */

/*
 * How long the kernel may believe the attributes, in seconds. Not at all those of a database file that
 * holds part of a transaction: a reader whose transaction begins after our death must not get as far
 * as reading it (expire.h).
 */
double ops_attr_timeout(struct fs *fs, struct inode *i);

/* The entry that is replied for an inode; its name decides how long the kernel may believe it. */
void ops_entry(struct fs *fs, struct inode *i, const char *name, const struct stat *st,
               struct fuse_entry_param *out);
/* Replies with the entry; takes back the lookup if the kernel did not want the answer any more. */
void ops_reply_entry(fuse_req_t req, struct inode *i, const char *name, const struct stat *st);

/* Attributes of an informational file. ENOENT if it has ceased to be. */
int ops_info_stat(struct fs *fs, struct inode *i, struct stat *st);

/* What a new file gets when the daemon is root: its creator as the owner. `path` below the tree. */
int ops_give_to_caller(fuse_req_t req, const char *path);

/* op_name.c */
void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name);
void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t lookups);
void op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets);
void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev);
void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode);
void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name);
void op_readlink(fuse_req_t req, fuse_ino_t ino);
void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name);

/* op_remove.c */
void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name);
void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name);
void op_rename(fuse_req_t req, fuse_ino_t parent_ino, const char *name, fuse_ino_t to_ino,
               const char *to_name, unsigned flags);

/* op_attr.c */
void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *want, int which,
                struct fuse_file_info *fi);
void op_statfs(fuse_req_t req, fuse_ino_t ino);

/* op_open.c */
void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
               struct fuse_file_info *fi);
void op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);

/* op_data.c */
void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void op_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t off,
              struct fuse_file_info *fi);
void op_fsync(fuse_req_t req, fuse_ino_t ino, int data_only, struct fuse_file_info *fi);
void op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len,
                  struct fuse_file_info *fi);
void op_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi);

/* op_dir.c */
void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void op_fsyncdir(fuse_req_t req, fuse_ino_t ino, int data_only, struct fuse_file_info *fi);

#endif
