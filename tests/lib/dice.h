/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_LIB_DICE_H
#define TESTS_LIB_DICE_H

#include <stddef.h>
#include <stdint.h>

/*
 * Random numbers that can be had again: the first call prints its seed, and the environment
 * variable TANDEMFS_SEED sets it. One thread at a time.
 */
uint64_t dice_u64(void);
uint32_t dice_below(uint32_t n); /* 0 ... n - 1 */
void dice_fill(void *out, size_t n);
/* A page as databases have them: a part of it random, the rest repeating. */
void dice_page(void *page, size_t n);

/* Of what a sweep looks at, one in so many: TANDEMFS_SHARE, or 1. For slow builds. */
uint32_t dice_share(void);

#endif
