/* SPDX-License-Identifier: Apache-2.0 */
#include "ltx/pagespool.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ltx/base/assert.h"
#include "ltx/base/clock.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/base/sparse.h"

#define FIRST_SLOTS 64u

/*
 * The file is a row of slots of one page each, in the order in which page numbers first came. A
 * hash with open addressing (at most half full, a power of two) finds the slot of a page number.
 */
static uint32_t hash_home(uint32_t pgno, uint32_t hash_cap)
{
    return (pgno * UINT32_C(2654435761)) & (hash_cap - 1);
}

/* The place of pgno in the hash: where it stands, or the free place where it would. */
static uint32_t hash_find(const struct pagespool *p, uint32_t pgno)
{
    uint32_t i = hash_home(pgno, p->hash_cap);
    while (p->hash[i] != 0 && p->pgno_of[p->hash[i] - 1] != pgno)
        i = (i + 1) & (p->hash_cap - 1);
    return i;
}

static int grow(struct pagespool *p)
{
    uint32_t cap = p->slots_cap == 0 ? FIRST_SLOTS : p->slots_cap * 2;
    if (cap > UINT32_C(1) << 30)
        return -ERR_LIMIT;
    uint32_t *hash = calloc((size_t)cap * 2, sizeof *hash);
    if (hash == NULL)
        return -ERR_NOMEM;
    uint32_t *pgno_of = realloc(p->pgno_of, (size_t)cap * sizeof *pgno_of);
    if (pgno_of == NULL) {
        free(hash);
        return -ERR_NOMEM;
    }
    free(p->hash);
    p->pgno_of = pgno_of;
    p->hash = hash;
    p->slots_cap = cap;
    p->hash_cap = cap * 2;
    for (uint32_t slot = 0; slot < p->slots; slot++)
        p->hash[hash_find(p, p->pgno_of[slot])] = slot + 1;
    return 0;
}

static int64_t slot_offset(const struct pagespool *p, uint32_t slot)
{
    return (int64_t)slot * p->page_size;
}

/* Forgets all pages; the ones to come may have another size. */
static int start_again(struct pagespool *p, uint32_t page_size)
{
    if (p->hash != NULL)
        memset(p->hash, 0, (size_t)p->hash_cap * sizeof *p->hash);
    p->slots = 0;
    p->order_len = 0;
    p->page_size = page_size;
    return sparse_set_size(&p->file, 0);
}

/* Where the filesystem knows no O_TMPFILE: a file of a random name that is unlinked at once. */
static int open_unlinked(int dirfd, int *fd)
{
    char name[32];
    snprintf(name, sizeof name, "pages-%016" PRIx64, random_u64());
    int rc = file_open(dirfd, name, O_RDWR | O_CREAT | O_EXCL, 0600, fd);
    if (rc < 0)
        return rc;
    rc = file_unlink(dirfd, name);
    if (rc < 0)
        (void)file_close(*fd);
    return rc;
}

static int compare_slots(const void *a, const void *b, void *ctx)
{
    const uint32_t *pgno_of = ctx;
    uint32_t x = pgno_of[*(const uint32_t *)a], y = pgno_of[*(const uint32_t *)b];
    return x < y ? -1 : x > y;
}

int pagespool_open(struct pagespool *p, int dirfd, uint32_t page_size)
{
    ASSERT(ltx_page_size_valid(page_size), "a spool holds pages");
    int fd;
    int rc = file_open(dirfd, ".", O_TMPFILE | O_RDWR, 0600, &fd);
    if (rc == -ERR_UNSUPPORTED || rc == -ERR_INVALID)
        rc = open_unlinked(dirfd, &fd);
    if (rc < 0)
        return rc;
    *p = (struct pagespool){.file = {.fd = fd, .end = -1}, .page_size = page_size};
    return 0;
}

void pagespool_close(struct pagespool *p)
{
    /* A zeroed spool was never opened: descriptor 0 is not its own. */
    if (p->page_size != 0)
        (void)file_close(p->file.fd);
    free(p->pgno_of);
    free(p->hash);
    free(p->order);
    *p = (struct pagespool){.file = {.fd = -1}};
}

int pagespool_put(struct pagespool *p, uint32_t pgno, const void *page)
{
    ASSERT(pgno > 0, "pages count from 1");
    if (p->slots == p->slots_cap) {
        int rc = grow(p);
        if (rc < 0)
            return rc;
    }
    uint32_t i = hash_find(p, pgno);
    bool known = p->hash[i] != 0;
    uint32_t slot = known ? p->hash[i] - 1 : p->slots;
    int rc = sparse_write(&p->file, page, p->page_size, slot_offset(p, slot));
    if (rc < 0 || known)
        return rc;
    p->pgno_of[slot] = pgno;
    p->hash[i] = slot + 1;
    p->slots++;
    return 0;
}

int pagespool_put_record(struct pagespool *p, struct ltx_source source, struct ltx_header *header,
                         uint64_t *post_checksum)
{
    struct ltx_decoder d;
    int rc = ltx_decode_begin(&d, source);
    if (rc < 0)
        return rc;
    const struct ltx_header *h = &d.header;
    /* A snapshot, a deletion and a new page size leave nothing of what was there before. */
    if (h->page_size != p->page_size || h->commit == 0 || ltx_header_is_snapshot(h))
        rc = start_again(p, h->page_size);
    uint8_t *page = rc < 0 ? NULL : malloc(h->page_size);
    if (rc == 0 && page == NULL)
        rc = -ERR_NOMEM;
    while (rc == 0) {
        uint32_t pgno;
        rc = ltx_decode_page(&d, &pgno, page);
        if (rc <= 0)
            break;
        rc = pagespool_put(p, pgno, page);
    }
    if (rc == 0) {
        *header = d.header;
        *post_checksum = d.post_checksum;
    }
    free(page);
    ltx_decode_fini(&d);
    return rc;
}

int pagespool_sort(struct pagespool *p, uint32_t commit)
{
    uint32_t *order = realloc(p->order, ((size_t)p->slots + 1) * sizeof *order);
    if (order == NULL)
        return -ERR_NOMEM;
    p->order = order;
    p->order_len = 0;
    bool rising = true;
    for (uint32_t slot = 0; slot < p->slots; slot++) {
        if (p->pgno_of[slot] > commit)
            continue;
        if (p->order_len > 0 && p->pgno_of[slot] < p->pgno_of[order[p->order_len - 1]])
            rising = false;
        order[p->order_len++] = slot;
    }
    if (!rising)
        qsort_r(order, p->order_len, sizeof *order, compare_slots, p->pgno_of);
    return 0;
}

int pagespool_read(struct pagespool *p, uint32_t i, uint32_t *pgno, void *page)
{
    ASSERT(i < p->order_len, "a sorted spool is read within its length");
    uint32_t slot = p->order[i];
    size_t got;
    int rc = file_read_some(p->file.fd, page, p->page_size, slot_offset(p, slot), &got);
    if (rc < 0)
        return rc;
    memset((uint8_t *)page + got, 0, p->page_size - got); /* zeros were left out */
    *pgno = p->pgno_of[slot];
    return 0;
}
