/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/inode.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include "fs/ident.h"
#include "ltx/base/err.h"

/* The inode table alone: what the kernel asks of it, without a mount. */

static struct inode_table table;
static unsigned idents_freed;

static void count_idents(struct ident *chain)
{
    while (chain) {
        struct ident *id = chain;
        chain = id->older;
        idents_freed++;
        free(id);
    }
}

static struct stat stat_of(uint64_t ino, mode_t type)
{
    return (struct stat){.st_dev = 1, .st_ino = ino, .st_mode = type | 0644, .st_nlink = 1};
}

static int set_up(void **state)
{
    (void)state;
    struct stat root = stat_of(2, S_IFDIR);
    idents_freed = 0;
    return inode_table_init(&table, &root, count_idents);
}

static int tear_down(void **state)
{
    (void)state;
    inode_table_fini(&table);
    return 0;
}

static struct inode *enter(struct inode *parent, const char *name, uint64_t ino, mode_t type)
{
    struct stat st = stat_of(ino, type);
    struct inode *i = inode_enter(&table, parent, name, &st);
    assert_non_null(i);
    return i;
}

static struct inode *enter_file(const char *name, uint64_t ino)
{
    return enter(table.root, name, ino, S_IFREG);
}

static void assert_path(const struct inode *i, const char *path)
{
    char got[256];
    assert_int_equal(inode_path(&table, i, got, sizeof got), 0);
    assert_string_equal(got, path);
}

static void assert_nameless(const struct inode *i)
{
    char got[256];
    assert_int_equal(inode_path(&table, i, got, sizeof got), -ERR_NOTFOUND);
}

static void give_ident(struct inode *i)
{
    struct ident *id = calloc(1, sizeof *id);
    assert_non_null(id);
    assert_ptr_equal(inode_set_ident(&table, i, id, false), id);
}

static void the_same_file_is_the_same_inode(void **state)
{
    (void)state;
    struct inode *first = enter_file("a.db", 10);
    assert_ptr_equal(enter_file("a.db", 10), first);
    assert_int_equal(first->lookups, 2);
    assert_ptr_not_equal(enter_file("b.db", 11), first);
    assert_path(first, "a.db");
    assert_path(table.root, ".");
}

static void a_forgotten_inode_is_freed(void **state)
{
    (void)state;
    struct inode *i = enter_file("a.db", 10);
    enter_file("a.db", 10);
    give_ident(i);
    assert_int_equal(inode_count(&table), 2);
    inode_forget(&table, i, 1);
    assert_int_equal(inode_count(&table), 2);
    inode_forget(&table, i, 1);
    assert_int_equal(inode_count(&table), 1);
    assert_int_equal(idents_freed, 1);
    assert_null(inode_find(&table, table.root, "a.db"));
}

static void a_held_inode_outlives_what_the_kernel_remembers(void **state)
{
    (void)state;
    struct inode *i = enter_file("a.db", 10);
    inode_hold(&table, i);
    inode_forget(&table, i, 1);
    assert_path(i, "a.db");
    inode_release(&table, i);
    assert_int_equal(inode_count(&table), 1);
}

static void a_folder_lives_as_long_as_what_is_in_it(void **state)
{
    (void)state;
    struct inode *folder = enter(table.root, "sub", 20, S_IFDIR);
    struct inode *deeper = enter(folder, "er", 21, S_IFDIR);
    struct inode *file = enter(deeper, "a.db", 10, S_IFREG);
    inode_forget(&table, folder, 1);
    inode_forget(&table, deeper, 1);
    assert_path(file, "sub/er/a.db");
    inode_forget(&table, file, 1);
    assert_int_equal(inode_count(&table), 1);
}

static void a_number_used_again_is_another_inode(void **state)
{
    (void)state;
    struct inode *old = enter_file("a.db", 10);
    inode_hold(&table, old); /* an open handle */
    inode_unnamed(&table, table.root, "a.db", 0);
    assert_nameless(old);
    struct inode *new = enter_file("b.db", 10);
    assert_ptr_not_equal(new, old);
    assert_path(new, "b.db");
    assert_nameless(old);
    inode_forget(&table, old, 1);
    inode_release(&table, old);
    assert_path(new, "b.db");
    assert_int_equal(inode_count(&table), 2);
}

static void a_number_that_changes_its_type_is_another_inode(void **state)
{
    (void)state;
    struct inode *file = enter_file("x", 10);
    struct inode *folder = enter(table.root, "y", 10, S_IFDIR);
    assert_ptr_not_equal(file, folder);
    assert_path(folder, "y");
}

static void a_hard_link_is_a_second_name(void **state)
{
    (void)state;
    struct inode *i = enter_file("a", 10);
    assert_ptr_equal(enter_file("b", 10), i);
    inode_unnamed(&table, table.root, "a", 1);
    assert_path(i, "b");
    assert_ptr_equal(enter_file("b", 10), i);
    inode_unnamed(&table, table.root, "b", 1); /* a third link that no lookup has found */
    assert_nameless(i);
    assert_ptr_equal(enter_file("c", 10), i);
    assert_path(i, "c");
}

static void a_rename_moves_all_paths_below(void **state)
{
    (void)state;
    struct inode *folder = enter(table.root, "sub", 20, S_IFDIR);
    struct inode *file = enter(folder, "a.db", 10, S_IFREG);
    struct inode *aside = enter_file("aside.db", 11);
    give_ident(file);
    give_ident(aside);
    assert_int_equal(inode_renamed(&table, table.root, "sub", table.root, "new"), 0);
    inode_clear_idents_below(&table, folder);
    assert_path(file, "new/a.db");
    assert_null(atomic_load(&file->ident));
    assert_non_null(atomic_load(&aside->ident));
    assert_int_equal(idents_freed, 0); /* a handle may still be using it */
}

static void a_rename_over_a_file_takes_its_name(void **state)
{
    (void)state;
    struct inode *from = enter_file("a", 10), *over = enter_file("b", 11);
    give_ident(over);
    inode_unnamed(&table, table.root, "b", 0);
    assert_int_equal(inode_renamed(&table, table.root, "a", table.root, "b"), 0);
    assert_path(from, "b");
    assert_nameless(over);
    assert_null(atomic_load(&over->ident));
    struct inode *found = inode_find(&table, table.root, "b");
    assert_ptr_equal(found, from);
    inode_release(&table, found);
}

static void a_name_found_for_another_file_leaves_the_first(void **state)
{
    (void)state;
    struct inode *old = enter_file("a", 10);
    struct inode *new = enter_file("a", 11);
    assert_nameless(old);
    assert_path(new, "a");
}

static void an_ident_that_is_there_wins(void **state)
{
    (void)state;
    struct inode *i = enter_file("a", 10);
    give_ident(i);
    struct ident *first = atomic_load(&i->ident);
    struct ident second = {0};
    assert_ptr_equal(inode_set_ident(&table, i, &second, true), first);
    give_ident(i);
    assert_ptr_not_equal(atomic_load(&i->ident), first);
    inode_forget(&table, i, 1);
    assert_int_equal(idents_freed, 2);
}

static void an_informational_file_has_no_backing_number(void **state)
{
    (void)state;
    struct inode *real = enter_file("a.db-pos", 10);
    struct inode *info = inode_enter_info(&table, table.root, "a.db-pos", 3);
    assert_non_null(info);
    assert_ptr_not_equal(info, real);
    assert_nameless(real);
    assert_ptr_equal(inode_enter_info(&table, table.root, "a.db-pos", 3), info);
    assert_path(info, "a.db-pos");
    inode_forget(&table, info, 2);
    assert_null(inode_find(&table, table.root, "a.db-pos"));
}

static void a_path_that_does_not_fit_is_refused(void **state)
{
    (void)state;
    char small[8];
    struct inode *folder = enter(table.root, "sub", 20, S_IFDIR);
    assert_int_equal(inode_child_path(&table, folder, "abc", small, sizeof small), 0);
    assert_string_equal(small, "sub/abc");
    assert_int_equal(inode_child_path(&table, folder, "abcd", small, sizeof small), -ERR_LIMIT);
    struct inode *file = enter(folder, "abcd", 10, S_IFREG);
    assert_int_equal(inode_path(&table, file, small, sizeof small), -ERR_LIMIT);
}

#define RANDOM_FILES 400
#define RANDOM_NAMES 600
#define RANDOM_STEPS 200000

/* The table against a plain model: which inode has which name, and how often it was looked up. */
static void random_steps_agree_with_a_model(void **state)
{
    (void)state;
    static struct inode *inode[RANDOM_FILES];
    static uint64_t lookups[RANDOM_FILES];
    static int owner[RANDOM_NAMES]; /* file + 1, 0 = nobody */
    unsigned seed = (unsigned)time(NULL);
    print_message("seed %u\n", seed);
    srandom(seed);
    char name[16], to[16];
    for (int step = 0; step < RANDOM_STEPS; step++) {
        int f = (int)(random() % RANDOM_FILES), n = (int)(random() % RANDOM_NAMES);
        int n2 = (int)(random() % RANDOM_NAMES);
        snprintf(name, sizeof name, "n%d", n);
        snprintf(to, sizeof to, "n%d", n2);
        switch (random() % 4) {
        case 0:
        case 1: {
            struct inode *i = enter_file(name, 1000 + (uint64_t)f);
            assert_true(lookups[f] == 0 || inode[f] == i);
            inode[f] = i;
            lookups[f]++;
            owner[n] = f + 1;
            break;
        }
        case 2:
            if (!lookups[f])
                break;
            uint64_t some = 1 + (uint64_t)random() % lookups[f];
            inode_forget(&table, inode[f], some);
            lookups[f] -= some;
            for (int k = 0; !lookups[f] && k < RANDOM_NAMES; k++)
                owner[k] = owner[k] == f + 1 ? 0 : owner[k];
            break;
        default:
            if (owner[n] && n != n2) {
                assert_int_equal(inode_renamed(&table, table.root, name, table.root, to), 0);
                owner[n2] = owner[n];
                owner[n] = 0;
            }
        }
        struct inode *found = inode_find(&table, table.root, to);
        assert_ptr_equal(found, owner[n2] ? inode[owner[n2] - 1] : NULL);
        if (found)
            inode_release(&table, found);
    }
    for (int f = 0; f < RANDOM_FILES; f++)
        if (lookups[f])
            inode_forget(&table, inode[f], lookups[f]);
    assert_int_equal(inode_count(&table), 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_same_file_is_the_same_inode),
        TEST(a_forgotten_inode_is_freed),
        TEST(a_held_inode_outlives_what_the_kernel_remembers),
        TEST(a_folder_lives_as_long_as_what_is_in_it),
        TEST(a_number_used_again_is_another_inode),
        TEST(a_number_that_changes_its_type_is_another_inode),
        TEST(a_hard_link_is_a_second_name),
        TEST(a_rename_moves_all_paths_below),
        TEST(a_rename_over_a_file_takes_its_name),
        TEST(a_name_found_for_another_file_leaves_the_first),
        TEST(an_ident_that_is_there_wins),
        TEST(an_informational_file_has_no_backing_number),
        TEST(a_path_that_does_not_fit_is_refused),
        TEST(random_steps_agree_with_a_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
