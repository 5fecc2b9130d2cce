/* SPDX-License-Identifier: Apache-2.0 */
#include "ltx/base/thread.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "ltx/base/err.h"

struct launch {
    void (*run)(void *arg);
    void *arg;
    char name[16];
};

static void *trampoline(void *raw)
{
    struct launch launch = *(struct launch *)raw;
    free(raw);
    pthread_setname_np(pthread_self(), launch.name);
    launch.run(launch.arg);
    return NULL;
}

int thread_start(struct thread *t, const char *name, void (*run)(void *arg), void *arg)
{
    struct launch *launch = malloc(sizeof *launch);
    if (launch == NULL)
        return -ERR_NOMEM;
    launch->run = run;
    launch->arg = arg;
    snprintf(launch->name, sizeof launch->name, "%s", name);

    /* A thread inherits the mask: blocking around the start leaves no moment with signals open. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(&t->id, NULL, trampoline, launch);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0) {
        free(launch);
        return -ERR_NOMEM;
    }
    t->started = true;
    return 0;
}

void thread_join(struct thread *t)
{
    if (!t->started)
        return;
    pthread_join(t->id, NULL);
    t->started = false;
}

void thread_leave(struct thread *t)
{
    if (!t->started)
        return;
    pthread_detach(t->id);
    t->started = false;
}
