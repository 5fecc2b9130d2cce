/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/inode.h"

#include <stdlib.h>
#include <string.h>

#include "fs/ident.h"
#include "ltx/base/assert.h"
#include "ltx/base/err.h"

#define FIRST_SLOTS 256

/* Numbers of informational files start here: no backing file system counts that far. */
#define INFO_INO (UINT64_C(1) << 63)

static uint64_t mix(uint64_t h)
{
    h ^= h >> 33;
    h *= UINT64_C(0xff51afd7ed558ccd);
    return h ^ h >> 33;
}

static uint64_t number_hash(uint64_t dev, uint64_t ino)
{
    return mix(ino * 31 + dev);
}

static uint64_t name_hash(const struct inode *parent, const char *name)
{
    uint64_t h = UINT64_C(14695981039346656037);
    for (; *name; name++)
        h = (h ^ (uint8_t)*name) * UINT64_C(1099511628211);
    return mix(h ^ (uint64_t)(uintptr_t)parent);
}

/* A hash that cannot grow works on, only slower. */
static void grow_numbers(struct inode_table *t)
{
    size_t slots = t->number_slots * 2;
    struct inode **grown = calloc(slots, sizeof *grown);
    if (!grown)
        return;
    for (size_t s = 0; s < t->number_slots; s++) {
        while (t->by_number[s]) {
            struct inode *i = t->by_number[s];
            t->by_number[s] = i->chain;
            struct inode **slot = &grown[number_hash(i->dev, i->ino) & (slots - 1)];
            i->chain = *slot;
            *slot = i;
        }
    }
    free(t->by_number);
    t->by_number = grown;
    t->number_slots = slots;
}

static void grow_names(struct inode_table *t)
{
    size_t slots = t->name_slots * 2;
    struct inode_name **grown = calloc(slots, sizeof *grown);
    if (!grown)
        return;
    for (size_t s = 0; s < t->name_slots; s++) {
        while (t->by_name[s]) {
            struct inode_name *n = t->by_name[s];
            t->by_name[s] = n->chain;
            struct inode_name **slot = &grown[name_hash(n->parent, n->text) & (slots - 1)];
            n->chain = *slot;
            *slot = n;
        }
    }
    free(t->by_name);
    t->by_name = grown;
    t->name_slots = slots;
}

static struct inode **number_slot(struct inode_table *t, uint64_t dev, uint64_t ino)
{
    struct inode **p = &t->by_number[number_hash(dev, ino) & (t->number_slots - 1)];
    while (*p && ((*p)->gone || (*p)->ino != ino || (*p)->dev != dev))
        p = &(*p)->chain;
    return p;
}

static struct inode_name **name_slot(struct inode_table *t, const struct inode *parent,
                                     const char *name)
{
    struct inode_name **p = &t->by_name[name_hash(parent, name) & (t->name_slots - 1)];
    while (*p && ((*p)->parent != parent || strcmp((*p)->text, name) != 0))
        p = &(*p)->chain;
    return p;
}

static void list_number(struct inode_table *t, struct inode *i)
{
    if (t->inode_count >= t->number_slots)
        grow_numbers(t);
    struct inode **slot = &t->by_number[number_hash(i->dev, i->ino) & (t->number_slots - 1)];
    i->chain = *slot;
    *slot = i;
    t->inode_count++;
}

static void unlist_number(struct inode_table *t, struct inode *i)
{
    struct inode **p = &t->by_number[number_hash(i->dev, i->ino) & (t->number_slots - 1)];
    while (*p != i)
        p = &(*p)->chain;
    *p = i->chain;
    t->inode_count--;
}

/* Moves the inode's identity to those that only its handles know. */
static void outdate_ident(struct inode *i)
{
    struct ident *id = atomic_load(&i->ident);
    if (!id)
        return;
    id->older = i->outdated;
    i->outdated = id;
    atomic_store(&i->ident, NULL);
}

static void drop_name(struct inode_table *t, struct inode_name **slot, struct inode **dead);

/* Puts the inode on the list of the dead if nothing holds it any more. */
static void bury_if_unused(struct inode_table *t, struct inode *i, struct inode **dead)
{
    if (i->lookups || i->refs || i == t->root)
        return;
    while (i->names)
        drop_name(t, name_slot(t, i->names->parent, i->names->text), dead);
    unlist_number(t, i);
    i->chain = *dead;
    *dead = i;
}

/* Takes a name away from its inode; the folder it was in may be the next to go. */
static void drop_name(struct inode_table *t, struct inode_name **slot, struct inode **dead)
{
    struct inode_name *n = *slot;
    struct inode *parent = n->parent;
    *slot = n->chain;
    t->name_count--;
    struct inode_name **p = &n->inode->names;
    while (*p != n)
        p = &(*p)->next;
    *p = n->next;
    /* The identity came from this name, or may have; another name gives another. */
    outdate_ident(n->inode);
    free(n);
    parent->refs--;
    bury_if_unused(t, parent, dead);
}

static void free_dead(struct inode_table *t, struct inode *dead)
{
    while (dead) {
        struct inode *i = dead;
        dead = i->chain;
        outdate_ident(i);
        if (i->outdated && t->ident_free)
            t->ident_free(i->outdated);
        free(i);
    }
}

/* Gives the inode one more name, unless it has it. An inode that had it loses it. */
static int add_name(struct inode_table *t, struct inode *i, struct inode *parent, const char *name,
                    struct inode **dead)
{
    struct inode_name **slot = name_slot(t, parent, name);
    if (*slot && (*slot)->inode == i)
        return 0;
    if (*slot)
        drop_name(t, slot, dead);
    size_t len = strlen(name) + 1;
    struct inode_name *n = malloc(sizeof *n + len);
    if (!n)
        return -ERR_NOMEM;
    memcpy(n->text, name, len);
    if (t->name_count >= t->name_slots)
        grow_names(t);
    slot = &t->by_name[name_hash(parent, name) & (t->name_slots - 1)];
    n->inode = i;
    n->parent = parent;
    n->chain = *slot;
    *slot = n;
    n->next = i->names;
    i->names = n;
    parent->refs++;
    t->name_count++;
    return 0;
}

static struct inode *new_inode(uint64_t dev, uint64_t ino, mode_t type)
{
    struct inode *i = calloc(1, sizeof *i);
    if (!i)
        return NULL;
    i->dev = dev;
    i->ino = ino;
    i->type = type & S_IFMT;
    atomic_init(&i->changes, 1); /* nobody knows what an earlier daemon left unsynced */
    atomic_init(&i->synced, 0);
    atomic_init(&i->ident, NULL);
    return i;
}

int inode_table_init(struct inode_table *t, const struct stat *root,
                     void (*free_idents)(struct ident *))
{
    *t = (struct inode_table){.ident_free = free_idents};
    t->by_number = calloc(FIRST_SLOTS, sizeof *t->by_number);
    t->by_name = calloc(FIRST_SLOTS, sizeof *t->by_name);
    t->number_slots = t->name_slots = FIRST_SLOTS;
    t->root = new_inode(root->st_dev, root->st_ino, root->st_mode);
    if (!t->by_number || !t->by_name || !t->root) {
        free(t->by_number);
        free(t->by_name);
        free(t->root);
        return -ERR_NOMEM;
    }
    mutex_init(&t->mutex, RANK_FS_INODE);
    list_number(t, t->root);
    return 0;
}

void inode_table_fini(struct inode_table *t)
{
    if (!t->root)
        return;
    struct inode *dead = NULL;
    for (size_t s = 0; s < t->number_slots; s++)
        for (struct inode *i = t->by_number[s]; i; i = i->chain)
            i->refs++; /* nothing goes by itself while the names are taken down */
    for (size_t s = 0; s < t->name_slots; s++)
        while (t->by_name[s])
            drop_name(t, &t->by_name[s], &dead);
    for (size_t s = 0; s < t->number_slots; s++) {
        while (t->by_number[s]) {
            struct inode *i = t->by_number[s];
            unlist_number(t, i);
            i->chain = dead;
            dead = i;
        }
    }
    free_dead(t, dead);
    free(t->by_number);
    free(t->by_name);
    mutex_fini(&t->mutex);
    t->root = NULL;
}

struct inode *inode_enter(struct inode_table *t, struct inode *parent, const char *name,
                          const struct stat *st)
{
    struct inode *dead = NULL;
    mutex_lock(&t->mutex);
    struct inode *i = *number_slot(t, st->st_dev, st->st_ino);
    if (i && i->type != (st->st_mode & S_IFMT)) {
        /* The number was given to another file behind our back; the old inode is a stranger. */
        i->gone = true;
        i = NULL;
    }
    if (!i) {
        i = new_inode(st->st_dev, st->st_ino, st->st_mode);
        if (i)
            list_number(t, i);
    }
    if (i) {
        i->lookups++;
        if (add_name(t, i, parent, name, &dead)) {
            i->lookups--;
            bury_if_unused(t, i, &dead);
            i = NULL;
        }
    }
    mutex_unlock(&t->mutex);
    free_dead(t, dead);
    return i;
}

struct inode *inode_enter_info(struct inode_table *t, struct inode *parent, const char *name,
                               int info)
{
    struct inode *dead = NULL;
    mutex_lock(&t->mutex);
    struct inode_name *known = *name_slot(t, parent, name);
    struct inode *i = known && known->inode->info == info ? known->inode : NULL;
    if (i) {
        i->lookups++;
    } else {
        i = new_inode(0, INFO_INO | name_hash(parent, name), S_IFREG);
        if (i) {
            i->info = (uint8_t)info;
            list_number(t, i);
            i->lookups = 1;
            if (add_name(t, i, parent, name, &dead)) {
                i->lookups = 0;
                bury_if_unused(t, i, &dead);
                i = NULL;
            }
        }
    }
    mutex_unlock(&t->mutex);
    free_dead(t, dead);
    return i;
}

void inode_forget(struct inode_table *t, struct inode *i, uint64_t lookups)
{
    struct inode *dead = NULL;
    mutex_lock(&t->mutex);
    i->lookups = lookups < i->lookups ? i->lookups - lookups : 0;
    bury_if_unused(t, i, &dead);
    mutex_unlock(&t->mutex);
    free_dead(t, dead);
}

void inode_hold(struct inode_table *t, struct inode *i)
{
    mutex_lock(&t->mutex);
    i->refs++;
    mutex_unlock(&t->mutex);
}

void inode_release(struct inode_table *t, struct inode *i)
{
    struct inode *dead = NULL;
    mutex_lock(&t->mutex);
    ASSERT(i->refs > 0, "what is released was held");
    i->refs--;
    bury_if_unused(t, i, &dead);
    mutex_unlock(&t->mutex);
    free_dead(t, dead);
}

struct inode *inode_find(struct inode_table *t, struct inode *parent, const char *name)
{
    mutex_lock(&t->mutex);
    struct inode_name *n = *name_slot(t, parent, name);
    struct inode *i = n ? n->inode : NULL;
    if (i)
        i->refs++;
    mutex_unlock(&t->mutex);
    return i;
}

/* Writes the path back to front, ending before `at`; *start is where it begins. Under the mutex. */
static int path_back(const struct inode_table *t, const struct inode *i, char *out, size_t at,
                     size_t *start)
{
    while (i != t->root) {
        const struct inode_name *n = i->names;
        if (!n)
            return -ERR_NOTFOUND;
        size_t len = strlen(n->text);
        bool in_folder = n->parent != t->root;
        if (len + in_folder > at)
            return -ERR_LIMIT;
        at -= len;
        memcpy(out + at, n->text, len);
        if (in_folder)
            out[--at] = '/';
        i = n->parent;
    }
    *start = at;
    return 0;
}

int inode_path(struct inode_table *t, const struct inode *i, char *out, size_t size)
{
    size_t start = 0;
    if (size < 2)
        return -ERR_LIMIT;
    if (i == t->root) {
        memcpy(out, ".", 2);
        return 0;
    }
    out[size - 1] = 0;
    mutex_lock(&t->mutex);
    int rc = path_back(t, i, out, size - 1, &start);
    mutex_unlock(&t->mutex);
    if (!rc)
        memmove(out, out + start, size - start);
    return rc;
}

int inode_child_path(struct inode_table *t, const struct inode *parent, const char *name, char *out,
                     size_t size)
{
    size_t len = strlen(name) + 1, start = 0;
    bool in_folder = parent != t->root;
    if (len + in_folder > size)
        return -ERR_LIMIT;
    size_t at = size - len;
    memcpy(out + at, name, len);
    if (in_folder)
        out[--at] = '/';
    mutex_lock(&t->mutex);
    int rc = path_back(t, parent, out, at, &start);
    mutex_unlock(&t->mutex);
    if (!rc)
        memmove(out, out + start, size - start);
    return rc;
}

void inode_unnamed(struct inode_table *t, struct inode *parent, const char *name, nlink_t links)
{
    struct inode *dead = NULL;
    mutex_lock(&t->mutex);
    struct inode_name **slot = name_slot(t, parent, name);
    if (*slot) {
        struct inode *i = (*slot)->inode;
        drop_name(t, slot, &dead);
        if (links == 0)
            i->gone = true;
        bury_if_unused(t, i, &dead);
    }
    mutex_unlock(&t->mutex);
    free_dead(t, dead);
}

int inode_renamed(struct inode_table *t, struct inode *parent, const char *name,
                  struct inode *to_parent, const char *to_name)
{
    struct inode *dead = NULL;
    int rc = 0;
    mutex_lock(&t->mutex);
    struct inode_name **slot = name_slot(t, parent, name);
    if (*slot) {
        struct inode *i = (*slot)->inode;
        i->refs++;
        drop_name(t, slot, &dead);
        rc = add_name(t, i, to_parent, to_name, &dead);
        i->refs--;
        bury_if_unused(t, i, &dead);
    }
    mutex_unlock(&t->mutex);
    free_dead(t, dead);
    return rc;
}

struct ident *inode_set_ident(struct inode_table *t, struct inode *i, struct ident *id,
                              bool only_if_none)
{
    mutex_lock(&t->mutex);
    struct ident *now = atomic_load(&i->ident);
    if (!now || !only_if_none) {
        outdate_ident(i);
        atomic_store(&i->ident, id);
        now = id;
    }
    mutex_unlock(&t->mutex);
    return now;
}

void inode_clear_idents_below(struct inode_table *t, const struct inode *folder)
{
    mutex_lock(&t->mutex);
    for (size_t s = 0; s < t->number_slots; s++) {
        for (struct inode *i = t->by_number[s]; i; i = i->chain) {
            const struct inode *up = i;
            while (up != folder && up->names)
                up = up->names->parent;
            if (up == folder)
                outdate_ident(i);
        }
    }
    mutex_unlock(&t->mutex);
}

size_t inode_count(struct inode_table *t)
{
    mutex_lock(&t->mutex);
    size_t n = t->inode_count;
    mutex_unlock(&t->mutex);
    return n;
}
