/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A request that the daemon had read cannot be read again: only its number leads to it. Numbers are
 * even and count up, so all numbers are answered, from the newest one down, until the daemon has
 * gone. One that belongs to no request is refused by the kernel, which costs less than 1 us; those
 * that matter are among the newest, because few requests take long.
 *
 * Which number is the newest is seen in the next request that can be read. If the kernel has none,
 * a child of this process makes one.
 */
#include "fs/refuse.h"

#include <errno.h>
#include <linux/fuse.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <unistd.h>

#define NUMBER_STEP 2
#define NUMBERS_AT_ONCE 1000
#define REQUESTS_AT_ONCE 1000 /* clients that repeat theirs may not keep us from seeing the end */
#define PAUSE_FIRST_MS 20
#define PAUSE_LAST_MS 1000
/* The kernel wants room for its longest request, about which only its EINVAL tells. */
#define ROOM_FIRST ((size_t)1 << 20)
#define ROOM_LAST ((size_t)1 << 29)

struct refuser {
    int device;
    uint64_t newest; /* the highest number seen; 0 = none yet */
    uint64_t next;   /* the next of the numbers to answer, downwards; 0 = all were */
    pid_t asker;     /* the child; 0 = none */
    char *room;
    size_t size;
};

static bool make_room(struct refuser *r, size_t size)
{
    if (r->room)
        munmap(r->room, r->size);
    r->size = size;
    r->room = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (r->room == MAP_FAILED)
        r->room = NULL;
    return r->room;
}

/* True unless the connection is over. */
static bool answer(struct refuser *r, uint64_t number)
{
    struct fuse_out_header reply = {.len = sizeof reply, .error = -ENOTCONN, .unique = number};
    return write(r->device, &reply, sizeof reply) >= 0 || (errno != ENODEV && errno != EPERM);
}

static bool wants_answer(uint32_t opcode)
{
    return opcode != FUSE_FORGET && opcode != FUSE_BATCH_FORGET && opcode != FUSE_INTERRUPT &&
           opcode != FUSE_NOTIFY_REPLY;
}

/* Answers what can be read, as much as may be at once. False when the connection is over. */
static bool refuse_waiting(struct refuser *r)
{
    for (int i = 0; i < REQUESTS_AT_ONCE; i++) {
        ssize_t n = read(r->device, r->room, r->size);
        if (n < 0 && errno == EINVAL && r->size < ROOM_LAST && make_room(r, r->size * 2))
            continue;
        if (n < 0)
            return errno == EAGAIN || errno == EINTR || errno == ENOENT;
        const struct fuse_in_header *request = (const struct fuse_in_header *)r->room;
        if ((size_t)n < sizeof *request || !wants_answer(request->opcode))
            continue;
        if (request->unique > r->newest)
            r->newest = r->next = request->unique;
        if (!answer(r, request->unique))
            return false;
    }
    return true;
}

static void ask(struct refuser *r, const char *mountpoint)
{
    struct statfs st;
    if (r->asker && waitpid(r->asker, NULL, WNOHANG) == 0)
        return;
    r->asker = fork();
    if (r->asker == 0) {
        close(r->device); /* or it would keep alive what it waits for */
        (void)statfs(mountpoint, &st);
        _exit(0);
    }
}

/* Answers what was read by the daemon: some of the numbers. False when the connection is over. */
static bool refuse_taken(struct refuser *r)
{
    for (int i = 0; i < NUMBERS_AT_ONCE && r->next >= NUMBER_STEP; i++) {
        if (!answer(r, r->next))
            return false;
        r->next -= NUMBER_STEP;
    }
    return true;
}

void refuse_requests(int device, int process, const char *mountpoint)
{
    struct refuser r = {.device = device};
    struct pollfd fds[2] = {{.fd = process, .events = POLLIN}, {.fd = device, .events = POLLIN}};
    int pause_ms = PAUSE_FIRST_MS;
    bool goes_on = make_room(&r, ROOM_FIRST);
    while (goes_on) {
        /* At the end of the numbers once more from the newest: a thread that was about to die may
         * have read one meanwhile. Later more rarely: what it waits for is something else. */
        if (poll(fds, 2, r.next ? 0 : pause_ms) == 0 && r.next == 0) {
            ask(&r, mountpoint);
            pause_ms = pause_ms * 2 < PAUSE_LAST_MS ? pause_ms * 2 : PAUSE_LAST_MS;
        }
        if (fds[0].revents)
            break;
        goes_on = refuse_waiting(&r) && refuse_taken(&r);
    }
    if (r.room)
        munmap(r.room, r.size);
}
