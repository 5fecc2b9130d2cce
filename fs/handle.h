/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FS_HANDLE_H
#define FS_HANDLE_H

#include <dirent.h>
#include <stdbool.h>
#include <stdint.h>

#include "fs/adapter.h"
#include "fs/db/database.h"

/*
 * An open file as the kernel knows it: what fi->fh points to. The backing descriptor belongs to the
 * handle; an inode lists its handles because fstat and fchmod of a file without a name come without
 * one, and are answered through any of them.
 */
struct handle {
    struct inode *inode; /* held */
    int fd;              /* backing; -1 for an informational file */
    int flags;           /* as the client opened it */
    bool own;            /* the daemon itself, through its mount */
    /* Told of the opening, and told of the release, whatever the file is called by then. */
    struct database *db; /* NULL: not an ordinary file of the tree */
    enum file_kind kind;
    unsigned file;       /* what database_opened said */
    uint32_t refs;       /* table mutex */
    struct handle *next; /* of the same inode; table mutex */
    struct handle *prev;
    size_t
        info_len; /* what the reader of an informational file was given at offset 0; table mutex */
    char info[];  /* table mutex */
};

/* Takes `fd`; holds the inode. `extra` bytes follow in info[]. NULL: out of memory (fd stays the
 * caller's). */
struct handle *handle_new(struct fs *fs, struct inode *i, int fd, int flags, size_t extra);
/* It is open as that file of that database. */
void handle_is_of(struct fs *fs, struct handle *h, struct database *db, enum file_kind kind);
/* The kernel has released it: closes the descriptor as soon as no other request uses it. */
void handle_put(struct fs *fs, struct handle *h);

/* Any open handle of the inode that has a descriptor, counted (handle_put); NULL if there is none.
 */
struct handle *handle_any(struct fs *fs, struct inode *i);
bool handle_is_any(struct fs *fs, const struct inode *i); /* is it open? */

/* Of an informational file: keeps the text for reads further on, or gives what was kept. Two may read
 * through one handle. */
void handle_info(struct fs *fs, struct handle *h, bool keep, char *text, size_t *len);

/* Those that the kernel has not released, as it does no more once it is unmounted. No request runs. */
void handle_end_all(struct fs *fs);

#endif
