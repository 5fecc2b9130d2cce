/* SPDX-License-Identifier: Apache-2.0 */
#include "cluster/member.h"

#include <stdio.h>
#include <string.h>

void members_init(struct members *m)
{
    memset(m, 0, sizeof *m);
    mutex_init(&m->mutex, RANK_MEMBER);
}

void members_fini(struct members *m)
{
    mutex_fini(&m->mutex);
}

static struct member *find_url(struct members *m, const char *url)
{
    for (size_t i = 0; i < m->count; i++)
        if (strcmp(m->list[i].url, url) == 0)
            return &m->list[i];
    return NULL;
}

static struct member *find_node(struct members *m, uint64_t node_id)
{
    for (size_t i = 0; i < m->count; i++)
        if (m->list[i].node_id == node_id)
            return &m->list[i];
    return NULL;
}

static struct member *append(struct members *m, const char *url)
{
    struct member *x;

    if (m->count == NODE_MEMBERS_MAX)
        return NULL;
    x = &m->list[m->count++];
    *x = (struct member){0};
    snprintf(x->url, sizeof x->url, "%s", url);
    return x;
}

void members_add(struct members *m, const char *url)
{
    mutex_lock(&m->mutex);
    if (url[0] != '\0' && find_url(m, url) == NULL)
        append(m, url);
    mutex_unlock(&m->mutex);
}

/* A node may come back under another address, and an address may be another node's later: what
 * was heard last is right. */
static struct member *place(struct members *m, const char *url, uint64_t node_id)
{
    struct member *x = url[0] != '\0' ? find_url(m, url) : NULL;
    struct member *old = find_node(m, node_id);

    if (x == NULL && old != NULL && url[0] == '\0')
        return old;
    if (old != NULL && old != x) {
        *old = m->list[--m->count];
        x = url[0] != '\0' ? find_url(m, url) : NULL;
    }
    return x != NULL ? x : append(m, url);
}

void members_saw(struct members *m, const char *url, uint64_t node_id, bool primary)
{
    struct member *x;

    if (node_id == 0)
        return;
    mutex_lock(&m->mutex);
    x = place(m, url, node_id);
    if (x != NULL) {
        x->node_id = node_id;
        x->heard = true;
        x->seen = mono_now();
        for (size_t i = 0; primary && i < m->count; i++)
            m->list[i].primary = false;
        x->primary = primary;
    }
    mutex_unlock(&m->mutex);
}

size_t members_copy(struct members *m, struct member out[NODE_MEMBERS_MAX])
{
    size_t count;

    mutex_lock(&m->mutex);
    count = m->count;
    memcpy(out, m->list, count * sizeof *out);
    mutex_unlock(&m->mutex);
    return count;
}

size_t members_count(struct members *m)
{
    size_t count;

    mutex_lock(&m->mutex);
    count = m->count;
    mutex_unlock(&m->mutex);
    return count;
}
