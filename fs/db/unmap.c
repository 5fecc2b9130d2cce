/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/db/unmap.h"

#include <pthread.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "fs/db/database_impl.h"
#include "fs/db/own.h"

struct unmap_later {
    void *addr;
    size_t size;
    struct unmap_later *next;
};

static _Thread_local struct database *of_sqlite;
static _Thread_local int depth;

bool unmap_is_in_use(struct database *db)
{
    mutex_lock(&db->mutex);
    bool used = db->handles[FILE_SHM] > 0;
    mutex_unlock(&db->mutex);
    return used;
}

/* False: a client has the file open. */
static bool unmap_now(struct database *db, void *addr, size_t size)
{
    (void)msync(addr, size,
                MS_SYNC); /* of a file that has gone it fails: nothing is left to write */
    mutex_lock(&db->mutex);
    bool free = db->handles[FILE_SHM] == 0;
    db->unmaps += free;
    mutex_unlock(&db->mutex);
    if (!free)
        return false;
    munmap(addr, size);
    mutex_lock(&db->mutex);
    if (--db->unmaps == 0)
        cond_broadcast(&db->unmapped);
    mutex_unlock(&db->mutex);
    return true;
}

void unmap(struct database *db, void *addr, size_t size)
{
    if (unmap_now(db, addr, size))
        return;
    struct unmap_later *later = malloc(sizeof *later);
    if (!later)
        return; /* it stays as long as the daemon */
    mutex_lock(&db->mutex);
    *later = (struct unmap_later){addr, size, db->unmap_later};
    db->unmap_later = later;
    mutex_unlock(&db->mutex);
}

void unmap_waiting(struct database *db)
{
    mutex_lock(&db->mutex);
    struct unmap_later *l = db->handles[FILE_SHM] == 0 ? db->unmap_later : NULL;
    if (l)
        db->unmap_later = NULL;
    mutex_unlock(&db->mutex);
    for (struct unmap_later *next; l; l = next) {
        next = l->next;
        unmap(db, l->addr, l->size);
        free(l);
    }
}

void unmap_fini(struct database *db)
{
    for (struct unmap_later *l = db->unmap_later, *next; l; l = next) {
        next = l->next;
        munmap(l->addr, l->size);
        free(l);
    }
    db->unmap_later = NULL;
}

/* ---- SQLite ---- */

static int munmap_of_sqlite(void *addr, size_t size)
{
    if (!of_sqlite)
        return munmap(addr, size);
    unmap(of_sqlite, addr, size);
    return 0;
}

static void replace_munmap(void)
{
    sqlite3_vfs *vfs = sqlite3_vfs_find("unix");
    if (vfs && vfs->iVersion >= 3)
        vfs->xSetSystemCall(vfs, "munmap", (sqlite3_syscall_ptr)munmap_of_sqlite);
}

void unmap_enter(struct database *db)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, replace_munmap);
    own_enter();
    of_sqlite = db;
    depth++;
}

void unmap_leave(void)
{
    if (--depth == 0)
        of_sqlite = NULL;
    own_leave();
}
