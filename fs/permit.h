/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FS_PERMIT_H
#define FS_PERMIT_H

#include <stdbool.h>

#include "fs/adapter.h"
#include "fs/db/database.h"

/*
 * Who may change what, in one place: on the primary everybody (within the permission bits, which
 * the kernel checks), elsewhere only the daemon itself. The wal-index is the exception: a reader
 * needs it writable to take its locks and marks. All return 0 or an errno.
 */

/* Anything that changes the tree: mkdir, unlink, rename, chmod, a new ordinary file. */
int permit_change(struct fs *fs, bool own);

/* Opening or creating (O_CREAT in `flags`) a file of that kind; fs/db has its say on databases. */
int permit_open(struct fs *fs, struct database *db, enum file_kind kind, int flags, bool own);

/* Writing, truncating and allocating in an open file. */
int permit_write(struct fs *fs, enum file_kind kind, bool own);

#endif
