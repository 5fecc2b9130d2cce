/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FS_IDENT_H
#define FS_IDENT_H

#include "fs/adapter.h"
#include "fs/db/database.h"
#include "fs/inode.h"

/*
 * What an ordinary file is to SQLite: of which database, and which of its files. Made from the path
 * when it is first needed, never changed: a rename gives the inode another one, and the old one
 * stays until the inode ends, because requests on open handles read it without a lock.
 */
struct ident {
    struct database *db; /* counted */
    enum file_kind kind;
    struct ident *older; /* the inode's earlier ones; table */
};

/*
 * The identity of an inode; NULL for what is not an ordinary file of the tree, or has no name any
 * more: nobody can find such a file as a database, so it is a plain one. May do I/O.
 */
struct ident *ident_of(struct fs *fs, struct inode *i);

/* The identity that a file has, or would have, under `path`. NULL: out of memory. */
struct ident *ident_new(struct fs *fs, const char *path);
void ident_free(struct ident *chain); /* with the older ones */

#endif
