/* SPDX-License-Identifier: Apache-2.0 */
#include "cluster/connections.h"

#include <dirent.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ltx/base/clock.h"

static bool same_address(const struct sockaddr *a, const struct sockaddr *b)
{
    if (a->sa_family != b->sa_family)
        return false;
    if (a->sa_family == AF_INET) {
        const struct sockaddr_in *x = (const void *)a, *y = (const void *)b;
        return x->sin_port == y->sin_port && x->sin_addr.s_addr == y->sin_addr.s_addr;
    }
    if (a->sa_family == AF_INET6) {
        const struct sockaddr_in6 *x = (const void *)a, *y = (const void *)b;
        return x->sin6_port == y->sin6_port &&
               memcmp(&x->sin6_addr, &y->sin6_addr, sizeof x->sin6_addr) == 0;
    }
    return false;
}

static bool is_socket_of(int fd, const struct connection *x)
{
    struct sockaddr_storage here = {0}, there = {0};
    socklen_t here_len = sizeof here, there_len = sizeof there;

    /* The remote side first: it is what files and most sockets fail at. */
    return getpeername(fd, (struct sockaddr *)&there, &there_len) == 0 &&
           same_address((struct sockaddr *)&there, (const struct sockaddr *)&x->remote) &&
           getsockname(fd, (struct sockaddr *)&here, &here_len) == 0 &&
           same_address((struct sockaddr *)&here, (const struct sockaddr *)&x->local);
}

/* The library does not tell its descriptors; the process knows them. */
static bool sever(const struct connection *x)
{
    DIR *dir = opendir("/proc/self/fd");
    struct dirent *entry;
    bool found = false;

    if (dir == NULL)
        return false;
    while (!found && (entry = readdir(dir)) != NULL) {
        int fd = atoi(entry->d_name);
        if (entry->d_name[0] != '.' && is_socket_of(fd, x))
            found = shutdown(fd, SHUT_RDWR) == 0;
    }
    closedir(dir);
    return found;
}

void connections_init(struct connections *c)
{
    *c = (struct connections){0};
    mutex_init(&c->mutex, RANK_LEAF);
    cond_init(&c->cond);
}

void connections_fini(struct connections *c)
{
    free(c->list);
    cond_fini(&c->cond);
    mutex_fini(&c->mutex);
}

/* With the mutex held. False: out of memory; the connection is then ended the plain way. */
static bool make_room(struct connections *c)
{
    unsigned cap = c->cap == 0 ? 8 : 2 * c->cap;
    struct connection *grown;

    if (c->count < c->cap)
        return true;
    grown = realloc(c->list, cap * sizeof *grown);
    if (grown == NULL)
        return false;
    c->list = grown;
    c->cap = cap;
    return true;
}

void connections_add(struct connections *c, const struct connection *x)
{
    mutex_lock(&c->mutex);
    if (make_room(c))
        c->list[c->count++] = *x;
    cond_broadcast(&c->cond);
    mutex_unlock(&c->mutex);
}

void connections_remove(struct connections *c, uint32_t id)
{
    mutex_lock(&c->mutex);
    for (unsigned i = 0; i < c->count; i++)
        if (c->list[i].id == id) {
            c->list[i] = c->list[--c->count];
            break;
        }
    cond_broadcast(&c->cond);
    mutex_unlock(&c->mutex);
}

bool connections_may_begin(struct connections *c)
{
    bool may;

    mutex_lock(&c->mutex);
    may = !c->closing && (c->most == 0 || c->count < c->most);
    mutex_unlock(&c->mutex);
    return may;
}

bool connections_any(struct connections *c)
{
    bool any;

    mutex_lock(&c->mutex);
    any = c->count > 0;
    mutex_unlock(&c->mutex);
    return any;
}

bool connections_end(struct connections *c, uint32_t id)
{
    struct connection x;
    bool have = false;

    mutex_lock(&c->mutex);
    for (unsigned i = 0; i < c->count && !have; i++)
        if (c->list[i].id == id) {
            x = c->list[i];
            have = true;
        }
    mutex_unlock(&c->mutex);
    return have && sever(&x);
}

void connections_end_all(struct connections *c, int64_t ms)
{
    struct mono begun = mono_now();
    struct connection *copy;
    unsigned n;

    mutex_lock(&c->mutex);
    c->closing = true;
    n = c->count;
    copy = n == 0 ? NULL : calloc(n, sizeof *copy);
    if (copy != NULL)
        memcpy(copy, c->list, n * sizeof *copy);
    mutex_unlock(&c->mutex);
    for (unsigned i = 0; copy != NULL && i < n; i++)
        sever(&copy[i]);
    free(copy);
    mutex_lock(&c->mutex);
    while (c->count > 0 && mono_since_ms(begun) < ms)
        cond_wait_ms(&c->cond, &c->mutex, ms - mono_since_ms(begun));
    mutex_unlock(&c->mutex);
}

void address_print(const struct sockaddr *a, char *out, size_t size)
{
    socklen_t len =
        a->sa_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
    char host[NI_MAXHOST], port[NI_MAXSERV];

    if (getnameinfo(a, len, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        snprintf(out, size, "an unknown address");
    else
        snprintf(out, size, "%s:%s", host, port);
}
