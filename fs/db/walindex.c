/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/db/walindex.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fs/db/unmap.h"
#include "ltx/base/bytes.h"
#include "ltx/base/clock.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"

#define HASH_SLOTS 8192
#define HASH_OFFSET 16384
#define HASH_PRIME 383u
#define BACKFILL_OFFSET 96
#define READMARK_OFFSET 100
#define READMARK_COUNT 5
#define READMARK_UNUSED 0xffffffffu
#define BACKFILL_ATTEMPTED_OFFSET 128

_Static_assert(sizeof(struct walindex_header) == 48, "the wal-index header has 48 bytes");

void walindex_init(struct walindex *w, int fd, struct database *db)
{
    *w = (struct walindex){.fd = fd, .db = db};
}

void walindex_init_copy(struct walindex *w, int fd)
{
    *w = (struct walindex){.fd = fd, .copy = true};
}

void walindex_fini(struct walindex *w)
{
    for (uint32_t i = 0; i < w->blocks; i++) {
        if (!w->block[i])
            continue;
        if (w->copy)
            free(w->block[i]);
        else if (w->db)
            unmap(w->db, w->block[i], WALINDEX_BLOCK);
        else
            munmap(w->block[i], WALINDEX_BLOCK);
    }
    free(w->block);
    *w = (struct walindex){.fd = -1};
}

static int map(const struct walindex *w, uint32_t i, uint8_t **out)
{
    void *map = mmap(NULL, WALINDEX_BLOCK, PROT_READ | PROT_WRITE, MAP_SHARED, w->fd,
                     (off_t)i * WALINDEX_BLOCK);
    if (map == MAP_FAILED) {
        int err = err_from_errno(errno);
        return err ? err : -ERR_IO;
    }
    *out = map;
    return 0;
}

static int read_copy(const struct walindex *w, uint32_t i, uint8_t **out)
{
    uint8_t *copy = malloc(WALINDEX_BLOCK);
    int err =
        copy ? file_read(w->fd, copy, WALINDEX_BLOCK, (int64_t)i * WALINDEX_BLOCK) : -ERR_NOMEM;
    if (err)
        free(copy);
    else
        *out = copy;
    return err;
}

/* All but the lock bytes and what clients change without WAL_WRITE. */
static int write_copies(const struct walindex *w)
{
    int err = 0;
    for (uint32_t i = 0; !err && i < w->blocks; i++) {
        uint32_t from = i ? 0 : WALINDEX_HEADER_AREA;
        if (w->block[i])
            err = file_write(w->fd, w->block[i] + from, WALINDEX_BLOCK - from,
                             (int64_t)i * WALINDEX_BLOCK + from);
    }
    return err;
}

/* Block i; the file is extended to hold it if `grow`. */
static int get_block(struct walindex *w, uint32_t i, bool grow, uint8_t **out)
{
    if (i < w->blocks && w->block[i]) {
        *out = w->block[i];
        return 0;
    }
    int64_t size, end = (int64_t)(i + 1) * WALINDEX_BLOCK;
    int err = file_size(w->fd, &size);
    if (err)
        return err;
    if (size < end) {
        if (!grow)
            return -ERR_BUSY;
        /* As SQLite does: a byte at the end of each 4 kB, so that a full disk is met here and not
         * in the mapping. */
        for (int64_t off = size / 4096 * 4096 + 4095; !err && off < end; off += 4096)
            if (off >= size)
                err = file_write(w->fd, "", 1, off);
        if (err)
            return err;
    }
    if (i >= w->blocks) {
        uint8_t **blocks = realloc(w->block, (i + 1) * sizeof *blocks);
        if (!blocks)
            return -ERR_NOMEM;
        memset(blocks + w->blocks, 0, (i + 1 - w->blocks) * sizeof *blocks);
        w->block = blocks;
        w->blocks = i + 1;
    }
    err = w->copy ? read_copy(w, i, &w->block[i]) : map(w, i, &w->block[i]);
    *out = w->block[i];
    return err;
}

/* -ERR_BUSY: not two copies of a whole one. */
static int check_header(const struct walindex_header h[2], struct walindex_header *out)
{
    uint32_t cksum[2] = {0, 0};
    if (memcmp(&h[0], &h[1], sizeof h[0]) != 0)
        return -ERR_BUSY;
    wal_checksum(false, &h[0], 40, cksum);
    if (!h[0].is_init || h[0].version != WAL_VERSION || cksum[0] != h[0].cksum[0] ||
        cksum[1] != h[0].cksum[1])
        return -ERR_BUSY;
    *out = h[0];
    return 0;
}

int walindex_peek(int fd, struct walindex_header *out)
{
    struct walindex_header h[2];
    int err = file_read(fd, h, sizeof h, 0);
    return err == -ERR_TRUNCATED ? -ERR_BUSY : err ? err : check_header(h, out);
}

int walindex_read(struct walindex *w, struct walindex_header *out)
{
    uint8_t *b;
    int err = get_block(w, 0, false, &b);
    if (err)
        return err;
    err = -ERR_BUSY;
    for (int tries = 0; err && tries < 100; tries++) {
        struct walindex_header h[2];
        memcpy(&h[0], b, sizeof h[0]);
        atomic_thread_fence(memory_order_seq_cst);
        memcpy(&h[1], b + sizeof h[0], sizeof h[1]);
        err = check_header(h, out);
    }
    return err;
}

uint32_t walindex_page_size(const struct walindex_header *h)
{
    return (h->page_size & 0xfe00u) + ((h->page_size & 1u) << 16);
}

int walindex_backfill(struct walindex *w, uint32_t *frames)
{
    uint8_t *b;
    int err = get_block(w, 0, false, &b);
    if (!err)
        *frames = atomic_load((_Atomic uint32_t *)(void *)(b + BACKFILL_OFFSET));
    return err;
}

static uint32_t block_of(uint32_t frame)
{
    return (frame + WALINDEX_PAGES - WALINDEX_FIRST_PAGES - 1) / WALINDEX_PAGES;
}

/* The page numbers and the hash table of a block, and the number of the frame before its first. */
struct table {
    uint32_t *pgno;
    uint16_t *hash;
    uint32_t zero;
};

static int table_of(struct walindex *w, uint32_t block, struct table *t)
{
    uint8_t *b;
    int err = get_block(w, block, true, &b);
    if (err)
        return err;
    t->hash = (uint16_t *)(void *)(b + HASH_OFFSET);
    t->pgno = (uint32_t *)(void *)(b + (block ? 0 : WALINDEX_HEADER_AREA));
    t->zero = block ? WALINDEX_FIRST_PAGES + (block - 1) * WALINDEX_PAGES : 0;
    return 0;
}

int walindex_highest_page(struct walindex *w, uint32_t mx_frame, uint32_t *pgno)
{
    struct table t;
    *pgno = 0;
    for (uint32_t frame = 1; frame <= mx_frame; frame++) {
        if (frame == 1 || block_of(frame) != block_of(frame - 1)) {
            int err = table_of(w, block_of(frame), &t);
            if (err)
                return err;
        }
        if (t.pgno[frame - t.zero - 1] > *pgno)
            *pgno = t.pgno[frame - t.zero - 1];
    }
    return 0;
}

int walindex_last_frame(struct walindex *w, uint32_t mx_frame, uint32_t pgno, uint32_t *frame)
{
    struct table t;
    *frame = 0;
    for (uint32_t f = mx_frame; f > 0; f--) {
        if (f == mx_frame || block_of(f) != block_of(f + 1)) {
            int err = table_of(w, block_of(f), &t);
            if (err)
                return err;
        }
        if (t.pgno[f - t.zero - 1] == pgno) {
            *frame = f;
            break;
        }
    }
    return 0;
}

/* Takes out what a rolled-back or dead writer entered after mx_frame, in the block that holds it.
 */
static int clean_after(struct walindex *w, uint32_t mx_frame)
{
    struct table t;
    if (mx_frame == 0)
        return 0;
    int err = table_of(w, block_of(mx_frame), &t);
    if (err)
        return err;
    uint32_t limit = mx_frame - t.zero;
    for (uint32_t i = 0; i < HASH_SLOTS; i++)
        if (t.hash[i] > limit)
            t.hash[i] = 0;
    memset(t.pgno + limit, 0, (size_t)((uint8_t *)t.hash - (uint8_t *)(t.pgno + limit)));
    return 0;
}

int walindex_append(struct walindex *w, uint32_t frame, uint32_t pgno, uint32_t mx_frame)
{
    struct table t;
    if (frame == 0) /* the one after the last that 32 bits can count */
        return -ERR_CORRUPT;
    int err = table_of(w, block_of(frame), &t);
    if (err)
        return err;
    uint32_t index = frame - t.zero;
    if (index == 1)
        memset(t.pgno, 0, (size_t)((uint8_t *)(t.hash + HASH_SLOTS) - (uint8_t *)t.pgno));
    if (t.pgno[index - 1] != 0) {
        err = clean_after(w, mx_frame);
        if (err)
            return err;
    }
    uint32_t slot = pgno * HASH_PRIME & (HASH_SLOTS - 1);
    for (uint32_t tries = index; t.hash[slot]; slot = (slot + 1) & (HASH_SLOTS - 1))
        if (tries-- == 0)
            return -ERR_CORRUPT;
    t.pgno[index - 1] = pgno;
    atomic_store((_Atomic uint16_t *)(void *)&t.hash[slot], (uint16_t)index);
    return 0;
}

static int write_header(struct walindex *w, struct walindex_header *h)
{
    uint8_t *b;
    int err = get_block(w, 0, true, &b);
    if (err)
        return err;
    h->is_init = 1;
    h->version = WAL_VERSION;
    h->cksum[0] = h->cksum[1] = 0;
    wal_checksum(false, h, 40, h->cksum);
    memcpy(b + sizeof *h, h, sizeof *h);
    atomic_thread_fence(memory_order_seq_cst);
    memcpy(b, h, sizeof *h);
    if (!w->copy)
        return 0;
    err = write_copies(w);
    if (!err)
        err = file_write(w->fd, h, sizeof *h, sizeof *h);
    return err ? err : file_write(w->fd, h, sizeof *h, 0);
}

int walindex_publish(struct walindex *w, struct walindex_header *h)
{
    h->change++;
    return write_header(w, h);
}

int walindex_forget(struct walindex *w)
{
    uint8_t *b;
    int err = get_block(w, 0, true, &b);
    if (!err)
        memset(b, 0, 2 * sizeof(struct walindex_header));
    return err;
}

int walindex_restart(struct walindex *w, struct walindex_header *h)
{
    uint8_t *b;
    int err = get_block(w, 0, true, &b);
    if (err)
        return err;
    h->mx_frame = 0;
    put_be32(h->salt, get_be32(h->salt) + 1);
    uint32_t random = (uint32_t)random_u64();
    memcpy(h->salt + 4, &random, 4);
    err = write_header(w, h);
    if (err)
        return err;
    uint32_t *marks = (uint32_t *)(void *)(b + READMARK_OFFSET);
    atomic_store((_Atomic uint32_t *)(void *)(b + BACKFILL_OFFSET), 0);
    *(uint32_t *)(void *)(b + BACKFILL_ATTEMPTED_OFFSET) = 0;
    marks[1] = 0;
    for (int i = 2; i < READMARK_COUNT; i++)
        marks[i] = READMARK_UNUSED;
    return 0;
}
