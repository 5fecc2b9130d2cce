/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/names.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "fs/db/database.h"
#include "ltx/base/err.h"
#include "ltx/store.h"

#define COMPONENT_MAX 255 /* bytes of a file's name */

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

static const char *bad_component(const char *name)
{
    for (const char *p = name;; p++) {
        size_t n = strcspn(p, "/");
        if (n == 0)
            return "it has an empty part";
        if ((n == 1 && p[0] == '.') || (n == 2 && p[0] == '.' && p[1] == '.'))
            return "it must not leave the mount with . or ..";
        if (n > COMPONENT_MAX)
            return "a part of it is too long";
        p += n;
        if (*p == '\0')
            return NULL;
    }
}

int name_check(const char *name, char *why, size_t why_size)
{
    static const char *const reserved[] = {".primary", ".lag"};
    const char *fault = NULL;
    const char *last = strrchr(name, '/');
    size_t base;
    last = last ? last + 1 : name;
    if (name[0] == '/')
        fault = "give the path below the mount, without a leading /";
    else if (strlen(name) >= STORE_NAME_MAX)
        fault = "it is too long";
    else
        fault = bad_component(name);
    if (!fault && file_kind_of(name, &base) != FILE_MAIN)
        fault = "SQLite uses such a name for a file beside a database";
    for (size_t i = 0; !fault && i < sizeof reserved / sizeof reserved[0]; i++)
        if (strcmp(last, reserved[i]) == 0)
            fault = "tandemfs answers under this name itself";
    if (!fault && ends_with(name, "-pos"))
        fault = "tandemfs answers under this name itself";
    if (!fault)
        return 0;
    snprintf(why, why_size, "%s", fault);
    return -ERR_INVALID;
}
