/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An LTX record (ltx/decode.h). A record whose structure is right but whose file checksum is not is
 * given the right one and read again, so that what follows the last check is reached too: what was
 * accepted is encoded anew and must come out as the same record, and applied to a file it must give
 * the pages that it holds.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ltx/base/buf.h"
#include "ltx/base/bytes.h"
#include "ltx/compact.h"
#include "ltx/decode.h"
#include "ltx/encode.h"
#include "ltx/pagespool.h"
#include "tests/fuzz/fuzz.h"
#include "tests/lib/record.h"

#define APPLY_PAGES_MAX 4096u /* larger databases are not written out */

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    fuzz_quiet();
    return 0;
}

/* The decoder says which file checksum would have been right. */
static int mend(uint8_t *record, size_t size, struct ltx_source source)
{
    uint64_t right;
    char why[128] = "";
    if (ltx_verify(source, NULL, NULL, why, sizeof why) == 0)
        return 0;
    if (strncmp(why, "file checksum ", 14) != 0 || get_hex16(why + 14, &right) != 0)
        return -1;
    put_be64(record + size - 8, right);
    return ltx_verify(source, NULL, NULL, why, sizeof why);
}

/* Decoded and encoded again; older writers' pages are frames and come out as blocks. */
static void encode_again(struct ltx_source source, uint64_t post)
{
    struct buf out = {0};
    struct ltx_decoder d = {0};
    struct ltx_encoder e = {0};
    uint8_t page[LTX_MAX_PAGE_SIZE];
    uint32_t pgno;
    uint64_t size;

    FUZZ_MUST(ltx_decode_begin(&d, source) == 0);
    FUZZ_MUST(ltx_encode_begin(&e, sink_buf(&out), &d.header) == 0);
    while (ltx_decode_page(&d, &pgno, page) == 1)
        FUZZ_MUST(ltx_encode_page(&e, pgno, page) == 0);
    FUZZ_MUST(d.ended && d.post_checksum == post);
    FUZZ_MUST(ltx_encode_finish(&e, post, &size) == 0 && size == out.len);

    struct ltx_memory memory = {out.data, out.len};
    struct ltx_header again;
    uint64_t again_post;
    FUZZ_MUST(ltx_verify(ltx_source_memory(&memory), &again, &again_post, NULL, 0) == 0);
    uint8_t one[LTX_HEADER_SIZE], other[LTX_HEADER_SIZE];
    ltx_header_encode(&again, one);
    ltx_header_encode(&d.header, other);
    FUZZ_MUST(memcmp(one, other, sizeof one) == 0 && again_post == post);
    ltx_decode_fini(&d);
    ltx_encode_fini(&e);
    buf_fini(&out);
}

static void apply(struct ltx_source source, const struct ltx_header *h)
{
    uint8_t page[LTX_MAX_PAGE_SIZE], in_file[LTX_MAX_PAGE_SIZE];
    struct ltx_decoder d = {0};
    uint32_t pgno;
    int fd = fuzz_file(NULL, 0);

    if (h->commit > APPLY_PAGES_MAX)
        return;
    FUZZ_MUST(apply_record_to_file(source, fd, NULL, 0) == 0);
    FUZZ_MUST(lseek(fd, 0, SEEK_END) == (off_t)h->commit * h->page_size);
    FUZZ_MUST(ltx_decode_begin(&d, source) == 0);
    while (ltx_decode_page(&d, &pgno, page) == 1) {
        FUZZ_MUST(pread(fd, in_file, h->page_size, (off_t)(pgno - 1) * h->page_size) ==
                  (ssize_t)h->page_size);
        FUZZ_MUST(memcmp(page, in_file, h->page_size) == 0);
    }
    ltx_decode_fini(&d);
}

static void spool(struct ltx_source source, const struct ltx_header *h)
{
    struct buf out = {0};
    struct ltx_header merged;
    uint64_t post;
    FUZZ_MUST(compact_records(&source, 1, fuzz_folder_fd(), h->flags & LTX_NO_CHECKSUM,
                              sink_buf(&out), &merged, &post) == 0);
    FUZZ_MUST(merged.commit == h->commit && merged.max_txid == h->max_txid);
    buf_fini(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *record = fuzz_copy(data, size);
    struct ltx_memory memory = {record, size};
    struct ltx_source source = ltx_source_memory(&memory);
    struct ltx_header h;
    uint64_t post, min, max;
    char name[LTX_NAME_SIZE];

    if (mend(record, size, source) == 0) {
        FUZZ_MUST(ltx_verify(source, &h, &post, NULL, 0) == 0);
        encode_again(source, post);
        apply(source, &h);
        spool(source, &h);
        ltx_name_format(h.min_txid, h.max_txid, name);
        FUZZ_MUST(ltx_name_parse(name, &min, &max) == 0);
        FUZZ_MUST(min == h.min_txid && max == h.max_txid);
    }
    free(record);
    return 0;
}
