/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/db/super.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "fs/db/capture_pages.h"
#include "fs/db/database_impl.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/base/logger.h"

#define SUPER_LIMIT (1 << 20) /* bytes; SQLite attaches at most 125 databases */
#define SUPER_DATABASES 128

struct members {
    struct database *db[SUPER_DATABASES];
    unsigned count;
};

/* The path below the mount of the journal called `name`, NULL if it lies elsewhere. */
static const char *below_mount(struct catalog *c, const char *name)
{
    const char *mount = catalog_mountpoint(c);
    size_t n = strlen(mount);
    return strncmp(name, mount, n) == 0 && name[n] == '/' ? name + n + 1 : NULL;
}

static int read_members(struct catalog *c, const char *path, struct members *m)
{
    int fd;
    int64_t size;
    int err = file_open(catalog_tree(c), path, O_RDONLY | O_NOFOLLOW, 0, &fd);
    if (err)
        return err;
    err = file_size(fd, &size);
    if (!err && size > SUPER_LIMIT)
        err = -ERR_LIMIT;
    char *names = err ? NULL : calloc(1, (size_t)size + 1);
    if (!err && !names)
        err = -ERR_NOMEM;
    if (!err)
        err = file_read(fd, names, (size_t)size, 0);
    file_close(fd);
    for (char *p = names; !err && p < names + size && m->count < SUPER_DATABASES;
         p += strlen(p) + 1) {
        const char *journal = below_mount(c, p);
        size_t base;
        if (!journal || file_kind_of(journal, &base) != FILE_JOURNAL)
            continue; /* commits by itself when its own journal goes */
        char *name = strndup(journal, base);
        struct database *db = name ? catalog_get(c, name) : NULL;
        free(name);
        if (db)
            m->db[m->count++] = db;
        else
            err = -ERR_NOMEM;
    }
    free(names);
    return err;
}

static int prepare_all(struct members *m)
{
    int err = 0;
    for (unsigned i = 0; !err && i < m->count; i++) {
        struct database *db = m->db[i];
        mutex_lock(&db->mutex);
        err = capture_pages_prepare(db, CAPTURE_COMMIT);
        mutex_unlock(&db->mutex);
    }
    return err;
}

/* Publishing what is sealed fails only if the program itself is wrong; what can be told then is
 * told. */
static int finish_all(struct members *m, bool keep)
{
    int first = 0;
    for (unsigned i = 0; i < m->count; i++) {
        struct database *db = m->db[i];
        mutex_lock(&db->mutex);
        int err = 0;
        if (keep)
            err = capture_pages_finish(db);
        else
            capture_pages_abandon(db);
        mutex_unlock(&db->mutex);
        if (err && !first)
            first = err;
        if (err)
            log_error("capture", "%s: its part of a transaction over %u databases: %s", db->path,
                      m->count, err_text(err));
    }
    return first;
}

static int sync_all(struct members *m)
{
    int err = 0;
    for (unsigned i = 0; !err && i < m->count; i++) {
        struct database *db = m->db[i];
        if (db->sync_wanted && db->ledger)
            err = ledger_sync(db->ledger, ledger_last(db->ledger).txid);
    }
    return err;
}

int super_commit(struct catalog *c, const char *path)
{
    struct members m = {.count = 0};
    int err = read_members(c, path, &m);
    if (!err) {
        err = prepare_all(&m);
        int finished = finish_all(&m, !err);
        if (!err)
            err = finished;
    }
    if (!err)
        err = sync_all(&m);
    for (unsigned i = 0; i < m.count; i++)
        catalog_put(m.db[i]);
    return err;
}
