/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/ops.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "fs/db/own.h"
#include "fs/ident.h"
#include "fs/info.h"
#include "ltx/base/err.h"

/* SQLite writes a page at a time; each worker has a buffer of this size, and has touched it. */
#define MAX_WRITE 131072

/*
 * What the connection asks of the kernel. No POSIX or flock locks (the kernel keeps them), no
 * atomic O_TRUNC (a truncation always arrives as setattr, where it can be refused or captured), no
 * splice (two more system calls for a page), no check of mtime before each cached read.
 */
static void op_init(void *userdata, struct fuse_conn_info *conn)
{
    (void)userdata;
    conn->want &=
        ~(unsigned)(FUSE_CAP_POSIX_LOCKS | FUSE_CAP_FLOCK_LOCKS | FUSE_CAP_ATOMIC_O_TRUNC |
                    FUSE_CAP_AUTO_INVAL_DATA | FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE |
                    FUSE_CAP_SPLICE_MOVE | FUSE_CAP_WRITEBACK_CACHE | FUSE_CAP_HANDLE_KILLPRIV |
                    FUSE_CAP_IOCTL_DIR);
    conn->want |= conn->capable & (FUSE_CAP_ASYNC_READ | FUSE_CAP_PARALLEL_DIROPS |
                                   FUSE_CAP_ASYNC_DIO | FUSE_CAP_CACHE_SYMLINKS);
    conn->max_write = MAX_WRITE;
    conn->max_background = 64; /* read-ahead of several readers, write-back of mapped wal-indexes */
    conn->congestion_threshold = 48;
    conn->time_gran = 1;
}

/* ENOSYS is remembered by the kernel: without it, each write would ask for security.capability. */
static void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
    (void)ino, (void)name, (void)size;
    fuse_reply_err(req, ENOSYS);
}

static void op_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value,
                        size_t size, int flags)
{
    (void)ino, (void)name, (void)value, (void)size, (void)flags;
    fuse_reply_err(req, ENOSYS);
}

static void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
    (void)ino, (void)size;
    fuse_reply_err(req, ENOSYS);
}

static void op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
    (void)ino, (void)name;
    fuse_reply_err(req, ENOSYS);
}

/*
 * What is not here is answered ENOSYS by libfuse: access (default_permissions), locks, flock,
 * ioctl, poll, and copy_file_range, which the kernel then does by reading and writing, so that
 * every write is seen.
 */
const struct fuse_lowlevel_ops fs_ops = {
    .init = op_init,
    .lookup = op_lookup,
    .forget = op_forget,
    .forget_multi = op_forget_multi,
    .getattr = op_getattr,
    .setattr = op_setattr,
    .readlink = op_readlink,
    .mknod = op_mknod,
    .mkdir = op_mkdir,
    .unlink = op_unlink,
    .rmdir = op_rmdir,
    .symlink = op_symlink,
    .rename = op_rename,
    .link = op_link,
    .open = op_open,
    .read = op_read,
    .write = op_write,
    .flush = op_flush,
    .release = op_release,
    .fsync = op_fsync,
    .opendir = op_opendir,
    .readdir = op_readdir,
    .releasedir = op_releasedir,
    .fsyncdir = op_fsyncdir,
    .statfs = op_statfs,
    .setxattr = op_setxattr,
    .getxattr = op_getxattr,
    .listxattr = op_listxattr,
    .removexattr = op_removexattr,
    .create = op_create,
    .fallocate = op_fallocate,
    .lseek = op_lseek,
};

static int path_error(int rc)
{
    return rc == -ERR_LIMIT ? ENAMETOOLONG : rc ? err_errno(rc) : 0;
}

int ops_path(struct fs *fs, const struct inode *i, char out[PATH_MAX])
{
    return path_error(inode_path(&fs->inodes, i, out, PATH_MAX));
}

int ops_child_path(struct fs *fs, const struct inode *parent, const char *name, char out[PATH_MAX])
{
    return path_error(inode_child_path(&fs->inodes, parent, name, out, PATH_MAX));
}

bool ops_own(fuse_req_t req)
{
    return own_contains(fuse_req_ctx(req)->pid);
}

double ops_attr_timeout(struct fs *fs, struct inode *i)
{
    const struct ident *id = atomic_load(&i->ident);
    if (i->info || (id && id->kind == FILE_MAIN && !database_is_settled(id->db)))
        return 0;
    /* A rename takes it away for a while. A file that nobody has open holds no part of anything. */
    if (!id && S_ISREG(i->type) && handle_is_any(fs, i))
        return 0;
    return OPS_TIMEOUT_S;
}

void ops_entry(struct fs *fs, struct inode *i, const char *name, const struct stat *st,
               struct fuse_entry_param *out)
{
    *out = (struct fuse_entry_param){
        .ino = i == fs->inodes.root ? FUSE_ROOT_ID : (fuse_ino_t)(uintptr_t)i,
        .attr = *st,
        .attr_timeout = ops_attr_timeout(fs, i),
        .entry_timeout = info_is_name(name) ? 0 : OPS_TIMEOUT_S,
    };
}

void ops_reply_entry(fuse_req_t req, struct inode *i, const char *name, const struct stat *st)
{
    struct fs *fs = ops_fs(req);
    struct fuse_entry_param entry;
    ops_entry(fs, i, name, st, &entry);
    if (fuse_reply_entry(req, &entry))
        inode_forget(&fs->inodes, i, 1);
}

int ops_info_stat(struct fs *fs, struct inode *i, struct stat *st)
{
    char path[PATH_MAX], content[INFO_SIZE_MAX];
    if (inode_path(&fs->inodes, i, path, sizeof path))
        return ENOENT;
    size_t len = info_read(fs, i->info, path, content);
    if (!len)
        return ENOENT;
    *st = (struct stat){
        .st_ino = i->ino,
        .st_mode = S_IFREG | 0444,
        .st_nlink = 1,
        .st_uid = fs->uid,
        .st_gid = fs->gid,
        .st_size = (off_t)len,
        .st_blksize = 4096,
        .st_blocks = 1,
    };
    clock_gettime(CLOCK_REALTIME, &st->st_mtim);
    st->st_atim = st->st_ctim = st->st_mtim;
    return 0;
}

/* A folder with the setgid bit gives its group to what is made in it. */
static bool folder_gives_group(struct fs *fs, const char *path)
{
    char folder[PATH_MAX];
    struct stat st;
    const char *slash = strrchr(path, '/');
    size_t len = slash ? (size_t)(slash - path) : 1;
    memcpy(folder, slash ? path : ".", len);
    folder[len] = 0;
    return fstatat(fs->tree_dirfd, folder, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_mode & S_ISGID;
}

int ops_give_to_caller(fuse_req_t req, const char *path)
{
    struct fs *fs = ops_fs(req);
    const struct fuse_ctx *ctx = fuse_req_ctx(req);
    if (fs->uid != 0 || (ctx->uid == fs->uid && ctx->gid == fs->gid))
        return 0;
    gid_t gid = folder_gives_group(fs, path) ? (gid_t)-1 : ctx->gid;
    if (fchownat(fs->tree_dirfd, path, ctx->uid, gid, AT_SYMLINK_NOFOLLOW))
        return errno;
    return 0;
}
