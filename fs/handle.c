/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/handle.h"

#include <stdlib.h>
#include <string.h>

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
    if (fs->roll && fd >= 0 && i->place == 0)
        i->place = roll_enter(fs->roll, (uintptr_t)i);
    mutex_unlock(&fs->inodes.mutex);
    return h;
}

void handle_is_of(struct fs *fs, struct handle *h, struct database *db, enum file_kind kind)
{
    h->db = db;
    h->kind = kind;
    if (kind != FILE_SHM)
        return;
    mutex_lock(&fs->inodes.mutex);
    if (h->inode->place)
        roll_mark_walindex(fs->roll, h->inode->place);
    mutex_unlock(&fs->inodes.mutex);
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
        if (!h->inode->handles && h->inode->place) {
            roll_leave(fs->roll, h->inode->place);
            h->inode->place = 0;
        }
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

bool handle_is_any(struct fs *fs, const struct inode *i)
{
    mutex_lock(&fs->inodes.mutex);
    bool any = i->handles;
    mutex_unlock(&fs->inodes.mutex);
    return any;
}

void handle_info(struct fs *fs, struct handle *h, bool keep, char *text, size_t *len)
{
    mutex_lock(&fs->inodes.mutex);
    if (keep) {
        memcpy(h->info, text, *len);
        h->info_len = *len;
    } else {
        memcpy(text, h->info, h->info_len);
        *len = h->info_len;
    }
    mutex_unlock(&fs->inodes.mutex);
}

void handle_end_all(struct fs *fs)
{
    /* They stay in the roll: the guard reads it after this. */
    const struct inode_table *t = &fs->inodes;
    for (size_t s = 0; s < t->number_slots; s++)
        for (struct inode *i = t->by_number[s]; i; i = i->chain)
            for (struct handle *h; (h = i->handles);) {
                i->handles = h->next;
                file_close(h->fd);
                free(h);
            }
}
