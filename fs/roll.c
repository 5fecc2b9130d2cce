/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/roll.h"

#include <stdatomic.h>
#include <stddef.h>
#include <sys/mman.h>

#define ROOM ((uint32_t)1 << 16)

/* A place is a node, perhaps with IS_WALINDEX, or IS_FREE with the next free place above it. */
#define IS_WALINDEX UINT64_C(1)
#define IS_FREE UINT64_C(2)
#define FLAGS (IS_WALINDEX | IS_FREE)
#define FLAG_BITS 2

struct roll {
    _Atomic uint32_t end; /* the first place that was never used */
    uint32_t free;        /* the first of those that are free again; 0 = none */
    _Atomic uint64_t place[ROOM];
};

struct roll *roll_new(void)
{
    struct roll *r = mmap(NULL, sizeof *r, PROT_READ | PROT_WRITE,
                          MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (r == MAP_FAILED)
        return NULL;
    atomic_init(&r->end, 1);
    return r;
}

void roll_free(struct roll *r)
{
    if (r)
        munmap(r, sizeof *r);
}

uint32_t roll_enter(struct roll *r, uint64_t node)
{
    uint32_t place = r->free, end = atomic_load(&r->end);
    if (place) {
        r->free = (uint32_t)(atomic_load(&r->place[place]) >> FLAG_BITS);
    } else if (end < ROOM) {
        place = end;
        atomic_store(&r->end, end + 1);
    }
    if (place)
        atomic_store(&r->place[place], node);
    return place;
}

void roll_mark_walindex(struct roll *r, uint32_t place)
{
    atomic_fetch_or(&r->place[place], IS_WALINDEX);
}

void roll_leave(struct roll *r, uint32_t place)
{
    atomic_store(&r->place[place], (uint64_t)r->free << FLAG_BITS | IS_FREE);
    r->free = place;
}

uint32_t roll_end(const struct roll *r)
{
    return atomic_load(&r->end);
}

uint64_t roll_node(const struct roll *r, uint32_t place, bool *is_walindex)
{
    uint64_t what = atomic_load(&r->place[place]);
    *is_walindex = what & IS_WALINDEX;
    return what & IS_FREE ? 0 : what & ~FLAGS;
}
