/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/handle.h"

#include <stdlib.h>

#include "ltx/base/file.h"

struct handle *handle_new(struct fs *fs, struct inode *i, int fd, int flags, size_t extra)
{
    struct handle *h = calloc(1, sizeof *h + extra);
    if (!h)
        return NULL;
    h->inode = i;
    h->fd = fd;
    h->flags = flags;
    h->refs = 1;
    mutex_lock(&fs->inodes.mutex);
    i->refs++;
    h->next = i->handles;
    if (h->next)
        h->next->prev = h;
    i->handles = h;
    mutex_unlock(&fs->inodes.mutex);
    return h;
}

void handle_put(struct fs *fs, struct handle *h)
{
    mutex_lock(&fs->inodes.mutex);
    bool last = --h->refs == 0;
    if (last) {
        if (h->next)
            h->next->prev = h->prev;
        if (h->prev)
            h->prev->next = h->next;
        else
            h->inode->handles = h->next;
    }
    mutex_unlock(&fs->inodes.mutex);
    if (!last)
        return;
    file_close(h->fd);
    inode_release(&fs->inodes, h->inode);
    free(h);
}

struct handle *handle_any(struct fs *fs, struct inode *i)
{
    mutex_lock(&fs->inodes.mutex);
    struct handle *h = i->handles;
    while (h && h->fd < 0)
        h = h->next;
    if (h)
        h->refs++;
    mutex_unlock(&fs->inodes.mutex);
    return h;
}
