/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TOOLS_LTX_FILES_H
#define TOOLS_LTX_FILES_H

#include <stddef.h>
#include <stdint.h>

#include "ltx/decode.h"

/* LTX files as the commands name them. */
struct ltx_file {
    const char *path;
    int fd;
    int64_t size;
    struct ltx_file_range range;
};

/* `why` receives a sentence on failure. */
int ltx_file_open(struct ltx_file *f, const char *path, char *why, size_t why_size);
struct ltx_source ltx_file_source(struct ltx_file *f);
void ltx_file_close(struct ltx_file *f);

/* A record as a file of its own: decoded from front to back and checked. */
struct ltx_summary {
    struct ltx_header header;
    uint64_t post_checksum;
    int64_t size;
};
int ltx_file_verify(const char *path, struct ltx_summary *out, char *why, size_t why_size);

/* Does `next` follow on `last`? TXIDs without a gap, and checksums where both keep them. */
int ltx_follows(const struct ltx_summary *last, const struct ltx_summary *next, char *why,
                size_t why_size);

/* The files in order, over a copy of the database `db` (made if it is not there), which then takes
 * its place. On failure `db` is as it was. */
int ltx_apply_files(const char *db, char *const *paths, size_t count, struct ltx_summary *last,
                    char *why, size_t why_size);

#endif
