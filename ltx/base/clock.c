/* SPDX-License-Identifier: Apache-2.0 */
#include "ltx/base/clock.h"

#include <errno.h>
#include <sys/random.h>
#include <time.h>

#include "ltx/base/assert.h"

static int64_t system_mono_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static int64_t system_wall_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void system_random_bytes(void *out, size_t n)
{
    char *p = out;
    while (n > 0) {
        ssize_t got = getrandom(p, n, 0);
        if (got < 0 && errno == EINTR)
            continue;
        ASSERT(got > 0, "the kernel gives random numbers");
        p += got;
        n -= (size_t)got;
    }
}

static const struct clock_ops system_clock_ops = {
    .mono_us = system_mono_us,
    .wall_ms = system_wall_ms,
    .random_bytes = system_random_bytes,
};

const struct clock_ops *clock_ops = &system_clock_ops;

struct mono mono_now(void)
{
    return (struct mono){clock_ops->mono_us()};
}

int64_t mono_since_ms(struct mono then)
{
    return mono_since_us(then) / 1000;
}

int64_t mono_since_us(struct mono then)
{
    return clock_ops->mono_us() - then.us;
}

int64_t wall_ms(void)
{
    return clock_ops->wall_ms();
}

uint64_t random_u64(void)
{
    uint64_t v;
    clock_ops->random_bytes(&v, sizeof v);
    return v;
}
