/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FS_ROLL_H
#define FS_ROLL_H

#include <stdbool.h>
#include <stdint.h>

/*
 * The files that somebody has open, by the numbers under which the kernel knows them, in memory that is shared
 * with a process that outlives this one: see expire.h. Made before that process is forked off. It has room for
 * 2^16 files, in 512 KiB that are there from the start, so that entering one asks for no memory; what is opened
 * beyond them is not in it.
 *
 * roll_enter, roll_mark_walindex and roll_leave are serialized by the caller (the mutex of the inode
 * table); reading needs no lock and may meet a file that is just being opened or closed.
 */
struct roll;

struct roll *roll_new(void); /* NULL: no memory */
void roll_free(struct roll *r);

/* `node`: a multiple of 4 that is not 0. Gives the file's place, 0 if there is no room. */
uint32_t roll_enter(struct roll *r, uint64_t node);
void roll_mark_walindex(struct roll *r, uint32_t place); /* it is the -shm of a database */
void roll_leave(struct roll *r, uint32_t place);

/* Places go from 1 to roll_end() - 1. */
uint32_t roll_end(const struct roll *r);
/* The file at a place; 0: none. */
uint64_t roll_node(const struct roll *r, uint32_t place, bool *is_walindex);

#endif
