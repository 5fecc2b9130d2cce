/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The first bytes of a database file (fs/db/header.h) and its list of unused pages
 * (fs/db/freelist.h), which may run in circles. The walk reads no page twice as often as there are.
 */
#include <stdlib.h>
#include <string.h>

#include "fs/db/freelist.h"
#include "fs/db/header.h"
#include "ltx/base/err.h"
#include "ltx/format.h"
#include "tests/fuzz/fuzz.h"

struct image {
    const uint8_t *p;
    size_t size;
    uint32_t page_size, page_count;
    uint64_t reads, visits;
};

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    fuzz_quiet();
    return 0;
}

/* Beyond the end there are zeros, as in database_read_main. */
static int read_page(void *ctx, uint32_t pgno, void *page)
{
    struct image *m = ctx;
    uint64_t at = (uint64_t)(pgno - 1) * m->page_size;
    FUZZ_MUST(pgno >= 1 && pgno <= m->page_count);
    size_t n = at >= m->size                 ? 0
               : m->size - at < m->page_size ? (size_t)(m->size - at)
                                             : m->page_size;
    memset(page, 0, m->page_size);
    if (n > 0)
        memcpy(page, m->p + at, n);
    m->reads++;
    return 0;
}

static int visit(void *ctx, uint32_t pgno)
{
    struct image *m = ctx;
    FUZZ_MUST(pgno > 1 && pgno <= m->page_count);
    m->visits++;
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct db_header h;
    int fd = fuzz_file(data, size);
    int err = db_header_read(fd, &h);
    FUZZ_MUST(err == 0 || err == -ERR_NOTFOUND);
    if (err)
        return 0;
    FUZZ_MUST(ltx_page_size_valid(h.page_size) && h.page_count < UINT32_MAX);
    struct image m = {.p = data, .size = size, .page_size = h.page_size};
    m.page_count = h.page_count ? h.page_count : (uint32_t)(size / h.page_size) + 1;
    /* Pages that are there; those beyond read as zeros, which end the list. */
    uint64_t there = size / h.page_size + 2;
    struct freelist_walk walk = {read_page, visit, &m};
    FUZZ_MUST(freelist_leaves(walk, h.page_size, m.page_count) == 0);
    FUZZ_MUST(m.reads <= 4 * there + 4);
    FUZZ_MUST(m.visits <= m.reads * (h.page_size / 4));
    return 0;
}
