/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/adapter.h"

#include <sys/stat.h>
#include <unistd.h>

#include "fs/handle.h"
#include "fs/ident.h"
#include "ltx/base/assert.h"
#include "ltx/base/err.h"

int fs_init(struct fs *fs)
{
    struct stat st;
    if (fstat(fs->tree_dirfd, &st))
        return -ERR_IO;
    fs->uid = geteuid();
    fs->gid = getegid();
    /* Renames are rare and must not wait for ever behind a stream of lookups. */
    pthread_rwlockattr_t attr;
    pthread_rwlockattr_init(&attr);
    pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    int rc = pthread_rwlock_init(&fs->names, &attr);
    pthread_rwlockattr_destroy(&attr);
    if (rc)
        return -ERR_NOMEM;
    rc = inode_table_init(&fs->inodes, &st, ident_free);
    if (rc)
        pthread_rwlock_destroy(&fs->names);
    return rc;
}

void fs_fini(struct fs *fs)
{
    handle_end_all(fs);
    inode_table_fini(&fs->inodes);
    pthread_rwlock_destroy(&fs->names);
}

void fs_names_hold(struct fs *fs)
{
    int rc = pthread_rwlock_rdlock(&fs->names);
    ASSERT(rc == 0, "the lock of names is taken once by a thread");
}

void fs_names_release(struct fs *fs)
{
    pthread_rwlock_unlock(&fs->names);
}

void fs_names_change(struct fs *fs)
{
    int rc = pthread_rwlock_wrlock(&fs->names);
    ASSERT(rc == 0, "the lock of names is taken once by a thread");
}
