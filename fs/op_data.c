/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/ident.h"
#include "fs/info.h"
#include "fs/ops.h"
#include "fs/permit.h"
#include "fs/loop.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/ledger.h"

/* Bytes in and out. op_write is the path of a commit: nothing here that it does not need. */

/* Most reads fit here; what is larger is read-ahead, where an allocation does not count. */
#define SMALL_READ 65536

static void read_info(fuse_req_t req, struct handle *h, size_t size, off_t off)
{
    struct fs *fs = ops_fs(req);
    char path[PATH_MAX], text[INFO_SIZE_MAX];
    size_t len = 0;
    /* A file that is read on from the start again and again shows the present each time. */
    if (off == 0 && inode_path(&fs->inodes, h->inode, path, sizeof path) == 0)
        len = info_read(fs, h->inode->info, path, text);
    handle_info(fs, h, off == 0, text, &len);
    if (off < 0 || (size_t)off >= len) {
        fuse_reply_buf(req, NULL, 0);
        return;
    }
    size_t left = len - (size_t)off;
    fuse_reply_buf(req, text + off, left < size ? left : size);
}

void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
    (void)ino;
    struct handle *h = ops_handle(fi);
    char small[SMALL_READ];
    size_t got = 0;
    if (h->fd < 0) {
        read_info(req, h, size, off);
        return;
    }
    char *buf = size <= sizeof small ? small : malloc(size);
    int rc = buf ? file_read_some(h->fd, buf, size, off, &got) : -ERR_NOMEM;
    if (rc)
        fuse_reply_err(req, err_errno(rc));
    else
        fuse_reply_buf(req, buf, got);
    if (buf != small)
        free(buf);
}

/* Writes as much as the backing file system takes. An error only if that is nothing. */
static int write_backing(int fd, const char *data, size_t size, off_t off, size_t *written)
{
    size_t done = 0;
    int err = 0;
    while (done < size && !err) {
        ssize_t n = file_ops->pwrite(fd, data + done, size - done, off + (off_t)done);
        if (n > 0)
            done += (size_t)n;
        else if (n == 0)
            err = EIO;
        else if (errno != EINTR)
            err = errno;
    }
    *written = done;
    return done ? 0 : err;
}

/* So much new in a -wal makes it worth to be read. */
#define WARM_WORTH 65536

/* The header of a -wal has been written: what lies behind it will be overwritten from now on. */
static void wal_began(struct fs *fs, struct handle *h)
{
    struct stat st;
    char path[PATH_MAX];
    off_t warmed = atomic_load(&h->inode->warmed);
    if (fstat(h->fd, &st) || st.st_size < warmed + WARM_WORTH)
        return;
    if (inode_path(&fs->inodes, h->inode, path, sizeof path))
        return;
    atomic_store(&h->inode->warmed, st.st_size);
    warm_file(&fs->warmer, path, warmed & ~(off_t)4095);
}

/* Shared memory: that its pages are written back means nothing. Whoever waits for that may hold the
 * map of this process's memory (fs/db/unmap.h), so neither a mutex nor memory is taken for it. */
static bool is_wal_index(const struct handle *h)
{
    return h->db && h->kind == FILE_SHM;
}

void op_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t off,
              struct fuse_file_info *fi)
{
    (void)ino;
    struct fs *fs = ops_fs(req);
    struct handle *h = ops_handle(fi);
    size_t written = 0;
    struct ident *id = is_wal_index(h) ? NULL : ident_of(fs, h->inode);
    int rc = 0;
    int err = id ? permit_write(fs, id->kind, h->own) : 0;
    if (!err && id && (rc = database_before_write(id->db, id->kind, h->own, off, size)))
        err = err_errno(rc);
    bool begun = !err && id;
    if (!err)
        err = write_backing(h->fd, data, size, off, &written);
    if (begun && (rc = database_after_write(id->db, id->kind, h->own, off, written)))
        err = err_errno(rc);
    if (err) {
        fuse_reply_err(req, err);
        return;
    }
    if (off == 0 && id && id->kind == FILE_WAL && !h->own)
        wal_began(fs, h);
    /* After the reply the handle may be gone. */
    struct ledger *l = id && !h->own ? database_sync_follows(id->db, id->kind) : NULL;
    fuse_reply_write(req, written);
    if (l)
        (void)ledger_sync(l, ledger_last(l).txid); /* a failure meets the client's own sync */
}

void op_fsync(fuse_req_t req, fuse_ino_t ino, int data_only, struct fuse_file_info *fi)
{
    (void)ino;
    struct fs *fs = ops_fs(req);
    struct handle *h = ops_handle(fi);
    if (h->fd < 0 || is_wal_index(h)) {
        fuse_reply_err(req, 0);
        return;
    }
    const struct ident *id = ident_of(fs, h->inode);
    int rc;
    if (id && database_is_synced(id->db, id->kind)) {
        fuse_reply_err(req, 0);
        return;
    }
    loop_long_begin();
    if (id)
        rc = database_sync(id->db, id->kind, h->own, h->fd);
    else
        rc = data_only ? file_sync_data(h->fd) : file_sync(h->fd);
    loop_long_end();
    fuse_reply_err(req, rc ? err_errno(rc) : 0);
}

/*
 * Reserving space makes a database larger, if at all, as a write of zeros behind its end would.
 * Holes and collapsed ranges would change pages without a write: not for files of SQLite, and not
 * worth a difference for others.
 */
void op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len,
                  struct fuse_file_info *fi)
{
    (void)ino;
    struct fs *fs = ops_fs(req);
    struct handle *h = ops_handle(fi);
    struct stat st;
    if (h->fd < 0 || (mode & ~FALLOC_FL_KEEP_SIZE)) {
        fuse_reply_err(req, EOPNOTSUPP);
        return;
    }
    struct ident *id = ident_of(fs, h->inode);
    int rc = 0;
    int err = id ? permit_write(fs, id->kind, h->own) : 0;
    if (!err && fstat(h->fd, &st))
        err = errno;
    bool grows = !err && !(mode & FALLOC_FL_KEEP_SIZE) && off + len > st.st_size;
    size_t added = grows ? (size_t)(off + len - st.st_size) : 0;
    if (grows && id && (rc = database_before_write(id->db, id->kind, h->own, st.st_size, added)))
        err = err_errno(rc);
    bool begun = !err && grows && id;
    loop_long_begin();
    if (!err && file_ops->fallocate(h->fd, mode, off, len))
        err = errno;
    if (begun && (rc = database_after_write(id->db, id->kind, h->own, st.st_size, err ? 0 : added)))
        err = err_errno(rc);
    loop_long_end();
    fuse_reply_err(req, err);
}

void op_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi)
{
    (void)ino;
    struct handle *h = ops_handle(fi);
    off_t found = h->fd < 0 ? -1 : lseek(h->fd, off, whence);
    if (found < 0)
        fuse_reply_err(req, h->fd < 0 ? EINVAL : errno);
    else
        fuse_reply_lseek(req, found);
}
