/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/loop.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ltx/base/clock.h"
#include "ltx/base/err.h"
#include "ltx/base/logger.h"

/*
 * Waking a thread on another processor costs as much as the rest of a request. A client that
 * commits in WAL mode sends its next write some 20 us after a reply, so the worker looks for that
 * long before it sleeps: twice to three times the commits. Where requests are rare it does not pay,
 * and where they wait for the disk it does harm (client and worker then wake each other on one
 * processor, which is faster): so it is done only while it succeeds, and not around syncs.
 */
#define SPIN_US 50
#define SPIN_LEAST_US 10
#define SPIN_AFTER_LONG 8
/* A request that came within this time after a reply would have been met by spinning. */
#define SPIN_WORTH_US 100

#define GUARD_TICK_MS 1
#define INIT_MS 10000

struct worker {
    struct loop *loop;
    bool watching;
    bool lent;
};

static _Thread_local struct worker *self;

static void set_device(struct loop *s, uint32_t events)
{
    struct epoll_event ev = {.events = events | EPOLLONESHOT};
    epoll_ctl(s->epoll_fd, EPOLL_CTL_MOD, fuse_session_fd(s->se), &ev);
}

static void arm(struct loop *s)
{
    set_device(s, EPOLLIN);
}

static void disarm(struct loop *s)
{
    set_device(s, 0);
}

static void wake_guard(struct loop *s)
{
    mutex_lock(&s->mutex);
    atomic_store(&s->guarding, true);
    cond_signal(&s->wake_guard);
    mutex_unlock(&s->mutex);
}

/* Nobody watches unguarded: whatever holds up the one who watches, the device is armed soon. */
static void begin_watching(struct worker *w)
{
    atomic_fetch_add(&w->loop->watching, 1);
    w->watching = true;
    if (!atomic_load(&w->loop->guarding))
        wake_guard(w->loop);
}

static void end_watching(struct worker *w)
{
    atomic_fetch_sub(&w->loop->watching, 1);
    w->watching = false;
}

/* Two may have begun to watch at once; one is enough, and the last one never leaves this way. */
static void leave_if_crowded(struct worker *w)
{
    unsigned watching = atomic_load(&w->loop->watching);
    while (watching >= 2) {
        if (atomic_compare_exchange_weak(&w->loop->watching, &watching, watching - 1)) {
            w->watching = false;
            return;
        }
    }
}

void loop_long_begin(void)
{
    if (!self)
        return;
    atomic_store(&self->loop->since_long, 0);
    if (!self->watching)
        return;
    end_watching(self);
    self->lent = true;
    arm(self->loop);
}

/* Back before the reply: the client's next request then finds somebody who watches. */
void loop_long_end(void)
{
    if (!self || !self->lent)
        return;
    self->lent = false;
    if (atomic_load(&self->loop->watching) == 0) {
        begin_watching(self);
        disarm(self->loop);
    }
}

static int spin_budget_us(struct loop *s)
{
    return atomic_load(&s->since_long) < SPIN_AFTER_LONG ? 0 : atomic_load(&s->spin_us);
}

static void spin_failed(struct loop *s, int spent_us)
{
    int less = spent_us / 2;
    atomic_store(&s->spin_us, less < SPIN_LEAST_US ? 0 : less);
}

/* A request has come: would spinning have met it, or has it? */
static void spin_learn(struct loop *s)
{
    int64_t gap_us = mono_now().us - atomic_load(&s->replied_us);
    if (gap_us < SPIN_WORTH_US)
        atomic_store(&s->spin_us, SPIN_US);
}

/*
 * Reads a request without sleeping for it. 1: there is one in `buf`; 0: none came in time; -1: the
 * mount is over.
 */
static int watch(struct loop *s, struct fuse_buf *buf)
{
    int budget_us = spin_budget_us(s);
    int64_t replied_us = atomic_load(&s->replied_us);
    for (;;) {
        int rc = fuse_session_receive_buf(s->se, buf);
        if (rc > 0)
            return 1;
        if (rc != -EAGAIN && rc != -EINTR) {
            if (rc)
                log_error("mount", "reading the FUSE device: errno %d; the mount ends", -rc);
            atomic_store(&s->ended, true);
            return -1;
        }
        if (atomic_load(&s->quitting))
            return -1;
        if (!budget_us)
            return 0;
        if (mono_now().us - replied_us > budget_us) {
            spin_failed(s, budget_us);
            return 0;
        }
        sched_yield(); /* the client may be waiting for this very processor */
    }
}

static void answer(struct worker *w, struct fuse_buf *buf)
{
    struct loop *s = w->loop;
    atomic_fetch_add(&s->served, 1);
    if (atomic_load(&s->since_long) < SPIN_AFTER_LONG)
        atomic_fetch_add(&s->since_long, 1);
    fuse_session_process_buf(s->se, buf);
    loop_long_end();
    atomic_store(&s->replied_us, mono_now().us);
}

/* True when woken to watch, false when it is over. */
static bool sleep_until_needed(struct loop *s)
{
    struct epoll_event ev;
    while (!atomic_load(&s->quitting) && !atomic_load(&s->ended)) {
        if (epoll_wait(s->epoll_fd, &ev, 1, -1) == 1)
            return !atomic_load(&s->quitting);
        if (errno != EINTR)
            return false;
    }
    return false;
}

static void tell_all(struct loop *s)
{
    uint64_t one = 1;
    if (write(s->wake_fd, &one, sizeof one) < 0)
        log_error("mount", "cannot wake the workers: errno %d", errno);
    mutex_lock(&s->mutex);
    cond_broadcast(&s->wake_guard);
    mutex_unlock(&s->mutex);
}

/* As much as a request takes of the stack (a read of SMALL_READ bytes, two paths), and more. */
#define STACK_TOUCHED 131072

__attribute__((noinline)) static void touch_stack(void)
{
    volatile char room[STACK_TOUCHED];
    for (size_t i = 0; i < sizeof room; i += 4096)
        room[i] = 0;
}

/* The first allocation of a thread creates its heap; the first receiving allocates its buffer, whose
 * size only libfuse knows. A request may come with it: it is answered like any other. */
static void prepare(struct worker *w, struct fuse_buf *buf)
{
    void *volatile first = malloc(sizeof *buf); /* volatile: the compiler would leave both out */
    free(first);
    touch_stack();
    begin_watching(w);
    int got = watch(w->loop, buf);
    if (got > 0)
        answer(w, buf);
    for (size_t i = 0, size = malloc_usable_size(buf->mem); i < size; i += 4096)
        ((volatile char *)buf->mem)[i] = 0;
    if (w->watching)
        end_watching(w);
    arm(w->loop);
    mutex_lock(&w->loop->mutex);
    w->loop->ready++;
    cond_signal(&w->loop->one_is_ready);
    mutex_unlock(&w->loop->mutex);
}

static void work(void *raw)
{
    struct worker me = {.loop = raw};
    struct loop *s = raw;
    struct fuse_buf buf = {0};
    int got = 0;
    self = &me;
    /* The creator's umask has been applied by the kernel; ours must not be applied on top. It is a
     * property of the process unless the thread has its own. */
    if (unshare(CLONE_FS) == 0)
        umask(0);
    prepare(&me, &buf);
    while (me.watching || sleep_until_needed(s)) {
        if (!me.watching)
            begin_watching(&me);
        got = watch(s, &buf);
        if (got < 0)
            break;
        if (got == 0) {
            end_watching(&me);
            arm(s);
            continue;
        }
        spin_learn(s);
        answer(&me, &buf);
        if (me.watching)
            leave_if_crowded(&me);
    }
    if (got < 0)
        tell_all(s);
    free(buf.mem);
    self = NULL;
}

/* Ends the guarding unless somebody has begun to watch meanwhile: who did either saw the flag unset,
 * and waits for the mutex to set it, or is seen here. */
static void stop_guarding(struct loop *s)
{
    atomic_store(&s->guarding, false);
    if (atomic_load(&s->watching))
        atomic_store(&s->guarding, true);
}

/*
 * Sees to it that a worker which is held up in a request, without having said that it might, does
 * not keep the others from theirs. Sleeps while there are no requests.
 */
static void guard(void *raw)
{
    struct loop *s = raw;
    mutex_lock(&s->mutex);
    while (!atomic_load(&s->quitting) && !atomic_load(&s->ended)) {
        if (!atomic_load(&s->guarding)) {
            cond_wait(&s->wake_guard, &s->mutex);
            continue;
        }
        unsigned long served = atomic_load(&s->served);
        cond_wait_ms(&s->wake_guard, &s->mutex, GUARD_TICK_MS);
        if (atomic_load(&s->served) != served)
            continue;
        if (atomic_load(&s->watching))
            arm(s);
        else
            stop_guarding(s);
    }
    mutex_unlock(&s->mutex);
}

static int add_to_epoll(struct loop *s, int fd, uint32_t events)
{
    struct epoll_event ev = {.events = events};
    return epoll_ctl(s->epoll_fd, EPOLL_CTL_ADD, fd, &ev) ? err_from_errno(errno) : 0;
}

int loop_open(struct loop *s, struct fuse_session *se, unsigned workers)
{
    *s = (struct loop){.se = se, .epoll_fd = -1, .wake_fd = -1};
    mutex_init(&s->mutex, RANK_LEAF);
    cond_init(&s->wake_guard);
    cond_init(&s->one_is_ready);
    s->worker_count = workers ? workers : LOOP_WORKERS_DEFAULT;
    if (s->worker_count > LOOP_WORKERS_MAX)
        s->worker_count = LOOP_WORKERS_MAX;
    int fd = fuse_session_fd(se), rc;
    s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (s->epoll_fd < 0 || s->wake_fd < 0 ||
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0) {
        rc = err_from_errno(errno);
        goto err_after_init;
    }
    if ((rc = add_to_epoll(s, fd, EPOLLIN | EPOLLONESHOT)) ||
        (rc = add_to_epoll(s, s->wake_fd, EPOLLIN)))
        goto err_after_init;
    return 0;

err_after_init:
    loop_close(s);
    return rc;
}

/* The kernel's first request is FUSE_INIT, which settles how large the others may be. */
static int agree_on_protocol(struct loop *s)
{
    struct pollfd device = {.fd = fuse_session_fd(s->se), .events = POLLIN};
    struct fuse_buf buf = {0};
    int rc, n;
    do {
        while ((n = poll(&device, 1, INIT_MS)) < 0 && errno == EINTR)
            ;
        rc = n == 1 ? fuse_session_receive_buf(s->se, &buf) : -ETIMEDOUT;
    } while (rc == -EAGAIN || rc == -EINTR);
    if (rc > 0)
        fuse_session_process_buf(s->se, &buf);
    free(buf.mem);
    if (rc > 0 && fuse_session_exited(s->se))
        return -ERR_VERSION; /* libfuse has said what the kernel lacks */
    return rc > 0 ? 0 : rc < 0 ? err_from_errno(-rc) : -ERR_CLOSED;
}

static void wait_for_workers(struct loop *s)
{
    mutex_lock(&s->mutex);
    while (s->ready < s->worker_count)
        cond_wait(&s->one_is_ready, &s->mutex);
    mutex_unlock(&s->mutex);
}

int loop_start(struct loop *s)
{
    int rc = agree_on_protocol(s);
    if (!rc)
        rc = thread_start(&s->guard, "fuse-guard", guard, s);
    for (unsigned w = 0; w < s->worker_count && !rc; w++) {
        char name[16];
        snprintf(name, sizeof name, "fuse-%u", w);
        rc = thread_start(&s->workers[w], name, work, s);
    }
    if (!rc)
        wait_for_workers(s);
    return rc;
}

void loop_quit(struct loop *s)
{
    atomic_store(&s->quitting, true);
    tell_all(s);
}

void loop_join(struct loop *s)
{
    for (unsigned w = 0; w < s->worker_count; w++)
        thread_join(&s->workers[w]);
    thread_join(&s->guard);
}

void loop_close(struct loop *s)
{
    if (s->epoll_fd >= 0)
        close(s->epoll_fd);
    if (s->wake_fd >= 0)
        close(s->wake_fd);
    s->epoll_fd = s->wake_fd = -1;
    cond_fini(&s->one_is_ready);
    cond_fini(&s->wake_guard);
    mutex_fini(&s->mutex);
}
