/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FS_REFUSE_H
#define FS_REFUSE_H

/*
 * Answers for a daemon that has died: every request of the connection, with ENOTCONN. Those that
 * nobody has read yet, and those that the daemon had read and can answer no more.
 *
 * `device` is a descriptor of the connection, `process` a pidfd of the daemon, or of whoever waits for answers; both are
 * borrowed. Returns when that process has gone altogether, or when the connection is over. Never to be called
 * while a thread of the daemon may still answer. `mountpoint` is where the connection is mounted.
 */
void refuse_requests(int device, int process, const char *mountpoint);

#endif
