/* SPDX-License-Identifier: Apache-2.0 */
#include "ltx/feed.h"

#include "ltx/base/clock.h"

void feed_init(struct feed *f)
{
    mutex_init(&f->mutex, RANK_FEED);
    cond_init(&f->cond);
    f->count = 0;
    f->closed = false;
    f->waiters = 0;
}

void feed_fini(struct feed *f)
{
    cond_fini(&f->cond);
    mutex_fini(&f->mutex);
}

uint64_t feed_count(struct feed *f)
{
    mutex_lock(&f->mutex);
    uint64_t count = f->count;
    mutex_unlock(&f->mutex);
    return count;
}

void feed_wake(struct feed *f)
{
    mutex_lock(&f->mutex);
    f->count++;
    bool waited_for = f->waiters > 0;
    mutex_unlock(&f->mutex);
    /* Most commits find nobody waiting; a broadcast would cost a system call all the same. Those
     * who wake up find the mutex free. */
    if (waited_for)
        cond_broadcast(&f->cond);
}

bool feed_rest(struct feed *f, int64_t us)
{
    struct mono start = mono_now();
    int64_t left = us;
    mutex_lock(&f->mutex);
    while (!f->closed && left > 0) {
        cond_wait_us(&f->cond, &f->mutex, left);
        left = us - mono_since_us(start);
    }
    bool open = !f->closed;
    mutex_unlock(&f->mutex);
    return open;
}

void feed_close(struct feed *f)
{
    mutex_lock(&f->mutex);
    f->closed = true;
    cond_broadcast(&f->cond);
    mutex_unlock(&f->mutex);
}

bool feed_wait(struct feed *f, uint64_t seen, int64_t ms)
{
    struct mono start = mono_now();
    mutex_lock(&f->mutex);
    f->waiters++;
    while (!f->closed && f->count == seen) {
        if (ms < 0) {
            cond_wait(&f->cond, &f->mutex);
            continue;
        }
        int64_t left = ms - mono_since_ms(start);
        if (left <= 0)
            break;
        cond_wait_ms(&f->cond, &f->mutex, left);
    }
    f->waiters--;
    bool moved = !f->closed && f->count != seen;
    mutex_unlock(&f->mutex);
    return moved;
}
