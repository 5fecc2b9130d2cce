/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/dice.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ltx/base/clock.h"

static uint64_t state;
static bool seeded;

static void seed(void)
{
    const char *wanted = getenv("TANDEMFS_SEED");
    state = wanted != NULL ? strtoull(wanted, NULL, 10) : random_u64() >> 32;
    printf("seed: %llu (repeat with TANDEMFS_SEED=%llu)\n", (unsigned long long)state,
           (unsigned long long)state);
    fflush(stdout);
    seeded = true;
}

/* splitmix64 (Steele, Lea, Flood 2014): any seed will do. */
uint64_t dice_u64(void)
{
    if (!seeded)
        seed();
    uint64_t z = (state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

uint32_t dice_below(uint32_t n)
{
    return (uint32_t)(dice_u64() % n);
}

void dice_fill(void *out, size_t n)
{
    uint8_t *p = out;
    while (n > 0) {
        uint64_t v = dice_u64();
        size_t k = n < sizeof v ? n : sizeof v;
        memcpy(p, &v, k);
        p += k;
        n -= k;
    }
}

void dice_page(void *page, size_t n)
{
    size_t random_part = dice_below(4) == 0 ? n : dice_below((uint32_t)n + 1);
    dice_fill(page, random_part);
    memset((uint8_t *)page + random_part, (int)dice_below(4), n - random_part);
}

uint32_t dice_share(void)
{
    const char *wanted = getenv("TANDEMFS_SHARE");
    unsigned long share = wanted != NULL ? strtoul(wanted, NULL, 10) : 1;
    return share > 0 && share < 1000 ? (uint32_t)share : 1;
}
