/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LTX_COMPRESS_H
#define LTX_COMPRESS_H

#include <stddef.h>
#include <stdint.h>

/* One page in, one page out, as an LZ4 block. The only file that includes lz4. */

/* Room that compress_page may need for a page of this size, bytes. */
size_t compress_bound(uint32_t page_size);

/* Compresses one page; returns the compressed size in bytes (> 0). Cannot fail with compress_bound
 * bytes of room. */
size_t compress_page(const void *page, uint32_t page_size, void *out, size_t room);

/* Must give exactly page_size bytes, else -ERR_CORRUPT. */
int decompress_page(const void *in, size_t n, void *page, uint32_t page_size);

/*
 * The same for a page as an LZ4 frame, which older writers of LTX files made: it begins at `in`,
 * ends somewhere in the n bytes, and *used receives its length. Slow (it allocates).
 */
int decompress_page_frame(const void *in, size_t n, void *page, uint32_t page_size, size_t *used);

#endif
