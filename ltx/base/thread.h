/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LTX_BASE_THREAD_H
#define LTX_BASE_THREAD_H

#include <pthread.h>
#include <stdbool.h>

/* A thread with a name and all signals blocked. A zeroed struct is a thread that was never started.
 */
struct thread {
    pthread_t id;
    bool started;
};

/* Starts `run(arg)`. `name` has at most 15 bytes (it shows in ps and perf). -ERR_NOMEM if the
 * system refuses. */
int thread_start(struct thread *t, const char *name, void (*run)(void *arg), void *arg);

/* Waits until it has returned; does nothing if it never started. */
void thread_join(struct thread *t);

/* Instead: nobody waits for it, and it may end when it likes. */
void thread_leave(struct thread *t);

#endif
