/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/ident.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "fs/db/catalog.h"

struct ident *ident_new(struct fs *fs, const char *path)
{
    char base[PATH_MAX];
    size_t base_len = 0;
    struct ident *id = calloc(1, sizeof *id);
    if (!id)
        return NULL;
    id->kind = file_kind_of(path, &base_len);
    memcpy(base, path, base_len);
    base[base_len] = 0;
    id->db = catalog_get(fs->catalog, base);
    if (!id->db) {
        free(id);
        return NULL;
    }
    return id;
}

void ident_free(struct ident *chain)
{
    while (chain) {
        struct ident *id = chain;
        chain = id->older;
        catalog_put(id->db);
        free(id);
    }
}

struct ident *ident_of(struct fs *fs, struct inode *i)
{
    struct ident *id = atomic_load(&i->ident);
    if (id || !S_ISREG(i->type) || i->info)
        return id;
    char path[PATH_MAX];
    /* The path must not change between reading it and setting what follows from it. */
    fs_names_hold(fs);
    if (!inode_path(&fs->inodes, i, path, sizeof path)) {
        struct ident *made = ident_new(fs, path);
        id = made ? inode_set_ident(&fs->inodes, i, made, true) : NULL;
        if (made && id != made)
            ident_free(made);
    }
    fs_names_release(fs);
    return id;
}
