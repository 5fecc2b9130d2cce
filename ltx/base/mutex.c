/* SPDX-License-Identifier: Apache-2.0 */
#include "ltx/base/mutex.h"

#include <errno.h>
#include <stdio.h>
#include <time.h>

#include "ltx/base/assert.h"

#ifdef MUTEX_CHECK

/*
 * What this thread holds, lowest rank first. Taking in rising rank keeps the list sorted, so the
 * last entry is the highest; a release may be in any order.
 */
#define HELD_MAX 64
static _Thread_local const struct mutex *held[HELD_MAX];
static _Thread_local int held_count;

static void check_may_take(const struct mutex *m)
{
    if (held_count == 0)
        return;
    const struct mutex *top = held[held_count - 1];
    /* The further databases of one commit share a rank; their addresses order them. */
    if (m->rank > top->rank || (m->rank == top->rank && m->rank == RANK_FS_DATABASE_2 && m > top))
        return;
    char what[96];
    snprintf(what, sizeof what, "mutex of rank %d taken under one of rank %d", m->rank, top->rank);
    assert_failed(__FILE__, __LINE__, "mutexes are taken in rising rank", what);
}

static void check_taken(const struct mutex *m)
{
    ASSERT(held_count < HELD_MAX, "a thread holds few mutexes");
    held[held_count++] = m;
}

static int check_index(const struct mutex *m)
{
    for (int i = held_count - 1; i >= 0; i--)
        if (held[i] == m)
            return i;
    return -1;
}

static void check_held(const struct mutex *m)
{
    ASSERT(check_index(m) >= 0, "a thread unlocks or waits with a mutex that it holds");
}

static void check_released(const struct mutex *m)
{
    check_held(m);
    for (int i = check_index(m); i < held_count - 1; i++)
        held[i] = held[i + 1];
    held_count--;
}

#else

static inline void check_may_take(const struct mutex *m)
{
    (void)m;
}

static inline void check_taken(const struct mutex *m)
{
    (void)m;
}

static inline void check_held(const struct mutex *m)
{
    (void)m;
}

static inline void check_released(const struct mutex *m)
{
    (void)m;
}

#endif

void mutex_init(struct mutex *m, int rank)
{
    int rc = pthread_mutex_init(&m->raw, NULL);
    ASSERT(rc == 0, "a mutex can be made");
    m->rank = rank;
}

void mutex_fini(struct mutex *m)
{
    int rc = pthread_mutex_destroy(&m->raw);
    ASSERT(rc == 0, "nobody holds a mutex that ends");
}

void mutex_lock(struct mutex *m)
{
    check_may_take(m);
    int rc = pthread_mutex_lock(&m->raw);
    ASSERT(rc == 0, "a mutex can be taken");
    check_taken(m);
}

bool mutex_try(struct mutex *m)
{
    check_may_take(m);
    int rc = pthread_mutex_trylock(&m->raw);
    ASSERT(rc == 0 || rc == EBUSY, "a mutex can be tried");
    if (rc == 0)
        check_taken(m);
    return rc == 0;
}

void mutex_unlock(struct mutex *m)
{
    check_released(m);
    int rc = pthread_mutex_unlock(&m->raw);
    ASSERT(rc == 0, "a mutex can be released");
}

void cond_init(struct cond *c)
{
    pthread_condattr_t attr;
    int rc = pthread_condattr_init(&attr);
    if (rc == 0)
        rc = pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    if (rc == 0)
        rc = pthread_cond_init(&c->raw, &attr);
    ASSERT(rc == 0, "a condition can be made");
    pthread_condattr_destroy(&attr);
}

void cond_fini(struct cond *c)
{
    pthread_cond_destroy(&c->raw);
}

void cond_wait(struct cond *c, struct mutex *m)
{
    check_held(m);
    int rc = pthread_cond_wait(&c->raw, &m->raw);
    ASSERT(rc == 0, "a condition can be waited for");
}

/* A year is as good as for ever, and keeps the sums below from overflowing. */
#define YEAR_MS INT64_C(31536000000)

bool cond_wait_ms(struct cond *c, struct mutex *m, int64_t ms)
{
    return cond_wait_us(c, m, ms < YEAR_MS ? ms * 1000 : YEAR_MS * 1000);
}

bool cond_wait_us(struct cond *c, struct mutex *m, int64_t us)
{
    check_held(m);
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    if (us < 0)
        us = 0;
    if (us > YEAR_MS * 1000)
        us = YEAR_MS * 1000;
    until.tv_sec += (time_t)(us / 1000000);
    until.tv_nsec += (long)(us % 1000000) * 1000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    int rc = pthread_cond_timedwait(&c->raw, &m->raw, &until);
    ASSERT(rc == 0 || rc == ETIMEDOUT, "a condition can be waited for");
    return rc == 0;
}

void cond_signal(struct cond *c)
{
    pthread_cond_signal(&c->raw);
}

void cond_broadcast(struct cond *c)
{
    pthread_cond_broadcast(&c->raw);
}
