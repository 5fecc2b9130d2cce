/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/folder.h"

#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

bool folder_is_empty(const char *path)
{
    DIR *dir = opendir(path);
    int entries = 0;
    if (!dir)
        return false;
    for (struct dirent *e; (e = readdir(dir));)
        entries += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    closedir(dir);
    return entries == 0;
}

void folder_remove_empty(const char *path, const char *below)
{
    char full[PATH_MAX];
    size_t keep = strlen(path);
    int n = snprintf(full, sizeof full, "%s/%s", path, below);
    if (n < 0 || (size_t)n >= sizeof full)
        return;
    while (strlen(full) >= keep && rmdir(full) == 0) {
        char *slash = strrchr(full, '/');
        if (!slash || (size_t)(slash - full) < keep)
            return;
        *slash = '\0';
    }
}
