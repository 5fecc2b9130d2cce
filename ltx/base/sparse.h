/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LTX_BASE_SPARSE_H
#define LTX_BASE_SPARSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Writing a file in which what is zero need not take room: zeros beyond the end of the file are left out, and
 * become a hole when something is written behind them or the file is set to its length, which is the
 * caller's. A database of 100 GB of which most was never used, or was punched out, stays small so.
 */
struct sparse {
    int fd;      /* borrowed; nobody else writes to it */
    int64_t end; /* bytes, without what was left out at the end; -1: not asked yet */
};

void sparse_begin(struct sparse *s, int fd);
int sparse_write(struct sparse *s, const void *buf, size_t n, int64_t off);
bool sparse_is_zero(const void *buf, size_t n);
int sparse_set_size(struct sparse *s, int64_t size);

#endif
