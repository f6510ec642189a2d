/*
 * make-certificates TOP [IP]..: what tests of the verbs want for --tls: directories of TOP, made if need be, whose certificates name
 * localhost, and up to four addresses (127.0.0.1 without any).
 *
 *   one, two    hosts that trust each other
 *   expired     the same, an hour ago
 *   stranger    one of another CA, and who believes in that
 *   elsewhere   of the same CA, with the name of another host
 */
#include "certificates.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

int main(int argc, char **argv)
{
    struct authority ours, theirs;
    struct certificate good = {.ip = {"127.0.0.1"}, .host = "localhost"}, old, elsewhere = {.host = "elsewhere"};
    const struct {
        const char *name;
        const struct certificate *c;
        const struct authority *by;
    } rows[] = {{"one", &good, &ours},
                {"two", &good, &ours},
                {"expired", &old, &ours},
                {"stranger", &good, &theirs},
                {"elsewhere", &elsewhere, &ours}};
    char dir[4096];
    if (argc < 2 || argc > 6)
        return fprintf(stderr, "make-certificates TOP [IP]..\n"), 2;
    for (int i = 2; i < argc; i++)
        good.ip[i - 2] = argv[i];
    old = good;
    old.from = time(NULL) - 7200;
    old.to = old.from + 3600;
    authority_make(&ours, "ours");
    authority_make(&theirs, "theirs");
    mkdir(argv[1], 0700);
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        snprintf(dir, sizeof(dir), "%s/%s", argv[1], rows[i].name);
        mkdir(dir, 0700);
        certificate_make(dir, rows[i].c, rows[i].by, rows[i].by);
    }
    authority_free(&ours);
    authority_free(&theirs);
    return 0;
}
