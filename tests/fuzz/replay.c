/* Feeds a target each file of the directories named: the corpus as an ordinary test. */
#include "fuzz.h"

#include <dirent.h>

static int replay(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        return 1;
    u8 *data = malloc(1 << 20); /* the heap, so that ASan sees the end */
    size_t len = data ? fread(data, 1, 1 << 20, f) : 0;
    fclose(f);
    u8 *exact = malloc(len ? len : 1);
    if (!data || !exact)
        return 1;
    memcpy(exact, data, len);
    free(data);
    LLVMFuzzerTestOneInput(exact, len);
    free(exact);
    return 0;
}

int main(int argc, char **argv)
{
    unsigned n = 0;
    for (int i = 1; i < argc; i++) {
        DIR *d = opendir(argv[i]);
        struct dirent *e;
        while (d && (e = readdir(d))) {
            char path[4096];
            snprintf(path, sizeof(path), "%s/%s", argv[i], e->d_name);
            if (e->d_name[0] == '.')
                continue;
            printf("# %s\n", path); /* the last one is the culprit, if any is */
            fflush(stdout);
            if (replay(path))
                return 1;
            n++;
        }
        if (d)
            closedir(d);
    }
    if (!n) {
        fprintf(stderr, "no corpus\n");
        return 1;
    }
    printf("ok 1 - %u inputs\n", n);
    return 0;
}
