/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FS_EXPIRE_H
#define FS_EXPIRE_H

#include "fs/roll.h"

/*
 * When nobody answers a connection any more, whoever has a file open could still go on with what the kernel
 * has cached: locks are the kernel's own, pages and attributes are believed for a day. Such a reader
 * would see the last state for ever. After these two every transaction that begins asks for something that
 * is not cached, and fails. One that has begun goes on with its snapshot as long as that is cached, and so
 * does a connection that never asks: in locking_mode=EXCLUSIVE, or with immutable=1.
 *
 * Nor may a reader see a state between two transactions, when the lock of a writer or of an applier
 * ends with its process. As that may come before these two, the attributes of a file that holds such a
 * state are not believed in the first place (ops_attr_timeout).
 *
 * In a rollback mode a transaction begins with the size of the file: expire_attributes makes the kernel
 * forget it. It never blocks, and is to be called first, before the connection is cut.
 *
 * In WAL mode it begins with the wal-index, which is mapped: expire_walindexes makes its header one that
 * has to be recovered from the -wal, and that begins with the size of the -wal. It may wait for the page, if a
 * request for it is under way.
 *
 * `device` is a descriptor of the connection, cut or not. Errors are ignored: a file may have been closed.
 */
void expire_attributes(const struct roll *r, int device);
void expire_walindexes(const struct roll *r, int device);

#endif
