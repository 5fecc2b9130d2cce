/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/node.h"
#include "cluster/transport.h"
#include "ltx/base/err.h"

#define SCHEME "tcp://"

static bool port_valid(const char *text)
{
    size_t digits = strspn(text, "0123456789");

    return digits > 0 && digits <= 5 && text[digits] == '\0' && atol(text) <= 65535;
}

bool transport_url_valid(const char *url, char *why, size_t why_size)
{
    const char *host = url + strlen(SCHEME), *colon;

    if (strlen(url) >= NODE_URL_MAX) {
        snprintf(why, why_size, "it is longer than %d bytes", NODE_URL_MAX - 1);
        return false;
    }
    if (strncmp(url, SCHEME, strlen(SCHEME)) != 0) {
        snprintf(why, why_size, "it does not begin with tcp://; tcp://HOST:PORT was expected");
        return false;
    }
    colon = strrchr(host, ':');
    if (colon == NULL || !port_valid(colon + 1)) {
        snprintf(why, why_size, "it has no port from 0 to 65535; tcp://HOST:PORT was expected");
        return false;
    }
    if (colon == host || strpbrk(host, "/?#@ \t\r\n") != NULL) {
        snprintf(why, why_size, "it names no host; tcp://HOST:PORT was expected");
        return false;
    }
    return true;
}

void transport_explain(const char *url, int code, char *why, size_t why_size)
{
    switch (code) {
    case -ERR_BUSY:
        snprintf(why, why_size,
                 "cannot listen on %s: the port is taken, perhaps by another node on this machine; "
                 "stop that program or choose another port with --listen",
                 url);
        break;
    case -ERR_INVALID:
        snprintf(why, why_size,
                 "cannot listen on %s: this machine has no such address; give one of its own, or "
                 "0.0.0.0 for all",
                 url);
        break;
    case -ERR_ACCESS:
        snprintf(why, why_size,
                 "cannot listen on %s: permission denied; ports below 1024 are for root", url);
        break;
    default:
        snprintf(why, why_size, "cannot listen on %s: %s; check the address given with --listen",
                 url, err_text(code));
    }
}
