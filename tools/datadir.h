/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TOOLS_DATADIR_H
#define TOOLS_DATADIR_H

#include <stddef.h>
#include <stdint.h>

/*
 * The data folder of a node: made on first use, and locked so that two daemons never use it at
 * once. What lies in it is told in docs/ARCHITECTURE.md; what does not belong is named and left
 * alone.
 */
struct datadir {
    int fd;      /* the folder */
    int tree_fd; /* <data>/tree, the backing files */
    int tmp_fd;  /* <data>/tmp */
    int lock_fd; /* <data>/lock, held with flock */
    uint32_t foreign;
};

/* `path` is absolute. `why` receives a sentence on failure. */
int datadir_open(struct datadir *d, const char *path, char *why, size_t why_size);
void datadir_close(struct datadir *d);

#endif
