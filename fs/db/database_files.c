/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "fs/db/database_impl.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"

static const char *suffix[FILE_KIND_COUNT] = {"", "-journal", "-wal", "-shm", NULL};

/* "-mj", then nine characters: six hexadecimal digits, a 9, two hexadecimal digits (pager.c and
 * vdbeaux.c of SQLite). */
static bool is_super_suffix(const char *s, size_t n)
{
    return n == 12 && memcmp(s, "-mj", 3) == 0 && strspn(s + 3, "0123456789ABCDEFabcdef") >= 9 &&
           s[9] == '9';
}

enum file_kind file_kind_of(const char *path, size_t *base_len)
{
    size_t n = strlen(path);
    const char *slash = strrchr(path, '/');
    size_t name = slash ? (size_t)(slash + 1 - path) : 0;
    for (enum file_kind k = FILE_JOURNAL; k <= FILE_SHM; k++) {
        size_t s = strlen(suffix[k]);
        if (n - name > s && strcmp(path + n - s, suffix[k]) == 0) {
            *base_len = n - s;
            return k;
        }
    }
    if (n - name > 12 && is_super_suffix(path + n - 12, 12)) {
        *base_len = n - 12;
        return FILE_SUPER;
    }
    *base_len = n;
    return FILE_MAIN;
}

void database_file_path(const struct database *db, enum file_kind kind, char out[DATABASE_PATH_MAX])
{
    snprintf(out, DATABASE_PATH_MAX, "%s%s", db->path, suffix[kind]);
}

static int open_file(struct database *db, enum file_kind kind, int *fd)
{
    char path[DATABASE_PATH_MAX];
    if (*fd >= 0)
        return 0;
    database_file_path(db, kind, path);
    return file_open(database_tree(db), path, O_RDWR | O_NOFOLLOW, 0, fd);
}

int database_open_main(struct database *db)
{
    return open_file(db, FILE_MAIN, &db->main_fd);
}

int database_open_wal(struct database *db)
{
    return open_file(db, FILE_WAL, &db->wal_fd);
}

void database_close_files(struct database *db)
{
    file_close(db->main_fd);
    file_close(db->wal_fd);
    db->main_fd = db->wal_fd = -1;
}

int database_read_main(struct database *db, uint32_t page_size, uint32_t pgno, void *page)
{
    size_t got;
    int err = database_open_main(db);
    if (!err)
        err = file_read_some(db->main_fd, page, page_size, (int64_t)(pgno - 1) * page_size, &got);
    if (!err)
        memset((uint8_t *)page + got, 0, page_size - got);
    return err;
}

int database_pages_read(void *ctx, uint32_t pgno, void *page)
{
    struct database_pages *p = ctx;
    return database_read_main(p->db, p->page_size, pgno, page);
}

int database_sync_names(struct database *db)
{
    char path[DATABASE_PATH_MAX];
    database_file_path(db, FILE_MAIN, path);
    for (char *slash; (slash = strrchr(path, '/'));) {
        *slash = '\0';
        int err = file_sync_dir(database_tree(db), path);
        if (err && err != -ERR_NOTFOUND)
            return err;
    }
    return file_sync_dir(database_tree(db), ".");
}

uint32_t database_page_size(struct database *db)
{
    struct ledger_info info;
    if (!db->ledger)
        return 0;
    ledger_info(db->ledger, &info);
    return info.page_size;
}

int database_need_ledger(struct database *db)
{
    return db->ledger ? 0 : store_get(database_store(db), db->path, &db->ledger);
}
