/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FS_INODE_H
#define FS_INODE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "ltx/base/mutex.h"

/*
 * What the kernel knows of the tree: one inode for each backing file (st_dev, st_ino) that a lookup
 * has found, with the names under which it was found. There is no descriptor in it: a thousand
 * databases must not exhaust the daemon's descriptors, so an inode is reached through its path,
 * which is put together from names and therefore follows each rename, also of a folder above.
 *
 * An inode lives as long as the kernel remembers it (lookups), a handle or a child's name holds it
 * (refs). One that has lost its last link is found by no lookup from then on, because the backing
 * file system gives its number to the next file; its handles go on through their descriptors.
 *
 * The table has one mutex (RANK_FS_INODE), held for short and never over I/O. A path stays right
 * only while nothing is renamed: callers hold `struct fs`'s tree lock from inode_path to the end of
 * the system call that uses it. Fields marked "table" are guarded by the table's mutex.
 */
struct ident;
struct handle;

struct inode_name {
    struct inode *inode;      /* whose name it is */
    struct inode *parent;     /* held by a ref */
    struct inode_name *chain; /* in the hash over (parent, name) */
    struct inode_name *next;  /* further names of the same inode */
    char text[];
};

struct inode {
    uint64_t dev, ino; /* backing; for an informational file: 0 and a number of ours */
    mode_t type;       /* S_IFMT bits */
    uint8_t info;      /* enum info_kind, 0 for a file of the tree */
    /* A folder: names made or removed in it that its next fsync must bring to disk are counted,
     * after the fact; `synced` of them are on disk. */
    atomic_ulong changes, synced;
    _Atomic(off_t) warmed;    /* of a -wal: up to here its pages have been completed, see warm.h */
    uint64_t lookups;         /* table */
    uint32_t refs;            /* table */
    bool gone;                /* table: has lost its last link; no lookup finds it any more */
    struct inode *chain;      /* table: in the hash over (dev, ino), or in the list of the dead */
    struct inode_name *names; /* table: none for the root and for what was removed */
    struct handle *handles;   /* table: open ones; see handle.h */
    uint32_t place;           /* table: in the roll of open files, 0 if it is not in it */
    _Atomic(struct ident *) ident; /* set under the table's mutex, read by anyone; see ident.h */
    struct ident *outdated;        /* table: earlier ones, which handles may still use */
};

struct inode_table {
    struct mutex mutex;
    struct inode *root;
    struct inode **by_number; /* each hash has a power of two as its size */
    struct inode_name **by_name;
    size_t number_slots, name_slots;
    size_t inode_count, name_count;
    void (*ident_free)(struct ident *chain); /* called without the mutex */
};

int inode_table_init(struct inode_table *t, const struct stat *root,
                     void (*free_idents)(struct ident *));
void inode_table_fini(struct inode_table *t); /* frees what the kernel has not forgotten, too */

/*
 * A lookup has found `st` under (parent, name): gives its inode, one more lookup. A name that
 * belonged to another inode until now is taken away from it. NULL: out of memory.
 */
struct inode *inode_enter(struct inode_table *t, struct inode *parent, const char *name,
                          const struct stat *st);
/* The same for an informational file, which is made by us: it has a name but no backing file. */
struct inode *inode_enter_info(struct inode_table *t, struct inode *parent, const char *name,
                               int info);

void inode_forget(struct inode_table *t, struct inode *i, uint64_t lookups);
void inode_hold(struct inode_table *t, struct inode *i);
void inode_release(struct inode_table *t, struct inode *i);

/* The inode that is known under the name, held; NULL if none is. */
struct inode *inode_find(struct inode_table *t, struct inode *parent, const char *name);

/*
 * Writes the path relative to the top of the tree ("." for the top itself). -ERR_NOTFOUND for what
 * has no name any more, -ERR_LIMIT if it does not fit.
 */
int inode_path(struct inode_table *t, const struct inode *i, char *out, size_t size);
int inode_child_path(struct inode_table *t, const struct inode *parent, const char *name, char *out,
                     size_t size);

/* The name is gone. `links` is what is left of the file's links: at 0 the inode is gone. */
void inode_unnamed(struct inode_table *t, struct inode *parent, const char *name, nlink_t links);
/* What was (parent, name) is now (to_parent, to_name). -ERR_NOMEM: the inode is nameless then and
 * will be found again by its number. */
int inode_renamed(struct inode_table *t, struct inode *parent, const char *name,
                  struct inode *to_parent, const char *to_name);

/*
 * The identity of a file (ident.h). inode_set_ident takes `id`; the old one is kept until the inode
 * ends, because a request may be using it. With `only_if_none` it gives way to one that is there
 * and returns that; the caller then frees its own.
 */
struct ident *inode_set_ident(struct inode_table *t, struct inode *i, struct ident *id,
                              bool only_if_none);
/* A folder was renamed: the files below it have to find their identities anew. */
void inode_clear_idents_below(struct inode_table *t, const struct inode *folder);

size_t inode_count(struct inode_table *t);

#endif
