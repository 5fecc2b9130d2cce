/* SPDX-License-Identifier: Apache-2.0 */
/* A rollback journal (fs/db/journal.h): played back, each page is one that its header allows. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/db/journal.h"
#include "ltx/base/err.h"
#include "ltx/format.h"
#include "tests/fuzz/fuzz.h"

struct seen {
    uint32_t pages, page_size, highest, resized;
    int fail_at; /* this put fails; 0: none */
    uint8_t sum; /* of every byte, so that each is read */
};

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    fuzz_quiet();
    return 0;
}

static int put(void *ctx, uint32_t pgno, const void *page, uint32_t page_size)
{
    struct seen *s = ctx;
    const uint8_t *p = page;
    FUZZ_MUST(pgno > 0 && ltx_page_size_valid(page_size));
    FUZZ_MUST(pgno != ltx_lock_pgno(page_size));
    FUZZ_MUST(s->page_size == 0 || s->page_size == page_size);
    FUZZ_MUST(s->resized == 0);
    s->page_size = page_size;
    s->highest = pgno > s->highest ? pgno : s->highest;
    for (uint32_t i = 0; i < page_size; i++)
        s->sum = (uint8_t)(s->sum + p[i]);
    s->pages++;
    return s->fail_at != 0 && (int)s->pages == s->fail_at ? -ERR_NOSPACE : 0;
}

static int resize(void *ctx, uint32_t page_count, uint32_t page_size)
{
    struct seen *s = ctx;
    FUZZ_MUST(s->resized++ == 0);
    FUZZ_MUST(ltx_page_size_valid(page_size) && (s->pages == 0 || s->page_size == page_size));
    FUZZ_MUST(s->highest <= page_count);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int fd = fuzz_file(data, size);
    struct seen s = {0};
    uint32_t pages;
    bool hot;
    FUZZ_MUST(journal_look(fd, &hot) == 0);
    FUZZ_MUST(hot == (size >= 8 && memcmp(data, JOURNAL_MAGIC, 8) == 0));
    char name[JOURNAL_SUPER_MAX];
    FUZZ_MUST(journal_super_name(fd, name) == 0 && strlen(name) <= size);
    int err = journal_play_back(fd, (struct journal_target){put, resize, &s}, &pages);
    FUZZ_MUST(err == 0 && pages == s.pages);
    FUZZ_MUST(hot || s.resized == 0);
    FUZZ_MUST((uint64_t)s.pages * s.page_size <= size); /* no page is read twice */

    if (pages > 0) { /* a full disk ends it at once */
        struct seen full = {.fail_at = 1};
        FUZZ_MUST(journal_play_back(fd, (struct journal_target){put, resize, &full}, &pages) ==
                  -ERR_NOSPACE);
        FUZZ_MUST(full.pages == 1 && full.resized == 0);
    }
    return 0;
}
