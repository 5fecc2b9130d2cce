/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/port.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ltx/base/err.h"
#include "tools/config_value.h"

#define BACKLOG 64

/* The socket, or a negated errno. */
static int listen_at(const struct addrinfo *a)
{
    int one = 1;
    int fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
    if (fd < 0)
        return -errno;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0)
        return fd;
    int errnum = errno;
    close(fd);
    return -errnum;
}

int port_listen(const char *address, int *fd, char *why, size_t why_size)
{
    char host[256], port[16];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *list;
    if (value_host(address, host, sizeof host) != 0) {
        snprintf(why, why_size, "%s is not HOST:PORT", address);
        return -ERR_INVALID;
    }
    snprintf(port, sizeof port, "%u", value_port(address));
    int rv = getaddrinfo(value_is_wildcard(address) ? NULL : host, port, &hints, &list);
    if (rv != 0) {
        snprintf(why, why_size, "%s is not an address of this machine (%s)", host,
                 gai_strerror(rv));
        return -ERR_INVALID;
    }
    int got = listen_at(list);
    freeaddrinfo(list);
    if (got < 0) {
        snprintf(why, why_size, "%s", strerror(-got));
        return got == -EADDRINUSE ? -ERR_BUSY : err_from_errno(-got);
    }
    *fd = got;
    return 0;
}

int port_check(const char *url, char *why, size_t why_size)
{
    char clause[256];
    int fd = -1;
    if (strncmp(url, "tcp://", 6) != 0 || value_port(url) == 0)
        return 0; /* nothing that could be tried in this way */
    int err = port_listen(url, &fd, clause, sizeof clause);
    if (!err)
        close(fd);
    else if (err == -ERR_BUSY)
        snprintf(why, why_size,
                 "cannot listen at %s: the port is already in use; end what uses it, or give "
                 "another with --listen",
                 url);
    else
        snprintf(why, why_size, "cannot listen at %s: %s", url, clause);
    return err;
}
