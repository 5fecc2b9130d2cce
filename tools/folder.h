/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TOOLS_FOLDER_H
#define TOOLS_FOLDER_H

#include <stdbool.h>

bool folder_is_empty(const char *path); /* false also if it cannot be looked into */

/* Removes `below` (a relative path) and then `path`, from the inside out, as far as they are empty.
 */
void folder_remove_empty(const char *path, const char *below);

#endif
