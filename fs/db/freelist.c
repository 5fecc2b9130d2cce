/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/db/freelist.h"

#include <stdlib.h>

#include "ltx/base/bytes.h"
#include "ltx/base/err.h"

#define FIRST_TRUNK_OFFSET 32

static int visit_leaves(struct freelist_walk walk, const uint8_t *trunk, uint32_t page_size,
                        uint32_t page_count)
{
    uint32_t leaves = get_be32(trunk + 4);
    int err = 0;
    for (uint32_t i = 0; !err && i < leaves && i < page_size / 4 - 2; i++) {
        uint32_t pgno = get_be32(trunk + 8 + (size_t)4 * i);
        if (pgno > 1 && pgno <= page_count)
            err = walk.visit(walk.ctx, pgno);
    }
    return err;
}

int freelist_leaves(struct freelist_walk walk, uint32_t page_size, uint32_t page_count)
{
    uint8_t *page = malloc(page_size);
    int err = page ? walk.read(walk.ctx, 1, page) : -ERR_NOMEM;
    uint32_t trunk = err ? 0 : get_be32(page + FIRST_TRUNK_OFFSET);
    /* A damaged list may run in a circle: `seen` is a trunk of it sooner or later, and once more
     * round it leads back there (Brent). In all that reads three times as many as there are, at most. */
    uint32_t seen = 0;
    uint64_t steps = 0, next_seen = 1;
    while (!err && trunk > 1 && trunk <= page_count && trunk != seen) {
        if (++steps == next_seen) {
            seen = trunk;
            next_seen *= 2;
        }
        err = walk.read(walk.ctx, trunk, page);
        if (!err)
            err = visit_leaves(walk, page, page_size, page_count);
        trunk = get_be32(page);
    }
    free(page);
    return err;
}
