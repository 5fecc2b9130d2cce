/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A segment of a log (ltx/txlog.h), as it is found at start. The first byte says whether the target
 * gives header, frames and records the checksums that they lack, without which hardly anything that
 * a fuzzer makes would get past the first check. Then the whole log is opened over the bytes: what
 * is torn is cut, what is left can be read, and the next open finds the same.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ltx/base/bytes.h"
#include "ltx/base/err.h"
#include "ltx/checksum.h"
#include "ltx/txlog_internal.h"
#include "tests/fuzz/fuzz.h"

#define SEGMENT "log/00000001-0000000000000001.seg"

static int dir = -1;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    fuzz_quiet();
    dir = fuzz_folder_fd();
    FUZZ_MUST(mkdirat(dir, "log", 0700) == 0);
    return 0;
}

static void seal_header(uint8_t *p, size_t size)
{
    if (size < TXLOG_SEGMENT_HEADER)
        return;
    memcpy(p, "TFSEG001", 8);
    put_be32(p + 36, 1);
    put_be64(p + 40, checksum_update(0, p, 40));
}

/* Makes the frame at `off` fit what follows it; returns where the next one begins, 0 at the end. */
static size_t seal_frame(uint8_t *p, size_t size, size_t off, const uint8_t salt[8])
{
    if (size - off < TXLOG_FRAME_HEADER + LTX_MIN_FILE_SIZE)
        return 0;
    size_t room = size - off - TXLOG_FRAME_HEADER;
    uint64_t n = get_be64(p + off + 8);
    if (n > room || n < LTX_MIN_FILE_SIZE)
        n = room;
    uint8_t *record = p + off + TXLOG_FRAME_HEADER;
    memcpy(p + off, "TFRM", 4);
    put_be64(p + off + 8, n);
    put_be64(p + off + 16, get_be64(record + 24));
    put_be64(p + off + 24, get_be64(record + n - LTX_TRAILER_SIZE));
    put_be64(p + off + 32, checksum_update(0, record, n));
    put_be64(p + off + 40, checksum_update(checksum_update(0, salt, 8), p + off, 40));
    return off + TXLOG_FRAME_HEADER + n;
}

static void seal(uint8_t *p, size_t size)
{
    seal_header(p, size);
    for (size_t off = TXLOG_SEGMENT_HEADER; off < size;) {
        off = seal_frame(p, size, off, p + 8);
        if (off == 0)
            break;
    }
}

/* Every record that the log says it has, through the source that everything else reads it by. */
static uint64_t walk(struct txlog *t)
{
    struct txlog_entry e = {0};
    uint8_t header[LTX_HEADER_SIZE];
    uint64_t count = 0;
    int rc = txlog_find_from(t, txlog_first(t), &e);
    while (rc == 0) {
        struct ltx_header h;
        FUZZ_MUST(txlog_entry_read(&e, 0, header, sizeof header) == 0);
        FUZZ_MUST(ltx_header_decode(header, &h) == 0 && h.max_txid == e.max_txid);
        FUZZ_MUST(txlog_entry_read(&e, e.size, header, 1) != 0);
        (void)ltx_verify(txlog_entry_source(&e), NULL, NULL, NULL, 0);
        count++;
        rc = txlog_next(t, &e);
    }
    FUZZ_MUST(rc == -ERR_NOTFOUND);
    return count;
}

static int open_log(uint64_t *records, struct position *last)
{
    struct txlog *t;
    struct txlog_options options = {0};
    int rc = txlog_open(&t, dir, "fuzz", &options);
    if (rc != 0)
        return rc;
    *last = txlog_last(t);
    *records = walk(t);
    txlog_close(t);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct position last, again_last;
    uint64_t records, again;
    if (size == 0)
        return 0;
    uint8_t *segment = fuzz_copy(data + 1, size - 1);
    if (data[0] & 1)
        seal(segment, size - 1);
    fuzz_put_file(dir, SEGMENT, segment, size - 1);
    int rc = open_log(&records, &last);
    FUZZ_MUST(rc == 0 || rc == -ERR_CORRUPT);
    if (rc == 0) {
        FUZZ_MUST(open_log(&again, &again_last) == 0);
        FUZZ_MUST(again == records && position_equal(last, again_last));
    }
    unlinkat(dir, SEGMENT, 0);
    free(segment);
    return 0;
}
