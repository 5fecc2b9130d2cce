/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FS_DB_WALINDEX_H
#define FS_DB_WALINDEX_H

#include <stdbool.h>
#include <stdint.h>

#include "fs/db/wal.h"

struct database;

/*
 * SQLite's wal-index, the shared memory in -shm (https://www.sqlite.org/walformat.html, 2; wal.c of
 * SQLite), in the byte order of the machine:
 *     0 48  header
 *    48 48  the same again; this copy is written first, so a reader that finds both equal has a
 *           whole one
 *    96  4  nBackfill: frames that a checkpoint has copied into the database
 *   100 20  five read marks
 *   120  8  the lock bytes (locks.h)
 *   128  4  nBackfillAttempted
 *   136     page numbers of frames 1..4062
 * 16384     a hash table of 8192 16-bit slots for them
 * 32768     blocks of the same size, with 4096 page numbers each
 *
 * The caller holds WAL_WRITE (LOCK_SHM_WRITE) around everything but walindex_read and
 * walindex_backfill.
 */
#define WALINDEX_BLOCK 32768
#define WALINDEX_HEADER_AREA 136
#define WALINDEX_FIRST_PAGES 4062 /* page numbers in the first block */
#define WALINDEX_PAGES 4096

struct walindex_header { /* 48 bytes as they stand in the file */
    uint32_t version;
    uint32_t unused;
    uint32_t change;
    uint8_t is_init;
    uint8_t big_endian;
    uint16_t page_size; /* 1 stands for 65,536 */
    uint32_t mx_frame;
    uint32_t page_count;
    uint32_t frame_cksum[2];
    uint8_t salt[8];
    uint32_t cksum[2];
};

/*
 * -shm is mapped (walindex_init), as SQLite does it, so that what is changed costs no request, and unmapped as
 * unmap.h says. Or it is read and written like any file (walindex_init_copy): then a block is what it was when it was
 * first needed, walindex_publish writes what was changed, and nothing remains of it. That is for who comes seldom
 * and where clients are at work.
 */
struct walindex {
    int fd;              /* -shm through the own mount; borrowed */
    struct database *db; /* whose it is; NULL: the file is on no mount of ours */
    bool copy;
    uint8_t **block; /* mapped, shared; or allocated */
    uint32_t blocks;
};

void walindex_init(struct walindex *w, int fd, struct database *db);
void walindex_init_copy(struct walindex *w, int fd);
void walindex_fini(struct walindex *w); /* blocks */

/* A consistent copy of the header. -ERR_BUSY: it is being changed or was never written; SQLite must
 * recover it. */
int walindex_read(struct walindex *w, struct walindex_header *out);
/* The same of a file as it is now, without a mapping. */
int walindex_peek(int fd, struct walindex_header *out);
uint32_t walindex_page_size(const struct walindex_header *h);
/* The header's 16 bits for a page size in bytes. */
static inline uint16_t walindex_page_size_field(uint32_t page_size)
{
    return (uint16_t)((page_size & 0xff00) | (page_size >> 16));
}
int walindex_backfill(struct walindex *w, uint32_t *frames);
/* The highest page number of the frames up to mx_frame, 0 if that is 0. */
int walindex_highest_page(struct walindex *w, uint32_t mx_frame, uint32_t *pgno);
/* The last frame up to mx_frame that holds the page, 0 if none does. */
int walindex_last_frame(struct walindex *w, uint32_t mx_frame, uint32_t pgno, uint32_t *frame);

/* Enters frame number `frame` for page `pgno` into the hash tables (grows the file). Invisible to
 * readers until published. */
int walindex_append(struct walindex *w, uint32_t frame, uint32_t pgno, uint32_t mx_frame);
/* Makes everything up to h->mx_frame visible; h->change and h->cksum are updated. */
int walindex_publish(struct walindex *w, struct walindex_header *h);
/* Makes the header one that was never written, so that SQLite builds all of it from the -wal. */
int walindex_forget(struct walindex *w);
/* After all frames were backfilled and no reader uses the WAL (the caller holds READ 1..4
 * exclusively): begin at frame 1 with new salts. */
int walindex_restart(struct walindex *w, struct walindex_header *h);

#endif
