/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LTX_BASE_CLOCK_H
#define LTX_BASE_CLOCK_H

#include <stddef.h>
#include <stdint.h>

/* Time and randomness, through a table that tests replace. */

struct mono {
    int64_t
        us; /* microseconds on the monotonic clock; a type of its own, never mixed with wall time */
};

struct clock_ops {
    int64_t (*mono_us)(void);
    int64_t (*wall_ms)(void); /* since the Unix epoch */
    void (*random_bytes)(void *out, size_t n);
};

extern const struct clock_ops *clock_ops; /* the system's, unless a test sets another */

struct mono mono_now(void);
int64_t mono_since_ms(struct mono then); /* whole milliseconds since `then` */
int64_t mono_since_us(struct mono then);
int64_t wall_ms(void);
uint64_t random_u64(void);

#endif
