/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/expire.h"

#include <linux/fuse.h>
#include <stddef.h>
#include <unistd.h>

#include "fs/db/walindex.h"

/* A notification is a reply to no request; its code stands in the place of the error. */
static void notify(int device, int code, void *message, size_t size)
{
    struct fuse_out_header *header = message;
    *header = (struct fuse_out_header){.len = (uint32_t)size, .error = code};
    (void)!write(device, message, size);
}

void expire_attributes(const struct roll *r, int device)
{
    bool is_walindex;
    for (uint32_t place = 1; place < roll_end(r); place++) {
        struct {
            struct fuse_out_header header;
            struct fuse_notify_inval_inode_out what;
        } message = {.what = {.ino = roll_node(r, place, &is_walindex), .off = -1}};
        if (message.what.ino)
            notify(device, FUSE_NOTIFY_INVAL_INODE, &message, sizeof message);
    }
}

void expire_walindexes(const struct roll *r, int device)
{
    bool is_walindex;
    for (uint32_t place = 1; place < roll_end(r); place++) {
        struct {
            struct fuse_out_header header;
            struct fuse_notify_store_out where;
            struct walindex_header zeros[2];
        } message = {.where.nodeid = roll_node(r, place, &is_walindex)};
        message.where.size = sizeof message.zeros;
        if (message.where.nodeid && is_walindex)
            notify(device, FUSE_NOTIFY_STORE, &message, sizeof message);
    }
}
