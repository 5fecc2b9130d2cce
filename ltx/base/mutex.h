/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LTX_BASE_MUTEX_H
#define LTX_BASE_MUTEX_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

/*
 * Mutexes with a rank. A thread takes them in rising rank only; debug and sanitizer builds
 * (-DMUTEX_CHECK) stop the program at the first violation. docs/LOCKING.md explains the order.
 */
enum mutex_rank {
    RANK_NODE = 10,          /* cluster: the node's state                          */
    RANK_MEMBER = 12,        /* cluster: sessions and members                      */
    RANK_FS_CONTROL = 15,    /* fs: role changes, the list of databases            */
    RANK_FS_DATABASE = 20,   /* fs/db: one database                              */
    RANK_FS_DATABASE_2 = 21, /* fs/db: further databases of a multi-database commit, by address */
    RANK_FS_INODE = 25,      /* fs: inode table                                    */
    RANK_STORE = 30,         /* ltx: the set of ledgers                            */
    RANK_LEDGER = 35,        /* ltx: one ledger                                    */
    RANK_TXLOG = 40,         /* ltx: one log                                       */
    RANK_ROLE = 50,          /* ltx: role and gate                                 */
    RANK_FEED = 60,          /* ltx: wake-ups                                      */
    RANK_TRANSPORT = 70,     /* cluster: transport                                 */
    RANK_LEAF = 80,          /* anything that calls nothing while held             */
    RANK_LOGGER = 90
};

struct mutex {
    pthread_mutex_t raw;
    int rank;
};

struct cond {
    pthread_cond_t raw; /* on the monotonic clock */
};

void mutex_init(struct mutex *m, int rank);
void mutex_fini(struct mutex *m);
void mutex_lock(struct mutex *m);
bool mutex_try(struct mutex *m); /* false: somebody has it; in rising rank, too */
void mutex_unlock(struct mutex *m);

void cond_init(struct cond *c);
void cond_fini(struct cond *c);
void cond_wait(struct cond *c, struct mutex *m);
/* Waits at most `ms` milliseconds. True if signalled, false if the time passed. */
bool cond_wait_ms(struct cond *c, struct mutex *m, int64_t ms);
bool cond_wait_us(struct cond *c, struct mutex *m, int64_t us); /* the same in microseconds */
void cond_signal(struct cond *c);
void cond_broadcast(struct cond *c);

#endif
