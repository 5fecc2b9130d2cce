/* SPDX-License-Identifier: Apache-2.0 */
#include "ltx/compress.h"

#include <limits.h>
#include <lz4.h>
#include <lz4frame.h>

#include "ltx/base/assert.h"
#include "ltx/base/err.h"

size_t compress_bound(uint32_t page_size)
{
    return (size_t)LZ4_COMPRESSBOUND(page_size);
}

size_t compress_page(const void *page, uint32_t page_size, void *out, size_t room)
{
    /* A state kept between calls was tried: no faster (1.7 us a page of 4 kB either way). */
    if (room > INT_MAX)
        room = INT_MAX;
    int n = LZ4_compress_default(page, out, (int)page_size, (int)room);
    ASSERT(n > 0, "compress_bound bytes are room enough");
    return (size_t)n;
}

int decompress_page(const void *in, size_t n, void *page, uint32_t page_size)
{
    if (n == 0 || n > INT_MAX)
        return -ERR_CORRUPT;
    int got = LZ4_decompress_safe(in, page, (int)n, (int)page_size);
    return got == (int)page_size ? 0 : -ERR_CORRUPT;
}

int decompress_page_frame(const void *in, size_t n, void *page, uint32_t page_size, size_t *used)
{
    LZ4F_dctx *context;
    if (LZ4F_isError(LZ4F_createDecompressionContext(&context, LZ4F_VERSION)))
        return -ERR_NOMEM;
    int rc = -ERR_CORRUPT;
    size_t in_done = 0, out_done = 0;
    for (;;) {
        size_t in_step = n - in_done, out_step = page_size - out_done;
        size_t hint = LZ4F_decompress(context, (char *)page + out_done, &out_step,
                                      (const char *)in + in_done, &in_step, NULL);
        if (LZ4F_isError(hint))
            break;
        in_done += in_step;
        out_done += out_step;
        if (hint == 0) {
            rc = out_done == page_size ? 0 : -ERR_CORRUPT;
            break;
        }
        /* Neither side moves: the bytes end too early, or the frame holds more than a page. */
        if (in_step == 0 && out_step == 0)
            break;
    }
    LZ4F_freeDecompressionContext(context);
    if (rc == 0)
        *used = in_done;
    return rc;
}
