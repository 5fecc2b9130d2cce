/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A -wal (fs/db/wal.h) as its chain of frames. The first byte: give header and frames the checksums
 * that they lack, up to the frame whose page number is zero. How a chain is followed is what
 * fs/db/capture_wal.c does; fuzz_capture.c has that itself.
 */
#include <stdlib.h>
#include <string.h>

#include "fs/db/wal.h"
#include "ltx/base/bytes.h"
#include "ltx/format.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    fuzz_quiet();
    return 0;
}

static void seal(uint8_t *p, size_t size)
{
    struct wal_header h = {.big_endian = p[3] & 1, .checkpoint_seq = get_be32(p + 12)};
    h.page_size = LTX_MIN_PAGE_SIZE << (p[10] & 7);
    memcpy(h.salt, p + 16, sizeof h.salt);
    wal_header_build(&h, p);
    uint32_t cksum[2] = {h.cksum[0], h.cksum[1]};
    for (uint32_t n = 1; wal_frame_offset(h.page_size, n + 1) <= (int64_t)size; n++) {
        uint8_t *frame = p + wal_frame_offset(h.page_size, n);
        struct wal_frame f = {.pgno = get_be32(frame), .commit = get_be32(frame + 4)};
        if (f.pgno == 0)
            break;
        wal_frame_build(&h, frame, f, cksum);
    }
}

/* The chain from its start; returns the frames in it. */
static uint32_t follow(const struct wal_header *h, const uint8_t *p, size_t size)
{
    uint32_t cksum[2] = {h->cksum[0], h->cksum[1]}, n = 1;
    struct wal_frame f;
    for (; wal_frame_offset(h->page_size, n + 1) <= (int64_t)size; n++) {
        int64_t at = wal_frame_offset(h->page_size, n);
        FUZZ_MUST(wal_frame_at(h->page_size, at) == n);
        FUZZ_MUST(wal_frame_at(h->page_size, at + wal_frame_size(h->page_size) - 1) == n);
        /* A copy, so that a byte read past the frame is seen. */
        uint8_t *frame = fuzz_copy(p + at, (size_t)wal_frame_size(h->page_size));
        bool chained = wal_frame_check(h, frame, cksum, &f);
        bool unsealed = wal_frame_unsealed(frame, &f);
        free(frame);
        FUZZ_MUST(!(chained || unsealed) || (f.pgno != 0 && f.commit < UINT32_MAX));
        if (!chained && !unsealed)
            break;
    }
    return n - 1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct wal_header h;
    if (size < 1 + WAL_HEADER_SIZE)
        return 0;
    size_t n = size - 1;
    uint8_t *wal = fuzz_copy(data + 1, n);
    if (data[0] & 1)
        seal(wal, n);
    if (wal_header_parse(wal, &h)) {
        uint8_t again[WAL_HEADER_SIZE];
        FUZZ_MUST(ltx_page_size_valid(h.page_size));
        struct wal_header copy = h;
        wal_header_build(&copy, again);
        FUZZ_MUST(memcmp(again, wal, sizeof again) == 0);
        uint32_t frames = follow(&h, wal, n);
        FUZZ_MUST(wal_frame_offset(h.page_size, frames + 1) <= (int64_t)n);
    } else {
        FUZZ_MUST((data[0] & 1) == 0);
    }
    free(wal);
    return 0;
}
