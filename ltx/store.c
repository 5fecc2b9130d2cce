/* SPDX-License-Identifier: Apache-2.0 */
#include "ltx/store.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/base/logger.h"
#include "ltx/checksum.h"
#include "ltx/ledger_internal.h"
#include "ltx/store_internal.h"

#define DEFAULT_GROUP_SYNC_US 1000
#define FOLDER_MAX 255 /* bytes in a file name */
#define FIRST_HASH 64u

static uint32_t home(const struct store *s, const char *name)
{
    uint64_t h = checksum_update(0, name, strlen(name));
    return (uint32_t)(h ^ h >> 32) & (s->hash_cap - 1);
}

/* The place of the name in the hash: where it stands, or the free place where it would. */
static uint32_t place_of(const struct store *s, const char *name)
{
    uint32_t i = home(s, name);
    while (s->hash[i] != 0 && strcmp(ledger_name(s->ledgers[s->hash[i] - 1]), name) != 0)
        i = (i + 1) & (s->hash_cap - 1);
    return i;
}

static int grow(struct store *s)
{
    uint32_t cap = s->cap == 0 ? FIRST_HASH / 2 : s->cap * 2;
    struct ledger **ledgers = realloc(s->ledgers, cap * sizeof *ledgers);
    if (ledgers == NULL)
        return -ERR_NOMEM;
    s->ledgers = ledgers;
    uint32_t *hash = calloc((size_t)cap * 2, sizeof *hash);
    if (hash == NULL)
        return -ERR_NOMEM;
    free(s->hash);
    s->hash = hash;
    s->hash_cap = cap * 2;
    s->cap = cap;
    for (uint32_t i = 0; i < s->count; i++)
        s->hash[place_of(s, ledger_name(s->ledgers[i]))] = i + 1;
    return 0;
}

/* With the mutex held. */
static struct ledger *find_locked(struct store *s, const char *name)
{
    if (s->hash == NULL)
        return NULL;
    uint32_t place = s->hash[place_of(s, name)];
    return place == 0 ? NULL : s->ledgers[place - 1];
}

/* With the mutex held. */
static int add_locked(struct store *s, struct ledger *l)
{
    int rc = s->count == s->cap ? grow(s) : 0;
    if (rc < 0)
        return rc;
    s->ledgers[s->count++] = l;
    s->hash[place_of(s, ledger_name(l))] = s->count;
    return 0;
}

static bool is_blocked(const struct store *s, const char *folder)
{
    for (uint32_t i = 0; i < s->blocked_count; i++)
        if (strcmp(s->blocked[i], folder) == 0)
            return true;
    return false;
}

static int block(struct store *s, const char *folder)
{
    char **blocked = realloc(s->blocked, (s->blocked_count + 1) * sizeof *blocked);
    if (blocked == NULL)
        return -ERR_NOMEM;
    s->blocked = blocked;
    char *copy = strdup(folder);
    if (copy == NULL)
        return -ERR_NOMEM;
    s->blocked[s->blocked_count++] = copy;
    s->foreign++;
    return 0;
}

static struct ledger_options ledger_options(struct store *s, const char *folder)
{
    return (struct ledger_options){
        .data_dirfd = s->data_dirfd,
        .folder = folder,
        .feeds = &s->feeds,
        .segment_bytes = s->options.segment_bytes,
        .node_id = s->options.node_id,
    };
}

/* One entry of <data>/db. Fails only for want of memory; what it cannot read it names and blocks.
 */
static int open_entry(struct store *s, const char *folder)
{
    struct ledger_options options = ledger_options(s, folder);
    struct ledger *l = NULL;
    int rc = ledger_open(&l, &options);
    char escaped[LEDGER_FOLDER_SIZE];
    if (rc == 0 && (store_escape(ledger_name(l), escaped) < 0 || strcmp(escaped, folder) != 0)) {
        log_warn("store", "db/%s says that it is the database \"%s\", whose folder is another",
                 folder, ledger_name(l));
        rc = -ERR_CORRUPT;
    }
    if (rc == 0)
        rc = add_locked(s, l);
    if (rc == 0)
        return 0;
    ledger_close(l);
    /* A crash came between the folder and its first state; it is used when the name is. */
    if (rc == -ERR_NOTFOUND)
        return 0;
    if (rc == -ERR_NOMEM)
        return rc;
    log_warn(
        "store",
        "db/%s is not a database of ours that can be read (%s); it is left alone, and the name "
        "cannot be used until the folder is put right or moved away",
        folder, err_text(rc));
    return block(s, folder);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void free_names(char **names, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free(names[i]);
    free(names);
}

/* The names in <data>/db, sorted, so that every start sees the same order. */
static int list_entries(int data_dirfd, char ***out, size_t *out_count)
{
    int fd;
    int rc = file_open(data_dirfd, "db", O_RDONLY | O_DIRECTORY, 0, &fd);
    if (rc < 0)
        return rc;
    DIR *dir = fdopendir(fd);
    if (dir == NULL) {
        (void)file_close(fd);
        return -ERR_NOMEM;
    }
    char **names = NULL;
    size_t n = 0, cap = 0;
    const struct dirent *e;
    while (rc == 0 && (rc = file_next_entry(dir, &e)) == 0 && e != NULL) {
        if (n == cap) {
            cap = cap == 0 ? 32 : cap * 2;
            char **more = realloc(names, cap * sizeof *names);
            if (more == NULL) {
                rc = -ERR_NOMEM;
                break;
            }
            names = more;
        }
        names[n] = strdup(e->d_name);
        if (names[n] == NULL)
            rc = -ERR_NOMEM;
        else
            n++;
    }
    closedir(dir);
    if (rc < 0) {
        free_names(names, n);
        return rc;
    }
    if (n > 1)
        qsort(names, n, sizeof *names, by_name);
    *out = names;
    *out_count = n;
    return 0;
}

static int open_all(struct store *s)
{
    char **names = NULL;
    size_t n = 0;
    int rc = file_mkdir(s->data_dirfd, "db", 0700);
    if (rc == 0)
        rc = list_entries(s->data_dirfd, &names, &n);
    if (rc == 0 && n == 0) /* it may just have been made */
        rc = file_sync_dir(s->data_dirfd, ".");
    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = open_entry(s, names[i]);
    free_names(names, n);
    return rc;
}

/* Without the mutex, as the one who is `creating`. */
static int create(struct store *s, const char *name, const char *folder, struct ledger **out)
{
    if (is_blocked(s, folder)) {
        log_error("store", "\"%s\" cannot be used: db/%s could not be read at the start", name,
                  folder);
        return -ERR_DAMAGED;
    }
    if (store_count(s) >= s->options.databases_max) {
        log_error("store",
                  "\"%s\" cannot be made: there are %u databases already, deleted ones included",
                  name, s->options.databases_max);
        return -ERR_LIMIT;
    }
    struct ledger_options options = ledger_options(s, folder);
    struct ledger *l;
    int rc = ledger_create(&l, name, &options);
    if (rc < 0) {
        log_error("store", "\"%s\" cannot be made in db/%s: %s", name, folder, err_text(rc));
        return rc;
    }
    mutex_lock(&s->mutex);
    rc = add_locked(s, l);
    mutex_unlock(&s->mutex);
    if (rc < 0)
        ledger_close(l);
    else
        *out = l;
    return rc;
}

int store_open(struct store **out, int data_dirfd, const struct store_options *options)
{
    struct store *s = calloc(1, sizeof *s);
    if (s == NULL)
        return -ERR_NOMEM;
    s->data_dirfd = data_dirfd;
    s->options = *options;
    if (s->options.group_sync_us <= 0)
        s->options.group_sync_us = DEFAULT_GROUP_SYNC_US;
    if (s->options.databases_max == 0)
        s->options.databases_max = STORE_DATABASES_MAX;
    store_set_group_sync(s, 0);
    feed_init(&s->feeds.published);
    feed_init(&s->feeds.durable);
    feed_init(&s->feeds.applied);
    mutex_init(&s->mutex, RANK_STORE);
    cond_init(&s->created);
    mutex_init(&s->quit_mutex, RANK_LEAF);
    cond_init(&s->quit_cond);
    int rc = open_all(s);
    if (rc < 0) {
        store_close(s);
        return rc;
    }
    *out = s;
    return 0;
}

int store_start(struct store *s)
{
    return store_threads_start(s);
}

void store_quit(struct store *s)
{
    store_threads_quit(s);
    for (uint32_t i = 0; i < store_count(s); i++)
        txlog_end_maintenance(ledger_log(store_at(s, i)));
    feed_close(&s->feeds.published);
    feed_close(&s->feeds.durable);
    feed_close(&s->feeds.applied);
}

void store_join(struct store *s)
{
    store_threads_join(s);
}

void store_close(struct store *s)
{
    if (s == NULL)
        return;
    for (uint32_t i = 0; i < s->count; i++)
        ledger_close(s->ledgers[i]);
    free_names(s->blocked, s->blocked_count);
    free(s->ledgers);
    free(s->hash);
    cond_fini(&s->quit_cond);
    mutex_fini(&s->quit_mutex);
    cond_fini(&s->created);
    mutex_fini(&s->mutex);
    feed_fini(&s->feeds.published);
    feed_fini(&s->feeds.durable);
    feed_fini(&s->feeds.applied);
    free(s);
}

void store_set_group_sync(struct store *s, int64_t us)
{
    atomic_store(&s->group_sync_us, us > 0 ? us : s->options.group_sync_us);
}

struct feeds *store_feeds(struct store *s)
{
    return &s->feeds;
}

struct ledger *store_find(struct store *s, const char *name)
{
    mutex_lock(&s->mutex);
    struct ledger *l = find_locked(s, name);
    mutex_unlock(&s->mutex);
    return l;
}

int store_get(struct store *s, const char *name, struct ledger **out)
{
    char folder[LEDGER_FOLDER_SIZE];
    int rc = store_escape(name, folder);
    if (rc < 0)
        return rc;
    mutex_lock(&s->mutex);
    struct ledger *l;
    while ((l = find_locked(s, name)) == NULL && s->creating)
        cond_wait(&s->created, &s->mutex);
    if (l == NULL)
        s->creating = true;
    mutex_unlock(&s->mutex);
    if (l != NULL) {
        *out = l;
        return 0;
    }
    rc = create(s, name, folder, out);
    mutex_lock(&s->mutex);
    s->creating = false;
    cond_broadcast(&s->created);
    mutex_unlock(&s->mutex);
    if (rc == 0)
        feed_wake(&s->feeds.published);
    return rc;
}

uint32_t store_count(struct store *s)
{
    mutex_lock(&s->mutex);
    uint32_t n = s->count;
    mutex_unlock(&s->mutex);
    return n;
}

struct ledger *store_at(struct store *s, uint32_t i)
{
    mutex_lock(&s->mutex);
    struct ledger *l = i < s->count ? s->ledgers[i] : NULL;
    mutex_unlock(&s->mutex);
    return l;
}

void store_set_page_reader(struct store *s, struct page_reader reader)
{
    mutex_lock(&s->mutex);
    s->reader = reader;
    mutex_unlock(&s->mutex);
}

struct page_reader store_page_reader(struct store *s)
{
    mutex_lock(&s->mutex);
    struct page_reader reader = s->reader;
    mutex_unlock(&s->mutex);
    return reader;
}

int store_data_dirfd(struct store *s)
{
    return s->data_dirfd;
}

uint32_t store_foreign_count(struct store *s)
{
    mutex_lock(&s->mutex);
    uint32_t n = s->foreign;
    mutex_unlock(&s->mutex);
    return n;
}

int store_escape(const char *name, char out[256])
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyz"
                                "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                "0123456789._-";
    size_t len = strlen(name);
    if (len == 0 || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return -ERR_INVALID;
    if (len >= STORE_NAME_MAX)
        return -ERR_LIMIT;
    /* Room for "~" and 16 digits is kept until it is known that they are not needed. */
    char text[FOLDER_MAX + 1];
    size_t n = 0, cut = 0;
    for (size_t i = 0; i < len && n <= FOLDER_MAX; i++) {
        bool is_plain = strchr(plain, name[i]) != NULL;
        size_t step = is_plain ? 1 : 3;
        if (n + step > FOLDER_MAX) {
            n = FOLDER_MAX + 1;
            break;
        }
        if (is_plain)
            text[n] = name[i];
        else
            snprintf(text + n, 4, "%%%02X", (unsigned char)name[i]);
        n += step;
        if (n <= FOLDER_MAX - 17)
            cut = n;
    }
    if (n <= FOLDER_MAX)
        snprintf(out, FOLDER_MAX + 1, "%.*s", (int)n, text);
    else
        snprintf(out, FOLDER_MAX + 1, "%.*s~%016" PRIx64, (int)cut, text,
                 checksum_update(0, name, len));
    return 0;
}
