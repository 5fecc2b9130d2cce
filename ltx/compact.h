/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LTX_COMPACT_H
#define LTX_COMPACT_H

#include <stdint.h>

#include "ltx/decode.h"
#include "ltx/encode.h"

/*
 * Several consecutive records into one: each page as the last of them has it, none above the last
 * commit. `sources[0]` is the oldest; they must follow on (-ERR_POSITION). With `flags`
 * LTX_NO_CHECKSUM the result carries no database checksums (Litestream wants that); without, no
 * source may lack them (-ERR_INVALID). Temporary space in folder `dirfd`. Blocks.
 */
int compact_records(struct ltx_source *sources, uint32_t count, int dirfd, uint32_t flags,
                    struct ltx_sink sink, struct ltx_header *header, uint64_t *post_checksum);

/* Writes the pages of one record over the database file `fd` and sets its size. The record is
 * verified first. Blocks; does not sync. */
int apply_record_to_file(struct ltx_source source, int fd, char *why, size_t why_size);

/* The same for a record that has been verified and whose header is decoded (ltx_decode_begin). What was
 * written before a failure stays. */
int apply_pages_to_file(struct ltx_decoder *d, int fd);

#endif
