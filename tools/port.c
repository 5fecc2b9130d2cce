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

static int try_bind(const struct addrinfo *a)
{
    int one = 1, errnum = 0;
    int fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
    if (fd < 0)
        return errno;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, a->ai_addr, a->ai_addrlen) != 0 || listen(fd, 1) != 0)
        errnum = errno;
    close(fd);
    return errnum;
}

int port_check(const char *url, char *why, size_t why_size)
{
    char host[256], port[16];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *list;
    unsigned number = value_port(url);
    if (strncmp(url, "tcp://", 6) != 0 || number == 0 || value_host(url, host, sizeof host) != 0)
        return 0; /* nothing that could be tried in this way */
    snprintf(port, sizeof port, "%u", number);
    int rv = getaddrinfo(value_is_wildcard(url) ? NULL : host, port, &hints, &list);
    if (rv != 0) {
        snprintf(why, why_size, "cannot listen at %s: %s is not an address of this machine (%s)",
                 url, host, gai_strerror(rv));
        return -ERR_INVALID;
    }
    int errnum = try_bind(list);
    freeaddrinfo(list);
    if (errnum == 0)
        return 0;
    if (errnum == EADDRINUSE)
        snprintf(why, why_size,
                 "cannot listen at %s: the port is already in use; end what uses it, or give "
                 "another with --listen",
                 url);
    else
        snprintf(why, why_size, "cannot listen at %s: %s", url, strerror(errnum));
    return err_from_errno(errnum);
}
