/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/datadir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/base/logger.h"

/* Who holds the lock, as the holder wrote it down; 0 if that cannot be read. */
static long lock_holder(int fd)
{
    char text[32] = "";
    size_t got;
    if (file_read_some(fd, text, sizeof text - 1, 0, &got) != 0)
        return 0;
    return strtol(text, NULL, 10);
}

static int take_lock(struct datadir *d, const char *path, char *why, size_t why_size)
{
    char text[32];
    int err = file_open(d->fd, "lock", O_RDWR | O_CREAT, 0600, &d->lock_fd);
    if (err) {
        snprintf(why, why_size, "cannot write in the data folder %s: %s", path, err_text(err));
        return err;
    }
    if (flock(d->lock_fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno == EWOULDBLOCK)
            snprintf(why, why_size,
                     "the data folder %s is already in use by process %ld: end that one first, or "
                     "give this node another folder with --data",
                     path, lock_holder(d->lock_fd));
        else
            snprintf(why, why_size, "cannot lock %s/lock: %s", path, strerror(errno));
        return -ERR_BUSY;
    }
    int n = snprintf(text, sizeof text, "%ld\n", (long)getpid());
    err = file_truncate(d->lock_fd, 0);
    if (!err)
        err = file_write(d->lock_fd, text, (size_t)n, 0);
    if (err)
        snprintf(why, why_size, "cannot write %s/lock: %s", path, err_text(err));
    return err;
}

static int open_below(struct datadir *d, const char *path, const char *name, int *fd, char *why,
                      size_t why_size, mode_t mode)
{
    int err = file_mkdir(d->fd, name, mode);
    if (!err)
        err = file_open(d->fd, name, O_RDONLY | O_DIRECTORY, 0, fd);
    if (err)
        snprintf(why, why_size, "cannot use %s/%s: %s", path, name, err_text(err));
    return err;
}

/* A name may have what a half-written replacement leaves behind it: "node.tmp", "node.tmp-1". */
static int is_ours(const char *name)
{
    static const char *const names[] = {"node", "lock", "tree", "db",   "diverged",
                                        "tmp",  "sock", "boot", "scrub"};
    size_t n = strcspn(name, ".~");
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return 1;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strlen(names[i]) == n && strncmp(names[i], name, n) == 0)
            return 1;
    return 0;
}

static void name_foreign(struct datadir *d, const char *path)
{
    int fd;
    if (file_open(d->fd, ".", O_RDONLY | O_DIRECTORY, 0, &fd) != 0)
        return;
    DIR *dir = fdopendir(fd);
    if (!dir) {
        file_close(fd);
        return;
    }
    for (struct dirent *e; (e = readdir(dir));) {
        if (is_ours(e->d_name))
            continue;
        log_warn("mount", "%s/%s is not a file of tandemfs; it is left alone", path, e->d_name);
        d->foreign++;
    }
    closedir(dir);
}

int datadir_open(struct datadir *d, const char *path, char *why, size_t why_size)
{
    *d = (struct datadir){.fd = -1, .tree_fd = -1, .tmp_fd = -1, .lock_fd = -1};
    int err = file_mkdirs(AT_FDCWD, path, 0700);
    if (!err)
        err = file_open(AT_FDCWD, path, O_RDONLY | O_DIRECTORY, 0, &d->fd);
    if (err) {
        snprintf(why, why_size, "cannot use the data folder %s: %s", path, err_text(err));
        return err;
    }
    err = take_lock(d, path, why, why_size);
    /* The mode of "tree" is that of the mount's top folder; the data folder around it is closed. One
     * that is there keeps its mode: somebody may have chosen it. */
    if (!err)
        err = open_below(d, path, "tree", &d->tree_fd, why, why_size, 0755);
    if (!err)
        err = open_below(d, path, "tmp", &d->tmp_fd, why, why_size, 0700);
    if (!err)
        name_foreign(d, path);
    else
        datadir_close(d);
    return err;
}

void datadir_close(struct datadir *d)
{
    file_close(d->tmp_fd);
    file_close(d->tree_fd);
    file_close(d->lock_fd); /* ends the lock */
    file_close(d->fd);
    *d = (struct datadir){.fd = -1, .tree_fd = -1, .tmp_fd = -1, .lock_fd = -1};
}
