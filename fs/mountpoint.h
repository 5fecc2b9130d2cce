/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FS_MOUNTPOINT_H
#define FS_MOUNTPOINT_H

#include <stdbool.h>
#include <stddef.h>

/*
 * The folder that is mounted on: what is there now, as /proc/self/mountinfo tells it, and how to
 * take a mount away. Nothing here touches the mounted file system itself, which may be dead.
 */
#define MOUNTPOINT_FSTYPE "fuse.tandemfs"

/* The file system type of the topmost mount exactly at `path` (absolute); false if there is none.
 */
bool mountpoint_type(const char *path, char *type, size_t type_size);

/*
 * Takes the mount away at once, also while files are open: they stay usable as long as somebody
 * answers. Root does it itself, others through fusermount3. Blocks for as long as that runs.
 */
int mountpoint_detach(const char *path);

/*
 * Just before mounting: takes a mount away that a killed daemon left (only a dead one of type MOUNTPOINT_FSTYPE), and
 * checks the folder as mount_check does. Until then clients that come get an error from it; in the
 * empty folder they would make databases that nobody sees again.
 */
int mountpoint_clear(const char *mountpoint, char *why, size_t why_size);

/* Is there a program of that name in PATH? */
bool mountpoint_has_program(const char *name);

#endif
