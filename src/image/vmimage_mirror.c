/* Which Debian mirror this host's apt uses: sources.list(5), in both forms. */
#include "image/vmimage.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Take a word that is the address of an archive: its last directory is `name`. */
static void take(const char *word, const char *name, char out[VMIMAGE_MIRROR])
{
    size_t n = strlen(word), n_name = strlen(name);
    while (n && word[n - 1] == '/')
        n--;
    if (out[0] || n <= n_name || memcmp(word + n - n_name, name, n_name) || !strstr(word, ":/") || n >= VMIMAGE_MIRROR)
        return;
    memcpy(out, word, n);
    out[n] = 0;
}

/* "deb [option=..] URI suite ..", or in deb822 form "URIs: URI URI". */
static void read_line(char *line, struct vmimage_mirror *out)
{
    char *rest = NULL, *word = strtok_r(line, " \t\r\n", &rest);
    bool one = word && !strcmp(word, "deb"), many = word && !strcasecmp(word, "URIs:"), option = false;
    if (!one && !many)
        return;
    while ((word = strtok_r(NULL, " \t\r\n", &rest))) {
        option |= one && word[0] == '[';
        if (option) {
            option = word[strlen(word) - 1] != ']';
            continue;
        }
        take(word, "/debian", out->archive);
        take(word, "/debian-security", out->security);
        if (one)
            return;
    }
}

static void read_file(const char *path, struct vmimage_mirror *out)
{
    char line[1024];
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof(line), f))
        read_line(line, out);
    if (f)
        fclose(f);
}

static bool is_source(const char *name)
{
    const char *suffix = strrchr(name, '.');
    return name[0] != '.' && suffix && (!strcmp(suffix, ".list") || !strcmp(suffix, ".sources"));
}

static bool is_debians_own(const char *address)
{
    return !strncmp(address, "http://deb.debian.org/", 22) || !strncmp(address, "https://deb.debian.org/", 23);
}

void vmimage_mirror(const char *etc, struct vmimage_mirror *out)
{
    char path[PATH_MAX], dir[PATH_MAX];
    struct dirent **entries = NULL;
    *out = (struct vmimage_mirror){0};
    if (snprintf(path, sizeof(path), "%s/sources.list", etc) < (int)sizeof(path))
        read_file(path, out);
    int n = snprintf(dir, sizeof(dir), "%s/sources.list.d", etc) < (int)sizeof(dir)
                ? scandir(dir, &entries, NULL, alphasort)
                : 0;
    for (int i = 0; i < n; i++) {
        if (is_source(entries[i]->d_name) &&
            snprintf(path, sizeof(path), "%s/%s", dir, entries[i]->d_name) < (int)sizeof(path))
            read_file(path, out);
        free(entries[i]);
    }
    free(entries);
    if (!out->archive[0] || is_debians_own(out->archive))
        *out = (struct vmimage_mirror){0};
}
