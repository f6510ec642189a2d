/*
 * What a machine is told at its first boot, as cloud images read it: the NoCloud source of cloud-init, a disk with the
 * label "cidata" and the files meta-data and user-data (cloudinit.readthedocs.io, datasources, NoCloud). Texts of others
 * stand in double quotes as JSON writes them, which YAML takes the same way. guest/first_boot.c reads it in our images.
 */
#include "image/vmimage.h"
#include "image/tarlib.h"
#include "container/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define KEY_MAX  (16u << 10)
#define FILE_MAX (64u << 10)

static const char lower[] = "abcdefghijklmnopqrstuvwxyz", digits[] = "0123456789";

int nocloud_check_user(const char *name, struct error *e)
{
    size_t n = strlen(name);
    if (!n || n > 32 || (!strchr(lower, name[0]) && name[0] != '_') ||
        n != strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_-"))
        return error_set(e, EINVAL, "--user %.60s: a user of a machine has small letters, digits, _ and -, 32 at most",
                         name);
    return 0;
}

int nocloud_check_host(const char *name, struct error *e)
{
    size_t n = strlen(name);
    if (!n || n > 63 || name[0] == '-' || name[n - 1] == '-' || name[0] == '.' || name[n - 1] == '.' ||
        n != strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-"))
        return error_set(e, EINVAL, "--hostname %.80s: a host's name has letters, digits, - and ., 63 at most", name);
    return 0;
}

void nocloud_host(const char *machine, char out[64])
{
    size_t n = 0;
    for (; *machine && n < 63; machine++) {
        char c = *machine >= 'A' && *machine <= 'Z' ? (char)(*machine - 'A' + 'a') : *machine;
        out[n++] = strchr(lower, c) || strchr(digits, c) ? c : '-';
    }
    while (n && out[n - 1] == '-')
        n--;
    out[n] = 0;
    if (!n || out[0] == '-')
        snprintf(out, 64, "machine");
}

/* --- keys --- */

/* What OpenSSH's sshd(8) has at the beginning of a key; options before it are left to who writes such files. */
static bool is_key(const char *line)
{
    static const char *const kinds[] = {"ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-"};
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        if (!strncmp(line, kinds[i], strlen(kinds[i])) && strchr(line, ' '))
            return true;
    return false;
}

static int add_key(struct nocloud *n, const char *line, const char *file, struct error *e)
{
    if (!strncmp(line, "-----BEGIN", 10))
        return error_set(e, EINVAL, "--ssh-key %.200s: is a private key, which stays where it is; give FILE.pub", file);
    if (!is_key(line) || strlen(line) > KEY_MAX)
        return error_set(e, EINVAL, "--ssh-key %.200s: is no public key as ssh-keygen makes it", file);
    if (n->n_keys == NOCLOUD_KEYS)
        return error_set(e, EINVAL, "--ssh-key: more than %d keys", NOCLOUD_KEYS);
    n->keys[n->n_keys] = strdup(line);
    return n->keys[n->n_keys] ? (n->n_keys++, 0) : error_set(e, ENOMEM, "out of memory");
}

int nocloud_add_keys(struct nocloud *n, const char *file, struct error *e)
{
    CLEANUP_FREE char *text = NULL;
    size_t size;
    unsigned before = n->n_keys;
    int r = sys_read_at(AT_FDCWD, file, FILE_MAX, &text, &size);
    if (r < 0)
        return error_set(e, -r, "--ssh-key %.300s: cannot be read: %s", file, strerror(-r));
    char *rest = NULL;
    for (char *line = strtok_r(text, "\r\n", &rest); line && r == 0; line = strtok_r(NULL, "\r\n", &rest)) {
        line += strspn(line, " \t");
        if (*line && *line != '#')
            r = add_key(n, line, file, e);
    }
    if (r == 0 && n->n_keys == before)
        r = error_set(e, EINVAL, "--ssh-key %.200s: has no key in it", file);
    return r;
}

void nocloud_free(struct nocloud *n)
{
    for (unsigned i = 0; i < n->n_keys; i++)
        free(n->keys[i]);
    n->n_keys = 0;
}

/* --- documents --- */

struct text {
    FILE *f;
    char *data;
    size_t size;
};

/* "BEFORE "VALUE"\n" */
static void put(struct text *t, const char *before, const char *value)
{
    json_t *j = json_string(value);
    char *quoted = j ? json_dumps(j, JSON_ENCODE_ANY) : NULL;
    fprintf(t->f, "%s%s\n", before, quoted ? quoted : "\"\"");
    free(quoted);
    json_decref(j);
}

static char *finish(struct text *t)
{
    if (fclose(t->f) == 0)
        return t->data;
    free(t->data);
    return NULL;
}

char *nocloud_meta_data(const struct nocloud *n)
{
    struct text t = {0};
    t.f = open_memstream(&t.data, &t.size);
    if (!t.f)
        return NULL;
    put(&t, "instance-id: ", n->instance);
    put(&t, "local-hostname: ", n->hostname);
    return finish(&t);
}

char *nocloud_user_data(const struct nocloud *n)
{
    struct text t = {0};
    t.f = open_memstream(&t.data, &t.size);
    if (!t.f)
        return NULL;
    fputs("#cloud-config\n", t.f);
    put(&t, "hostname: ", n->hostname);
    if (n->user || n->n_keys) {
        if (!n->user)
            fputs("disable_root: false\n", t.f);
        put(&t, "users:\n  - name: ", n->user ? n->user : "root");
        if (n->user)
            fputs("    groups: [sudo]\n"
                  "    shell: /bin/bash\n"
                  "    sudo: \"ALL=(ALL) NOPASSWD:ALL\"\n"
                  "    lock_passwd: true\n",
                  t.f);
        if (n->n_keys)
            fputs("    ssh_authorized_keys:\n", t.f);
        for (unsigned i = 0; i < n->n_keys; i++)
            put(&t, "      - ", n->keys[i]);
    }
    return finish(&t);
}

/* --- the disk --- */

static int write_member(const struct archive_library *lib, struct archive *a, const char *name, const char *text)
{
    struct archive_entry *entry = lib->archive_entry_new();
    size_t size = strlen(text);
    if (!entry)
        return -ENOMEM;
    lib->archive_entry_set_pathname(entry, name);
    lib->archive_entry_set_filetype(entry, AE_IFREG);
    lib->archive_entry_set_perm(entry, 0600);
    lib->archive_entry_set_size(entry, (la_int64_t)size);
    lib->archive_entry_set_mtime(entry, time(NULL), 0);
    int r =
        lib->archive_write_header(a, entry) == ARCHIVE_OK && lib->archive_write_data(a, text, size) == (la_ssize_t)size
            ? 0
            : -EIO;
    lib->archive_entry_free(entry);
    return r;
}

static int write_iso(const struct archive_library *lib, struct archive *a, int fd, const char *meta, const char *user)
{
    /* The label, as NoCloud wants it, in both kinds of names that such a disk has. */
    if (lib->archive_write_set_format_iso9660(a) != ARCHIVE_OK ||
        lib->archive_write_set_options(a, "iso9660:volume-id=cidata") != ARCHIVE_OK ||
        lib->archive_write_set_bytes_in_last_block(a, 1) != ARCHIVE_OK ||
        lib->archive_write_open_fd(a, fd) != ARCHIVE_OK)
        return -EIO;
    int r = write_member(lib, a, "meta-data", meta);
    if (r == 0)
        r = write_member(lib, a, "user-data", user);
    return r == 0 && lib->archive_write_close(a) != ARCHIVE_OK ? -EIO : r;
}

int nocloud_write(const struct nocloud *n, const char *file, struct error *e)
{
    struct archive_library lib;
    int r = archive_library(&lib, e);
    if (r < 0)
        return r;
    CLEANUP_FREE char *meta = nocloud_meta_data(n);
    CLEANUP_FREE char *user = nocloud_user_data(n);
    struct archive *a = lib.archive_write_new();
    CLEANUP_FD int fd = open(file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        r = sys_error(e, "%s: cannot be made", file);
    else if (!meta || !user || !a)
        r = error_set(e, ENOMEM, "out of memory");
    else if (write_iso(&lib, a, fd, meta, user) < 0)
        r = error_set(e, EIO, "%s: cannot be written: %s", file, lib.archive_error_string(a));
    if (a)
        lib.archive_write_free(a);
    return r;
}
