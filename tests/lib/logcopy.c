/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/logcopy.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ltx/base/assert.h"
#include "ltx/base/err.h"
#include "ltx/checksum.h"
#include "ltx/compact.h"

void logcopy_open(struct logcopy *c)
{
    *c = (struct logcopy){.fd = memfd_create("logcopy", MFD_CLOEXEC)};
    ASSERT(c->fd >= 0, "a test has memory");
}

void logcopy_close(struct logcopy *c)
{
    close(c->fd);
    *c = (struct logcopy){.fd = -1};
}

static void fail(const char *what, int err, const char *why)
{
    fprintf(stderr, "%s: %s %s\n", what, err_text(err), why);
    abort();
}

unsigned logcopy_advance(struct logcopy *c, struct ledger *l)
{
    return logcopy_walk(c, l, NULL, NULL);
}

unsigned logcopy_walk(struct logcopy *c, struct ledger *l,
                      void (*each)(void *ctx, const struct logcopy *c), void *ctx)
{
    struct txlog_entry e = {0};
    unsigned n = 0;
    char why[160] = "";
    if (!l || position_equal(ledger_last(l), c->at))
        return 0;
    int err = txlog_find_from(ledger_log(l), c->at, &e);
    while (!err) {
        err = apply_record_to_file(txlog_entry_source(&e), c->fd, why, sizeof why);
        if (err)
            break;
        c->at = (struct position){e.max_txid, e.post_checksum};
        c->page_size = e.page_size;
        c->commit = e.commit;
        n++;
        if (each)
            each(ctx, c);
        err = txlog_next(ledger_log(l), &e);
    }
    if (err != -ERR_NOTFOUND)
        fail("a record cannot be applied", err, why);
    if (!position_equal(ledger_last(l), c->at))
        fail("the log does not lead to its last position", err, "");
    return n;
}

static const uint8_t *map(const struct logcopy *c, size_t *size)
{
    struct stat st;
    if (fstat(c->fd, &st) != 0)
        abort();
    *size = (size_t)st.st_size;
    if (*size == 0)
        return NULL;
    void *p = mmap(NULL, *size, PROT_READ, MAP_SHARED, c->fd, 0);
    return p == MAP_FAILED ? NULL : p;
}

bool logcopy_equals(const struct logcopy *c, const uint8_t *bytes, size_t size)
{
    size_t have;
    const uint8_t *copy = map(c, &have);
    bool same = have == size;
    if (!same)
        fprintf(stderr, "the log gives %zu bytes, SQLite sees %zu\n", have, size);
    uint32_t page_size = c->page_size ? c->page_size : 512;
    for (size_t off = 0; same && off < size; off += page_size) {
        uint32_t pgno = (uint32_t)(off / page_size) + 1;
        same = pgno == ltx_lock_pgno(page_size) || memcmp(copy + off, bytes + off, page_size) == 0;
        if (!same)
            fprintf(stderr, "page %u of %zu differs\n", pgno, size / page_size);
    }
    if (copy)
        munmap((void *)(uintptr_t)copy, have);
    return same;
}

uint64_t logcopy_digest(const struct logcopy *c)
{
    size_t size;
    const uint8_t *copy = map(c, &size);
    uint64_t digest = checksum_update(0, copy, size);
    if (copy)
        munmap((void *)(uintptr_t)copy, size);
    return digest;
}
