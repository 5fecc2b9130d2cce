/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FS_EXPIRE_H
#define FS_EXPIRE_H

#include "fs/roll.h"

/*
 * When nobody answers a connection any more, whoever has a file open could still go on with what the kernel
 * has cached: locks are the kernel's own, pages and attributes are believed for a day. Such a reader
 * would see the last state for ever, or, as the locks of a process end with it, a state between two
 * transactions. After these two every transaction that begins asks for something that is not cached, and
 * fails. One that has begun goes on with its snapshot as long as that is cached.
 *
 * In a rollback mode a transaction begins with the size of the file: expire_attributes makes the kernel
 * forget it. It never blocks; to be called before the connection is cut, as cutting it lets go of locks.
 *
 * In WAL mode it begins with the wal-index, which is mapped: expire_walindexes makes its header one that
 * has to be recovered from the -wal, and that begins with the size of the -wal. It may wait for the page, if a
 * request for it is under way. To be called when expire_attributes has been.
 *
 * `device` is a descriptor of the connection, cut or not. Errors are ignored: a file may have been closed.
 */
void expire_attributes(const struct roll *r, int device);
void expire_walindexes(const struct roll *r, int device);

#endif
