/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/base/logger.h"
#include "ltx/ledger_internal.h"

#define COPY_BYTES (256 << 10)
/* Histories that part twice at the same place are told apart by a number, up to this one. */
#define VERSIONS_MAX 1000

/* Whether file `path` holds exactly the record. */
static int same_content(int dirfd, const char *path, const struct txlog_entry *e, uint8_t *buffer,
                        bool *same)
{
    int fd;
    int64_t size;
    int rc = file_open(dirfd, path, O_RDONLY, 0, &fd);
    if (rc < 0)
        return rc;
    rc = file_size(fd, &size);
    *same = rc == 0 && (uint64_t)size == e->size;
    uint8_t *mine = buffer, *theirs = buffer + COPY_BYTES / 2;
    for (uint64_t done = 0; rc == 0 && *same && done < e->size;) {
        size_t n = e->size - done < COPY_BYTES / 2 ? (size_t)(e->size - done) : COPY_BYTES / 2;
        rc = txlog_entry_read(e, done, mine, n);
        if (rc == 0)
            rc = file_read(fd, theirs, n, (int64_t)done);
        if (rc == 0)
            *same = memcmp(mine, theirs, n) == 0;
        done += n;
    }
    (void)file_close(fd);
    return rc;
}

static int copy_record(int dirfd, const char *path, const struct txlog_entry *e, uint8_t *buffer)
{
    static const char tmp[] = "keep.tmp";
    int fd;
    int rc = file_open(dirfd, tmp, O_WRONLY | O_CREAT | O_TRUNC, 0600, &fd);
    if (rc < 0)
        return rc;
    for (uint64_t done = 0; rc == 0 && done < e->size;) {
        size_t n = e->size - done < COPY_BYTES ? (size_t)(e->size - done) : COPY_BYTES;
        rc = txlog_entry_read(e, done, buffer, n);
        if (rc == 0)
            rc = file_write(fd, buffer, n, (int64_t)done);
        done += n;
    }
    if (rc == 0)
        rc = file_sync(fd);
    int closed = file_close(fd);
    if (rc == 0)
        rc = closed;
    if (rc == 0)
        rc = file_rename(dirfd, tmp, dirfd, path);
    if (rc < 0)
        (void)file_unlink(dirfd, tmp);
    return rc;
}

/* 1: a file was written; 0: the same is there already. */
static int keep_record(int dirfd, const struct txlog_entry *e, uint8_t *buffer)
{
    char name[LTX_NAME_SIZE], path[LTX_NAME_SIZE + 16];
    ltx_name_format(e->min_txid, e->max_txid, name);
    snprintf(path, sizeof path, "%s", name);
    for (int version = 2; version < VERSIONS_MAX; version++) {
        bool same;
        int rc = same_content(dirfd, path, e, buffer, &same);
        if (rc == -ERR_NOTFOUND) {
            rc = copy_record(dirfd, path, e, buffer);
            return rc < 0 ? rc : 1;
        }
        if (rc < 0 || same)
            return rc;
        snprintf(path, sizeof path, "%.*s.%d.ltx", LTX_NAME_SIZE - 5, name, version);
    }
    return -ERR_LIMIT;
}

static int keep_all(struct ledger *l, int dirfd, uint64_t common, uint32_t *kept)
{
    uint8_t *buffer = malloc(COPY_BYTES);
    if (buffer == NULL)
        return -ERR_NOMEM;
    struct txlog_entry e = {0};
    uint64_t first = txlog_first(l->log).txid;
    if (common < first) {
        log_warn("ledger",
                 "%s: transactions %016" PRIx64 " to %016" PRIx64
                 " are no longer in the log and cannot be kept",
                 l->name, common + 1, first);
        common = first;
    }
    int rc = txlog_find(l->log, common, &e);
    while (rc == 0) {
        rc = keep_record(dirfd, &e, buffer);
        if (rc == 1)
            (*kept)++;
        if (rc >= 0)
            rc = txlog_next(l->log, &e);
    }
    txlog_entry_release(&e);
    free(buffer);
    return rc == -ERR_NOTFOUND ? 0 : rc;
}

/* "MIN-MAX.ltx", or "MIN-MAX.VERSION.ltx". */
static bool parse_kept(const char *name, uint64_t *min, uint64_t *max)
{
    size_t n = strlen(name);
    if (n < LTX_NAME_SIZE - 1 || strcmp(name + n - 4, ".ltx") != 0)
        return false;
    char plain[LTX_NAME_SIZE];
    snprintf(plain, sizeof plain, "%.*s.ltx", LTX_NAME_SIZE - 5, name);
    return ltx_name_parse(plain, min, max) == 0;
}

static void add_kept(int dirfd, const char *name, struct ledger_kept *out)
{
    uint64_t min, max;
    struct stat st;
    if (!parse_kept(name, &min, &max) || fstatat(dirfd, name, &st, 0) < 0)
        return;
    int64_t ms = (int64_t)st.st_mtim.tv_sec * 1000;
    if (out->files == 0 || min < out->first_txid)
        out->first_txid = min;
    if (max > out->last_txid)
        out->last_txid = max;
    if (ms > out->newest_ms)
        out->newest_ms = ms;
    out->bytes += (uint64_t)st.st_size;
    out->files++;
}

void ledger_kept(struct ledger *l, struct ledger_kept *out)
{
    *out = (struct ledger_kept){0};
    snprintf(out->folder, sizeof out->folder, "diverged/%s", l->folder);
    int fd;
    DIR *dir = NULL;
    if (file_open(l->data_dirfd, out->folder, O_RDONLY | O_DIRECTORY, 0, &fd) == 0 &&
        (dir = fdopendir(fd)) == NULL)
        (void)file_close(fd);
    const struct dirent *e;
    while (dir != NULL && file_next_entry(dir, &e) == 0 && e != NULL)
        add_kept(dirfd(dir), e->d_name, out);
    if (dir != NULL)
        closedir(dir);
    mutex_lock(&l->mutex);
    l->diverged = out->files;
    mutex_unlock(&l->mutex);
}

int ledger_keep_diverged(struct ledger *l, uint64_t common, uint32_t *kept)
{
    char path[LEDGER_FOLDER_SIZE + 16];
    snprintf(path, sizeof path, "diverged/%s", l->folder);
    int fd = -1;
    uint32_t n = 0;
    int rc = file_mkdirs(l->data_dirfd, path, 0700);
    if (rc == 0)
        rc = file_open(l->data_dirfd, path, O_RDONLY | O_DIRECTORY, 0, &fd);
    if (rc == 0)
        rc = keep_all(l, fd, common, &n);
    if (rc == 0)
        rc = file_sync(fd);
    if (rc == 0)
        rc = file_sync_dir(l->data_dirfd, "diverged");
    if (rc == 0)
        rc = file_sync_dir(l->data_dirfd, ".");
    (void)file_close(fd);
    if (rc < 0)
        return rc;
    struct ledger_kept now;
    ledger_kept(l, &now);
    *kept = n;
    return 0;
}
