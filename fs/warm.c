/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/warm.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/db/own.h"

/* Through the mount and its cache: neither file_ops nor a code to return, for it is only a hint. */
static void read_through(const char *path, off_t from)
{
    static char sink[65536];
    own_enter();
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    own_leave();
    if (fd < 0)
        return;
    /* Incomplete pages would be read one by one; dropped, they come in large pieces. */
    posix_fadvise(fd, from, 0, POSIX_FADV_DONTNEED);
    posix_fadvise(fd, from, 0, POSIX_FADV_SEQUENTIAL);
    ssize_t n;
    while ((n = pread(fd, sink, sizeof sink, from)) > 0)
        from += n;
    close(fd);
}

static void run(void *raw)
{
    struct warmer *w = raw;
    char path[2 * PATH_MAX];
    mutex_lock(&w->mutex);
    while (!w->quitting) {
        if (!w->count) {
            cond_wait(&w->wake, &w->mutex);
            continue;
        }
        char *below = w->queue[0].path;
        off_t from = w->queue[0].from;
        w->count--;
        memmove(&w->queue[0], &w->queue[1], w->count * sizeof w->queue[0]);
        mutex_unlock(&w->mutex);
        if (snprintf(path, sizeof path, "%s/%s", w->mountpoint, below) < (int)sizeof path)
            read_through(path, from);
        free(below);
        mutex_lock(&w->mutex);
    }
    mutex_unlock(&w->mutex);
}

void warm_init(struct warmer *w, const char *mountpoint)
{
    *w = (struct warmer){.mountpoint = mountpoint};
    mutex_init(&w->mutex, RANK_LEAF);
    cond_init(&w->wake);
}

int warm_start(struct warmer *w)
{
    return thread_start(&w->thread, "fuse-warm", run, w);
}

void warm_stop(struct warmer *w)
{
    mutex_lock(&w->mutex);
    w->quitting = true;
    cond_signal(&w->wake);
    mutex_unlock(&w->mutex);
    thread_join(&w->thread);
}

void warm_fini(struct warmer *w)
{
    while (w->count)
        free(w->queue[--w->count].path);
    cond_fini(&w->wake);
    mutex_fini(&w->mutex);
}

void warm_file(struct warmer *w, const char *path, off_t from)
{
    mutex_lock(&w->mutex);
    char *copy = w->count < WARM_QUEUE && !w->quitting ? strdup(path) : NULL;
    if (copy) {
        w->queue[w->count].path = copy;
        w->queue[w->count].from = from;
        w->count++;
        cond_signal(&w->wake);
    }
    mutex_unlock(&w->mutex);
}
