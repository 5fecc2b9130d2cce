/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/db/super.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "fs/db/capture_pages.h"
#include "fs/db/catalog_impl.h"
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

/*
 * The first file in the tree that a client may mean by `name`, a part of its path; NULL: there is none. It may have
 * another name for the mount than the daemon: in a container, or before the mount got another place.
 */
static const char *in_tree(struct catalog *c, const char *name)
{
    for (const char *p = strchr(name, '/'); p; p = strchr(p + 1, '/'))
        if (p[1] != '/' && p[1] != '\0' && file_exists(catalog_tree(c), p + 1))
            return p + 1;
    return NULL;
}

static bool ends_with_path(const char *name, const char *path)
{
    size_t n = strlen(name), m = strlen(path);
    return n > m && name[n - m - 1] == '/' && strcmp(name + n - m, path) == 0;
}

/* Is `super` in the tree the super-journal of this journal? Its name occurs only once. */
static bool belongs_to(struct catalog *c, const char *journal, const char *super)
{
    char name[JOURNAL_SUPER_MAX];
    int fd;
    bool belongs = false;
    if (file_open(catalog_tree(c), journal, O_RDONLY | O_NOFOLLOW, 0, &fd) == 0)
        belongs = journal_super_name(fd, name) == 0 && ends_with_path(name, super);
    file_close(fd);
    return belongs;
}

/* The path in the tree of the journal that `super` calls `name`; NULL: it lies elsewhere. */
static const char *find_journal(struct catalog *c, const char *name, const char *super)
{
    const char *mount = catalog_mountpoint(c), *found;
    size_t n = strlen(mount), base;
    if (file_kind_of(name, &base) != FILE_JOURNAL)
        return NULL;
    if (strncmp(name, mount, n) == 0 && name[n] == '/')
        return name + n + 1;
    for (found = in_tree(c, name); found; found = in_tree(c, found))
        if (belongs_to(c, found, super))
            break;
    return found;
}

/* The names in a super-journal, freed by the caller; a NUL follows *size bytes. */
static int read_names(struct catalog *c, const char *path, char **names, int64_t *size)
{
    int fd;
    int err = file_open(catalog_tree(c), path, O_RDONLY | O_NOFOLLOW, 0, &fd);
    *names = NULL;
    if (err)
        return err;
    err = file_size(fd, size);
    if (!err && *size > SUPER_LIMIT)
        err = -ERR_LIMIT;
    *names = err ? NULL : calloc(1, (size_t)*size + 1);
    if (!err && !*names)
        err = -ERR_NOMEM;
    if (!err)
        err = file_read(fd, *names, (size_t)*size, 0);
    file_close(fd);
    return err;
}

static int read_members(struct catalog *c, const char *path, struct members *m)
{
    char *names;
    int64_t size;
    int err = read_names(c, path, &names, &size);
    for (char *p = names; !err && p < names + size && m->count < SUPER_DATABASES;
         p += strlen(p) + 1) {
        const char *journal = find_journal(c, p, path);
        size_t base;
        if (!journal)
            continue; /* commits by itself when its own journal goes */
        (void)file_kind_of(journal, &base);
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

/* ---- start ---- */

int super_is_pending(struct catalog *c, int journal_fd, bool *pending)
{
    char name[JOURNAL_SUPER_MAX];
    int err = journal_super_name(journal_fd, name);
    *pending = !err && in_tree(c, name) != NULL;
    return err;
}

/* A journal that could not be played back is left as it is, and what it needs. */
static bool is_hot(struct catalog *c, const char *journal)
{
    int fd;
    bool hot = false;
    int err = file_open(catalog_tree(c), journal, O_RDONLY | O_NOFOLLOW, 0, &fd);
    if (!err)
        err = journal_look(fd, &hot);
    file_close(fd);
    return hot || (err && err != -ERR_NOTFOUND);
}

static int remove_if_ended(void *ctx, const char *path)
{
    struct catalog *c = ctx;
    char *names;
    int64_t size;
    size_t base;
    bool ended = read_names(c, path, &names, &size) == 0 && (size == 0 || names[size - 1] == '\0');
    for (char *p = names; ended && p < names + size; p += strlen(p) + 1) {
        const char *journal = find_journal(c, p, path);
        ended = file_kind_of(p, &base) == FILE_JOURNAL && !(journal && is_hot(c, journal));
    }
    free(names);
    int err = ended ? file_unlink(catalog_tree(c), path) : 0;
    if (err)
        log_warn("recover", "%s: its transaction has ended, but it cannot be removed: %s", path,
                 err_text(err));
    return 0;
}

int super_remove_ended(struct catalog *c)
{
    return tree_walk(c->tree_dirfd, FILE_SUPER, remove_if_ended, c);
}
