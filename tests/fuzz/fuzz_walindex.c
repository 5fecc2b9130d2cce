/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A -shm (fs/db/walindex.h) that a client may have written anything into, and what the applier does
 * with it: reads the header, begins anew or appends, publishes. The first two bytes choose: give the
 * header the checksum it lacks, begin anew, fill up the file's last block, work on a copy; and how many frames
 * are appended. The file never grows by more than what these frames need.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/db/walindex.h"
#include "ltx/base/err.h"
#include "tests/fuzz/fuzz.h"

#define APPEND_MAX 5000u /* a little more than one block has room for */

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    fuzz_quiet();
    return 0;
}

static void seal(uint8_t *p, size_t size)
{
    struct walindex_header h;
    if (size < 2 * sizeof h)
        return;
    memcpy(&h, p, sizeof h);
    h.version = WAL_VERSION;
    h.is_init = 1;
    h.cksum[0] = h.cksum[1] = 0;
    wal_checksum(false, &h, 40, h.cksum);
    memcpy(p, &h, sizeof h);
    memcpy(p + sizeof h, &h, sizeof h);
}

static int64_t size_of(int fd)
{
    struct stat st;
    FUZZ_MUST(fstat(fd, &st) == 0);
    return st.st_size;
}

/* As an applier: from the last frame on. */
static void append(struct walindex *w, struct walindex_header *h, uint32_t count)
{
    uint32_t before = h->mx_frame;
    int err = 0;
    for (uint32_t i = 1; !err && i <= count; i++)
        err = walindex_append(w, before + i, i * 7 % 5000 + 1, before);
    FUZZ_MUST(err == 0 || err == -ERR_CORRUPT);
    if (err)
        return;
    h->mx_frame = before + count;
    h->page_count = 5000;
    struct walindex_header got;
    FUZZ_MUST(walindex_publish(w, h) == 0);
    FUZZ_MUST(walindex_read(w, &got) == 0 && memcmp(&got, h, sizeof got) == 0);
    FUZZ_MUST(walindex_peek(w->fd, &got) == 0 && memcmp(&got, h, sizeof got) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct walindex w;
    struct walindex_header h;
    struct fuzz_input in = {data, size};
    uint8_t how = fuzz_u8(&in);
    uint32_t backfill, count = fuzz_u8(&in) * 20u;
    uint8_t *bytes = fuzz_copy(in.p, in.left);
    if (how & 1)
        seal(bytes, in.left);
    int fd = fuzz_file(bytes, in.left);
    free(bytes);
    if (how & 4)
        FUZZ_MUST(ftruncate(fd, (off_t)(in.left / WALINDEX_BLOCK + 1) * WALINDEX_BLOCK) == 0);
    if (how & 8)
        walindex_init_copy(&w, fd);
    else
        walindex_init(&w, fd, NULL);
    int err = walindex_read(&w, &h);
    FUZZ_MUST(err == 0 || err == -ERR_BUSY);
    FUZZ_MUST(err || walindex_peek(fd, &h) == 0);
    int64_t before = size_of(fd);
    if (!err) {
        FUZZ_MUST(walindex_backfill(&w, &backfill) == 0);
        if (how & 2)
            FUZZ_MUST(walindex_restart(&w, &h) == 0 && h.mx_frame == 0);
        /* The applier has made sure that the -wal is as long as this says. */
        if (h.mx_frame <= 100000)
            append(&w, &h, count);
        int64_t blocks = ((int64_t)h.mx_frame + count) / WALINDEX_PAGES + 2;
        FUZZ_MUST(size_of(fd) <= before + blocks * WALINDEX_BLOCK);
    }
    walindex_fini(&w);
    return 0;
}
