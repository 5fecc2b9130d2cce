/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FS_ADAPTER_H
#define FS_ADAPTER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "fs/db/catalog.h"
#include "fs/inode.h"
#include "fs/roll.h"
#include "fs/warm.h"
#include "ltx/role.h"

/*
 * What the operations of one mount share. The adapter speaks errno (positive, 0 for success): what
 * the backing file system says reaches the client as it is, and codes of err.h pass through
 * err_errno.
 */
struct fs {
    struct catalog *catalog;
    struct role_state *role;
    int tree_dirfd; /* the backing files; borrowed */
    uid_t uid;      /* the daemon's own */
    gid_t gid;
    struct inode_table inodes;
    struct warmer warmer;
    struct roll *roll; /* of the files that are open, borrowed; NULL: nobody asks for it */
    /*
     * Names: shared while a path is in use, exclusive while something is renamed. Taken before any
     * mutex but those of fs/db, and never held over a call into fs/db other than catalog_get.
     */
    pthread_rwlock_t names;
};

int fs_init(struct fs *fs);
void fs_fini(struct fs *fs);

void fs_names_hold(struct fs *fs);
void fs_names_release(struct fs *fs);
void fs_names_change(struct fs *fs); /* exclusive; ends with fs_names_release */

#endif
