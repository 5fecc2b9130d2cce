/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/db/super.h"

#include <fcntl.h>
#include <stdio.h>
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

/* ---- names ---- */

struct place {
    struct catalog *catalog;
    const char *near;             /* a file in the tree, */
    char path[DATABASE_PATH_MAX]; /* and one that may be what a client means */
    int err;
};

/*
 * A client has names of its own for the files: those of the mount, of a folder of it that a container sees in
 * another place, of the mount before it got another place. So any end of `name` may be meant, below
 * any of the folders in which p->near lies. The first one that fits.
 */
static bool find_place(struct place *p, const char *name, bool (*fits)(struct place *p))
{
    if (strstr(name, "/../"))
        return false;
    for (const char *folder = p->near; folder; folder = strchr(folder, '/')) {
        folder += folder != p->near; /* behind the slash */
        for (const char *end = strchr(name, '/'); end; end = strchr(end + 1, '/')) {
            int n = snprintf(p->path, sizeof p->path, "%.*s%s", (int)(folder - p->near), p->near,
                             end + 1);
            if (end[1] != '/' && end[1] != '\0' && n < (int)sizeof p->path && fits(p))
                return true;
        }
    }
    return false;
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static bool is_super(struct place *p)
{
    size_t base;
    return file_kind_of(p->path, &base) == FILE_SUPER &&
           file_exists(catalog_tree(p->catalog), p->path);
}

/* Is it a journal that names p->near? There is no other super-journal of that name. */
static bool is_member(struct place *p)
{
    char name[JOURNAL_SUPER_MAX];
    size_t base;
    int fd = -1;
    bool names_it = false;
    if (file_kind_of(p->path, &base) == FILE_JOURNAL &&
        file_open(catalog_tree(p->catalog), p->path, O_RDONLY | O_NOFOLLOW, 0, &fd) == 0)
        names_it =
            journal_super_name(fd, name) == 0 && strcmp(base_name(name), base_name(p->near)) == 0;
    file_close(fd);
    return names_it;
}

/* That a file is not there is on disk. Fits never: all folders are wanted. */
static bool sync_folder(struct place *p)
{
    char *slash = strrchr(p->path, '/');
    if (slash)
        *slash = '\0';
    int err = file_sync_dir(catalog_tree(p->catalog), slash ? p->path : ".");
    if (err && err != -ERR_NOTFOUND && !p->err)
        p->err = err;
    return false;
}

/* ---- commit ---- */

/* The names in a super-journal, freed by the caller; a NUL follows *size bytes. */
static int read_names(struct catalog *c, const char *path, char **names, int64_t *size)
{
    int fd = -1;
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

/*
 * Who is named, and names it in return. All others are none of it: databases outside the mount commit by themselves when
 * their own journals go, those without a journal on disk have committed. And a super-journal that nobody names is removed
 * because its transaction was rolled back: the journals that are there are of others.
 */
static int read_members(struct catalog *c, const char *path, struct members *m)
{
    struct place *place = calloc(1, sizeof *place);
    char *names;
    int64_t size;
    int err = place ? read_names(c, path, &names, &size) : -ERR_NOMEM;
    if (err) {
        free(place);
        return err;
    }
    *place = (struct place){.catalog = c, .near = path};
    for (char *p = names; !err && p < names + size && m->count < SUPER_DATABASES;
         p += strlen(p) + 1) {
        size_t base;
        if (!find_place(place, p, is_member))
            continue;
        (void)file_kind_of(place->path, &base);
        place->path[base] = '\0';
        struct database *db = catalog_get(c, place->path);
        if (db)
            m->db[m->count++] = db;
        else
            err = -ERR_NOMEM;
    }
    free(names);
    free(place);
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

int super_is_pending(struct catalog *c, const char *journal, int journal_fd, bool *pending,
                     bool *gone)
{
    char name[JOURNAL_SUPER_MAX];
    struct place *place = calloc(1, sizeof *place);
    int err = place ? journal_super_name(journal_fd, name) : -ERR_NOMEM;
    *pending = *gone = false;
    if (!err && *name) {
        *place = (struct place){.catalog = c, .near = journal};
        *pending = find_place(place, name, is_super);
        /* It may not come back either: the other databases would be undone, and this one not. */
        *gone = !*pending;
        if (*gone)
            (void)find_place(place, name, sync_folder);
        err = place->err;
    }
    free(place);
    return err;
}

/* A journal that could not be played back is left as it is, and what it needs. */
static bool is_hot(struct catalog *c, const char *journal)
{
    int fd = -1;
    bool hot = false;
    int err = file_open(catalog_tree(c), journal, O_RDONLY | O_NOFOLLOW, 0, &fd);
    if (!err)
        err = journal_look(fd, &hot);
    file_close(fd);
    return hot || (err && err != -ERR_NOTFOUND);
}

/* Where a client sees what folder of the tree: of its names the first `client` bytes stand for the first `tree` bytes
 * of the path of the super-journal. */
struct view {
    const char *name;
    size_t client, tree;
};

static bool begins_name(const char *path, size_t at)
{
    return at == 0 || path[at - 1] == '/';
}

/* By the journal of the database that the super-journal `path` is called after. False: it is another one's. */
static bool find_view(struct view *v, const char *name, const char *path)
{
    const char *journal = base_name(name), *super = base_name(path);
    size_t name_end, path_end;
    if (file_kind_of(name, &name_end) != FILE_JOURNAL)
        return false;
    (void)file_kind_of(path, &path_end);
    size_t n = name_end - (size_t)(journal - name);
    if (n != path_end - (size_t)(super - path) || memcmp(journal, super, n) != 0)
        return false;
    *v = (struct view){name, (size_t)(journal - name), (size_t)(super - path)};
    while (v->client > 0 && v->tree > 0 && name[v->client - 1] == path[v->tree - 1]) {
        v->client--;
        v->tree--;
    }
    while (!begins_name(name, v->client) || !begins_name(path, v->tree)) {
        v->client++;
        v->tree++;
    }
    return true;
}

/* Is that the journal of a database in the tree, and not hot? */
static bool is_over(struct catalog *c, const struct view *v, const char *name, const char *path)
{
    char journal[DATABASE_PATH_MAX];
    size_t base;
    if (strncmp(name, v->name, v->client) != 0 ||
        snprintf(journal, sizeof journal, "%.*s%s", (int)v->tree, path, name + v->client) >=
            (int)sizeof journal ||
        file_kind_of(journal, &base) != FILE_JOURNAL || is_hot(c, journal))
        return false;
    journal[base] = '\0';
    return file_exists(catalog_tree(c), journal);
}

/* What lies outside the tree may still need it. */
static bool has_ended(struct catalog *c, const char *path, const char *names, int64_t size)
{
    struct view v;
    bool ended = false;
    for (const char *p = names; !ended && p < names + size; p += strlen(p) + 1)
        ended = find_view(&v, p, path);
    for (const char *p = names; ended && p < names + size; p += strlen(p) + 1)
        ended = is_over(c, &v, p, path);
    return ended;
}

/* One that nothing was written to is nobody else's file. */
static bool is_called_after_database(struct catalog *c, const char *path)
{
    char name[DATABASE_PATH_MAX];
    size_t base;
    (void)file_kind_of(path, &base);
    return snprintf(name, sizeof name, "%.*s", (int)base, path) < (int)sizeof name &&
           file_exists(catalog_tree(c), name);
}

static int remove_if_ended(void *ctx, const char *path)
{
    struct catalog *c = ctx;
    char *names;
    int64_t size;
    bool ended = read_names(c, path, &names, &size) == 0 &&
                 (size == 0 ? is_called_after_database(c, path)
                            : names[size - 1] == '\0' && has_ended(c, path, names, size));
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
