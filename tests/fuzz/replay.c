/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The driver of a fuzz target that is no fuzzer: each file that is named, or each of the target's
 * corpus in the tree, is one input. Prints what the runner of the unit tests reads.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/fuzz/fuzz.h"

#define CORPUS "tests/fuzz/corpus"
#define INPUT_SECONDS 30 /* nothing in a corpus takes a hundredth of it */

static char now[4400]; /* the input at hand, for a death */

/* The sanitizers' own, in their builds. */
extern void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

static void say(const char *text)
{
    if (write(STDERR_FILENO, text, strlen(text)) < 0)
        return; /* nobody can be told */
}

static void say_input(void)
{
    say("\nthe input was ");
    say(now);
    say("\n");
}

static void die(int number)
{
    say_input();
    signal(number, SIG_DFL);
    raise(number);
}

static void catch_death(void)
{
    static const int deaths[] = {SIGABRT, SIGALRM, SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    size_t count = sizeof deaths / sizeof deaths[0];
    if (__sanitizer_set_death_callback) {
        __sanitizer_set_death_callback(say_input);
        count = 2; /* what the others mean, a sanitizer says better */
    }
    for (size_t i = 0; i < count; i++)
        signal(deaths[i], die);
}

static void run_file(const char *path)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0)
        fuzz_broken(__FILE__, __LINE__, path, errno);
    uint8_t *data = malloc((size_t)st.st_size + 1);
    if (!data || read(fd, data, (size_t)st.st_size) != st.st_size)
        fuzz_broken(__FILE__, __LINE__, path, errno);
    close(fd);
    uint8_t *exact = fuzz_copy(data, (size_t)st.st_size);
    free(data);
    snprintf(now, sizeof now, "%s", path);
    alarm(INPUT_SECONDS);
    LLVMFuzzerTestOneInput(exact, (size_t)st.st_size);
    alarm(0);
    free(exact);
}

static int is_input(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

/* In the order of the names, so that every run is the same. */
static unsigned run_folder(const char *folder)
{
    struct dirent **list;
    int n = scandir(folder, &list, is_input, alphasort);
    for (int i = 0; i < n; i++) {
        char path[4400];
        snprintf(path, sizeof path, "%s/%s", folder, list[i]->d_name);
        run_file(path);
        free(list[i]);
    }
    if (n >= 0)
        free(list);
    return n > 0 ? (unsigned)n : 0;
}

int main(int argc, char **argv)
{
    const char *name = basename(argv[0]);
    char folder[4096];
    unsigned inputs = 0;

    catch_death();
    LLVMFuzzerInitialize(&argc, &argv);
    if (argc > 1) {
        for (int i = 1; i < argc; i++)
            run_file(argv[i]);
        return 0;
    }
    snprintf(folder, sizeof folder, CORPUS "/%s", strncmp(name, "fuzz_", 5) == 0 ? name + 5 : name);
    printf("[ RUN      ] every_input_of_its_corpus_is_read_safely\n");
    fflush(stdout);
    inputs = run_folder(folder);
    printf("%u inputs\n", inputs);
    printf("[%s] every_input_of_its_corpus_is_read_safely\n", inputs ? "       OK " : "  FAILED  ");
    return inputs ? 0 : 1;
}
