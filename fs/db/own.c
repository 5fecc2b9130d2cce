/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/db/own.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "ltx/base/assert.h"

/*
 * The threads that are inside own_enter. There are few: the applier of each busy database, the
 * thread that captures plain files, and whoever runs an import. A slot holds a thread id, 0 if it
 * is free; `in_use` lets the common question "does any thread hold one" be answered without looking
 * further.
 */
#define OWN_SLOTS 4096

static _Atomic pid_t slots[OWN_SLOTS];
static atomic_int highest; /* slots above were never used */
static _Thread_local int depth;
static _Thread_local int slot;

void own_enter(void)
{
    if (depth++ > 0)
        return;
    pid_t tid = gettid();
    for (int i = 0; i < OWN_SLOTS; i++) {
        pid_t expected = 0;
        if (!atomic_compare_exchange_strong(&slots[i], &expected, tid))
            continue;
        slot = i;
        int top = atomic_load(&highest);
        while (top <= i && !atomic_compare_exchange_weak(&highest, &top, i + 1))
            ;
        return;
    }
    ASSERT(false, "more threads use the own mount than there can be");
}

void own_leave(void)
{
    ASSERT(depth > 0, "own_leave without own_enter");
    if (--depth == 0)
        atomic_store(&slots[slot], 0);
}

bool own_contains(pid_t tid)
{
    int top = atomic_load(&highest);
    for (int i = 0; i < top; i++)
        if (atomic_load(&slots[i]) == tid)
            return true;
    return false;
}
