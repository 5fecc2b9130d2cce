/* SPDX-License-Identifier: Apache-2.0 */
#include "ltx/pagesums.h"

#include <stdlib.h>
#include <string.h>

#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/format.h"

/*
 * The file is the array as it is in memory: 8 bytes a page, least significant first, page 1 at
 * offset 0. It has no header and no checksum of its own, because it is never believed: what it
 * gives, with the records after S laid over it, must come to the checksum of the last position.
 */
#define SUM_BYTES 8u
#define BITS 64u

static uint32_t file_blocks(uint32_t count)
{
    return count / PAGESUMS_FILE_BLOCK + (count % PAGESUMS_FILE_BLOCK != 0);
}

static void mark(struct pagesums *s, uint32_t block)
{
    s->dirty[block / BITS] |= UINT64_C(1) << (block % BITS);
}

static bool is_marked(const struct pagesums *s, uint32_t block)
{
    return (s->dirty[block / BITS] >> (block % BITS) & 1) != 0;
}

static void unmark(struct pagesums *s, uint32_t block)
{
    s->dirty[block / BITS] &= ~(UINT64_C(1) << (block % BITS));
}

static int64_t block_offset(uint32_t block)
{
    return (int64_t)block * PAGESUMS_FILE_BLOCK * SUM_BYTES;
}

void pagesums_fini(struct pagesums *s)
{
    free(s->sums);
    free(s->dirty);
    memset(s, 0, sizeof *s);
}

uint64_t pagesums_get(const struct pagesums *s, uint32_t pgno)
{
    return pgno == 0 || pgno > s->count ? 0 : s->sums[pgno - 1];
}

int pagesums_set(struct pagesums *s, uint32_t pgno, uint64_t sum)
{
    if (pgno == 0)
        return -ERR_INVALID;
    if (pgno > s->count) {
        int rc = pagesums_resize(s, pgno);
        if (rc < 0)
            return rc;
    }
    if (s->sums[pgno - 1] != sum) {
        s->sums[pgno - 1] = sum;
        mark(s, (pgno - 1) / PAGESUMS_FILE_BLOCK);
    }
    return 0;
}

int pagesums_resize(struct pagesums *s, uint32_t count)
{
    if (count == s->count)
        return 0;
    int rc = pagesums_reserve(s, count);
    if (rc < 0)
        return rc;
    if (count > s->count) {
        /* What the file holds there is of a former, larger time: it must be written over. */
        for (uint32_t b = s->count / PAGESUMS_FILE_BLOCK; b < file_blocks(count); b++)
            mark(s, b);
    } else {
        memset(s->sums + count, 0, (size_t)(s->count - count) * sizeof *s->sums);
        for (uint32_t b = file_blocks(count); b < file_blocks(s->count); b++)
            unmark(s, b);
    }
    s->count = count;
    return 0;
}

int pagesums_reserve(struct pagesums *s, uint32_t count)
{
    if (count <= s->cap)
        return 0;
    /* A quarter more than now keeps a growing database from being copied at every page. */
    uint64_t cap = (uint64_t)s->cap + s->cap / 4 + PAGESUMS_FILE_BLOCK;
    if (cap < count)
        cap = count;
    if (cap > UINT32_MAX)
        cap = UINT32_MAX;
    uint64_t *sums = realloc(s->sums, (size_t)cap * sizeof *sums);
    if (sums == NULL)
        return -ERR_NOMEM;
    memset(sums + s->cap, 0, (size_t)(cap - s->cap) * sizeof *sums);
    s->sums = sums;

    uint32_t words = s->dirty_blocks / BITS;
    uint32_t want = file_blocks((uint32_t)cap) / BITS + 1;
    if (want > words) {
        uint64_t *dirty = realloc(s->dirty, (size_t)want * sizeof *dirty);
        if (dirty == NULL)
            return -ERR_NOMEM;
        memset(dirty + words, 0, (size_t)(want - words) * sizeof *dirty);
        s->dirty = dirty;
        s->dirty_blocks = want * BITS;
    }
    s->cap = (uint32_t)cap;
    return 0;
}

uint64_t pagesums_total(const struct pagesums *s)
{
    uint64_t total = 0;
    for (uint32_t i = 0; i < s->count; i++)
        total ^= s->sums[i];
    return total | LTX_CHECKSUM_BIT;
}

uint64_t pagesums_block(const struct pagesums *s, uint32_t block)
{
    uint64_t first = (uint64_t)block * PAGESUMS_BLOCK;
    if (first >= s->count)
        return 0;
    uint64_t n = s->count - first < PAGESUMS_BLOCK ? s->count - first : PAGESUMS_BLOCK;
    uint64_t total = 0;
    for (uint64_t i = first; i < first + n; i++)
        total ^= s->sums[i];
    /* The odd constant spreads the count over all bits; a full and a cut block never look alike. */
    return total ^ n * UINT64_C(0x9e3779b97f4a7c15);
}

uint32_t pagesums_block_count(const struct pagesums *s)
{
    return s->count / PAGESUMS_BLOCK + (s->count % PAGESUMS_BLOCK != 0);
}

int pagesums_save(struct pagesums *s, int fd)
{
    uint64_t sums[PAGESUMS_FILE_BLOCK];
    uint32_t n;
    for (uint32_t block = 0; (n = pagesums_take_dirty(s, &block, sums)) > 0; block++) {
        int rc = file_write(fd, sums, (size_t)n * SUM_BYTES, block_offset(block));
        if (rc < 0) {
            pagesums_mark_dirty(s, block);
            return rc;
        }
    }
    return file_sync_data(fd);
}

int pagesums_load(struct pagesums *s, int fd, uint32_t count)
{
    pagesums_fini(s);
    if (count == 0)
        return 0;
    int rc = pagesums_resize(s, count);
    if (rc < 0)
        return rc;
    size_t got;
    rc = file_read_some(fd, s->sums, (size_t)count * SUM_BYTES, 0, &got);
    if (rc < 0)
        return rc;
    memset((char *)s->sums + got, 0, (size_t)count * SUM_BYTES - got);
    for (uint32_t b = 0; b < got / SUM_BYTES / PAGESUMS_FILE_BLOCK; b++)
        unmark(s, b);
    return 0;
}

uint32_t pagesums_take_dirty(struct pagesums *s, uint32_t *block, uint64_t out[PAGESUMS_FILE_BLOCK])
{
    uint32_t end = file_blocks(s->count);
    for (uint32_t b = *block; b < end; b++) {
        if (b % BITS == 0 && s->dirty[b / BITS] == 0) {
            b += BITS - 1;
            continue;
        }
        if (!is_marked(s, b))
            continue;
        unmark(s, b);
        uint32_t first = b * PAGESUMS_FILE_BLOCK;
        uint32_t n = s->count - first;
        if (n > PAGESUMS_FILE_BLOCK)
            n = PAGESUMS_FILE_BLOCK;
        memcpy(out, s->sums + first, (size_t)n * sizeof *out);
        *block = b;
        return n;
    }
    return 0;
}

void pagesums_mark_dirty(struct pagesums *s, uint32_t block)
{
    /* The block may have been cut off meanwhile; then there is nothing to write. */
    if (block < file_blocks(s->count))
        mark(s, block);
}
