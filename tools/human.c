/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/human.h"

#include <stdio.h>
#include <time.h>

const char *human_bytes(uint64_t bytes, char out[HUMAN_SIZE])
{
    static const char *const units[] = {"kB", "MB", "GB", "TB", "PB", "EB"};
    double value = (double)bytes / 1000;
    unsigned i = 0;
    if (bytes < 1000) {
        snprintf(out, HUMAN_SIZE, "%u B", (unsigned)bytes);
        return out;
    }
    for (; value >= 999.95 && i + 1 < sizeof units / sizeof units[0]; i++)
        value /= 1000;
    snprintf(out, HUMAN_SIZE, "%.1f %s", value, units[i]);
    return out;
}

const char *human_ms(int64_t ms, char out[HUMAN_SIZE])
{
    if (ms < 1000)
        snprintf(out, HUMAN_SIZE, "%d ms", (int)ms);
    else if (ms < 60000)
        snprintf(out, HUMAN_SIZE, "%.1f s", (double)ms / 1000);
    else
        return human_duration(ms / 1000, out);
    return out;
}

const char *human_duration(int64_t s, char out[HUMAN_SIZE])
{
    if (s < 60)
        snprintf(out, HUMAN_SIZE, "%ds", (int)s);
    else if (s < 3600)
        snprintf(out, HUMAN_SIZE, "%dm%02ds", (int)(s / 60), (int)(s % 60));
    else if (s < 86400)
        snprintf(out, HUMAN_SIZE, "%dh%02dm", (int)(s / 3600), (int)(s % 3600 / 60));
    else
        snprintf(out, HUMAN_SIZE, "%lldd%dh", (long long)(s / 86400), (int)(s % 86400 / 3600));
    return out;
}

const char *human_time(int64_t unix_ms, char out[HUMAN_SIZE])
{
    time_t t = (time_t)(unix_ms / 1000);
    struct tm tm;
    if (unix_ms == 0 || !gmtime_r(&t, &tm) || !strftime(out, HUMAN_SIZE, "%FT%TZ", &tm))
        snprintf(out, HUMAN_SIZE, "-");
    return out;
}
