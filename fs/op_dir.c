/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "fs/ops.h"
#include "fs/loop.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"

/* Reading folders, and bringing their names to disk. Informational files are never listed. */

struct folder {
    DIR *stream;
    off_t at;            /* where the stream stands */
    struct dirent *next; /* read, but did not fit into the last reply */
};

static struct folder *folder_of(const struct fuse_file_info *fi)
{
    return (struct folder *)(uintptr_t)fi->fh;
}

void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct fs *fs = ops_fs(req);
    char path[PATH_MAX];
    int fd = -1;
    fs_names_hold(fs);
    int err = ops_path(fs, ops_inode(fs, ino), path);
    if (!err) {
        fd = file_ops->openat(fs->tree_dirfd, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC,
                              0);
        err = fd < 0 ? errno : 0;
    }
    fs_names_release(fs);
    struct folder *f = err ? NULL : calloc(1, sizeof *f);
    if (f)
        f->stream = fdopendir(fd);
    if (!f || !f->stream) {
        free(f);
        file_close(fd);
        fuse_reply_err(req, err ? err : ENOMEM);
        return;
    }
    fi->fh = (uintptr_t)f;
    if (fuse_reply_open(req, fi)) {
        closedir(f->stream);
        free(f);
    }
}

/* Adds entries until the reply is full or the folder ends. Returns the bytes used, or -1. */
static ssize_t fill(fuse_req_t req, struct folder *f, char *buf, size_t size)
{
    size_t used = 0;
    for (;;) {
        if (!f->next) {
            errno = 0;
            f->next = file_ops->readdir(f->stream);
            if (!f->next)
                return errno && !used ? -1 : (ssize_t)used;
        }
        struct stat st = {.st_ino = f->next->d_ino, .st_mode = DTTOIF(f->next->d_type)};
        size_t need =
            fuse_add_direntry(req, buf + used, size - used, f->next->d_name, &st, f->next->d_off);
        if (need > size - used)
            return (ssize_t)used;
        used += need;
        f->at = f->next->d_off;
        f->next = NULL;
    }
}

void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
    (void)ino;
    struct folder *f = folder_of(fi);
    char *buf = malloc(size);
    if (!buf) {
        fuse_reply_err(req, ENOMEM);
        return;
    }
    if (off != f->at) {
        if (off == 0)
            rewinddir(f->stream);
        else
            seekdir(f->stream, off);
        f->at = off;
        f->next = NULL;
    }
    ssize_t used = fill(req, f, buf, size);
    if (used < 0)
        fuse_reply_err(req, errno);
    else
        fuse_reply_buf(req, buf, (size_t)used);
    free(buf);
}

void op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    (void)ino;
    struct folder *f = folder_of(fi);
    closedir(f->stream);
    free(f);
    fuse_reply_err(req, 0);
}

/*
 * SQLite syncs the folder after it has made or removed a journal. A removal that only ended a
 * captured commit need not reach the disk (see op_unlink): then there is nothing to do.
 */
void op_fsyncdir(fuse_req_t req, fuse_ino_t ino, int data_only, struct fuse_file_info *fi)
{
    (void)data_only;
    struct fs *fs = ops_fs(req);
    struct inode *i = ops_inode(fs, ino);
    int rc = 0;
    /* What another request is syncing at this moment is not on disk yet: it counts for nothing. */
    unsigned long changes = atomic_load(&i->changes);
    if (atomic_load(&i->synced) < changes) {
        loop_long_begin();
        rc = file_sync(dirfd(folder_of(fi)->stream));
        loop_long_end();
        unsigned long synced = atomic_load(&i->synced);
        while (!rc && synced < changes &&
               !atomic_compare_exchange_weak(&i->synced, &synced, changes))
            ;
    }
    fuse_reply_err(req, rc ? err_errno(rc) : 0);
}
