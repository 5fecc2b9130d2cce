/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FS_LOOP_H
#define FS_LOOP_H

#include <fuse_lowlevel.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "ltx/base/mutex.h"
#include "ltx/base/thread.h"

#define LOOP_WORKERS_MAX 64
#define LOOP_WORKERS_DEFAULT 4

/*
 * The threads that answer the kernel. One worker at a time watches the device; the others sleep,
 * and one of them is woken only when a request comes while nobody watches. So a lone client is
 * served by one hot thread, and no request wakes a thread for nothing.
 *
 *   asleep   in epoll_wait; a request wakes one, and it watches
 *   watching reads without blocking for a moment after each reply (spin), and answers
 *   lent     answers a request that takes long; the device is armed, and another may watch
 *
 * "Armed" means that the device can wake a sleeper, once. Whoever stops watching arms it, unless
 * another worker watches. What takes long says so (loop_long_begin); what takes long
 * unexpectedly is noticed by the guard within two milliseconds.
 *
 * A worker has its memory before it is needed: receive buffer, stack, heap. The daemon uses its own
 * mount, and the kernel asks for pages of it to be written while it changes the map of the daemon's
 * memory (fs/db/unmap.h). A worker that had to extend that map just then, for what it allocates at
 * its first request, would wait for itself.
 *
 * loop_open, loop_start, ..., loop_quit, loop_join, loop_close. The fuse_session is
 * borrowed: mounted before loop_open, unmounted after loop_close.
 */
struct loop {
    struct fuse_session *se;
    int epoll_fd;
    int wake_fd; /* readable from loop_quit on */
    unsigned worker_count;
    atomic_bool quitting;
    atomic_bool ended;    /* the kernel has closed the connection */
    atomic_uint watching; /* workers in that state; more than one only for a moment */
    atomic_ulong served;  /* requests received */

    atomic_int spin_us;          /* how long watching goes on after a reply, now */
    atomic_uint since_long;      /* requests since one took long */
    _Atomic(int64_t) replied_us; /* when the last request was done; monotonic */

    struct mutex mutex; /* the guard's, and `ready` */
    struct cond wake_guard;
    struct cond one_is_ready;
    unsigned ready; /* workers */
    atomic_bool guarding;
    struct thread guard;
    struct thread workers[LOOP_WORKERS_MAX];
};

int loop_open(struct loop *s, struct fuse_session *se, unsigned workers);
/* Returns when the kernel and the workers have agreed on the protocol, and all workers are ready. */
int loop_start(struct loop *s);
void loop_quit(struct loop *s); /* a request in progress is answered first */
void loop_join(struct loop *s);
void loop_close(struct loop *s);

/*
 * Around work of a request that waits for a disk or for others, before the reply. Do nothing on a
 * thread that is no worker.
 */
void loop_long_begin(void);
void loop_long_end(void);

#endif
