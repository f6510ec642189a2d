/*
 * What a machine is told at its first boot: a disk with the label "cidata" (ISO 9660 or FAT) with meta-data and user-data,
 * as the NoCloud source of cloud-init has it. A part of it is done, what images of machines need and no more:
 *
 *   meta-data   instance-id, local-hostname
 *   user-data   #cloud-config with hostname; users: name, gecos, groups, shell, sudo, passwd (a hash), lock_passwd,
 *               ssh_authorized_keys; ssh_authorized_keys (of the first user, else root)
 *
 * It is done once for each instance-id, which is kept in /var/lib/trapeze/instance-id. Another id, as a copy of the disk gets
 * from its new machine, does it again; what is there is kept: users, their keys. Nothing is told to be done by scripts, and what
 * is not known is named and left. Errors are told and do not stop the boot.
 *
 * Not done: user-data of other kinds, network-config, vendor-data, plain passwords, packages, write_files, runcmd.
 */
#include "guest.h"
#include "yaml.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define SEED_DIR "/run/trapeze-cidata"
#define STATE    "/var/lib/trapeze"
#define INSTANCE STATE "/instance-id"
#define USERS    32
#define KEYS     256

static void complain(const char *what, const char *why)
{
    fprintf(stderr, "first boot: %s: %s\n", what, why);
}

/* --- finding the disk --- */

/* "cidata" in what a disk says of itself, in capitals or not; padded with blanks. */
static bool is_label(const char *s, size_t size)
{
    size_t n = sizeof("cidata") - 1;
    if (strncasecmp(s, "cidata", n))
        return false;
    for (; n < size; n++)
        if (s[n] && s[n] != ' ')
            return false;
    return true;
}

/* The type of a file system with that label, for mount(2), or NULL. ECMA-119, 8.4; Microsoft's FAT specification, 3. */
static const char *seed_type(const char *device)
{
    static const struct {
        const char *type;
        off_t at;
        size_t size;
    } labels[] = {{"iso9660", 32768 + 40, 32}, {"vfat", 43, 11}, {"vfat", 71, 11}};
    char text[32], mark[5] = "";
    const char *type = NULL;
    int fd = open(device, O_RDONLY | O_CLOEXEC);
    for (size_t i = 0; fd >= 0 && !type && i < ARRAY_LEN(labels); i++)
        if (pread(fd, text, labels[i].size, labels[i].at) == (ssize_t)labels[i].size && is_label(text, labels[i].size))
            type = labels[i].type;
    if (type && !strcmp(type, "iso9660") && (pread(fd, mark, 5, 32769) != 5 || memcmp(mark, "CD001", 5)))
        type = NULL;
    if (fd >= 0)
        close(fd);
    return type;
}

static bool mount_seed(void)
{
    DIR *d = opendir("/sys/class/block");
    bool mounted = false;
    for (const struct dirent *f = d ? readdir(d) : NULL; f && !mounted; f = readdir(d)) {
        char device[300];
        if (f->d_name[0] == '.')
            continue;
        snprintf(device, sizeof(device), "/dev/%s", f->d_name);
        const char *type = seed_type(device);
        if (!type)
            continue;
        mkdir(SEED_DIR, 0700);
        mounted = mount(device, SEED_DIR, type, MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) == 0;
        if (!mounted)
            complain(device, strerror(errno));
    }
    if (d)
        closedir(d);
    return mounted;
}

/* A document in memory; NULL when it is not there or can not be read. */
static char *read_document(const char *path)
{
    char *text = calloc(1, YAML_TEXT_MAX + 2);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 && text ? read(fd, text, YAML_TEXT_MAX + 1) : -1;
    if (fd >= 0)
        close(fd);
    if (n >= 0 && n <= YAML_TEXT_MAX && !memchr(text, 0, (size_t)n))
        return text;
    if (fd >= 0)
        complain(path, "cannot be read, or is no text of 64 KiB");
    free(text);
    return NULL;
}

static void parse(struct yaml *y, const char *path, bool config)
{
    struct error e = {0};
    char *text = read_document(path);
    *y = (struct yaml){0};
    if (text && config && strncmp(text, "#cloud-config", 13))
        complain(path, *text ? "does not begin with #cloud-config: left" : "is empty");
    else if (text && yaml_parse(y, text, &e) < 0) {
        complain(path, e.msg);
        yaml_free(y); /* half of it is worse than nothing */
    }
    free(text);
}

/* --- doing it --- */

static int run(const char *const *argv)
{
    int status = -1;
    pid_t child = fork();
    if (child == 0) {
        setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
        execvp(argv[0], (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    if (status)
        complain(argv[0], WIFEXITED(status) && WEXITSTATUS(status) == 127 ? "is not there" : "failed");
    return status;
}

/* Write a file whole: another name first, so that a reader, or a boot that is cut short, sees the old or the new one. */
static int put_file(const char *path, const char *text, mode_t mode, uid_t uid, gid_t gid)
{
    char fresh[512];
    size_t size = strlen(text);
    if (snprintf(fresh, sizeof(fresh), "%s.new", path) >= (int)sizeof(fresh))
        return -1;
    unlink(fresh);
    int fd = open(fresh, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    bool good = fd >= 0 && write(fd, text, size) == (ssize_t)size && fchown(fd, uid, gid) == 0 &&
                fchmod(fd, mode) == 0 && fsync(fd) == 0 && rename(fresh, path) == 0;
    if (!good)
        complain(path, strerror(errno));
    if (fd >= 0)
        close(fd);
    return good ? 0 : -1;
}

static bool is_host(const char *name)
{
    size_t n = strlen(name);
    return n && n <= 64 && isalnum((unsigned char)name[0]) &&
           n == strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-");
}

/* The line of 127.0.1.1, as Debian has it, so that the host finds itself by name. */
static void name_in_hosts(const char *name)
{
    char *text = NULL, line[512];
    size_t size = 0;
    FILE *in = fopen("/etc/hosts", "re"), *out = open_memstream(&text, &size);
    while (in && out && fgets(line, sizeof(line), in))
        if (strncmp(line, "127.0.1.1", 9))
            fputs(line, out);
    if (out && !in)
        fputs("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n", out);
    if (out) {
        fprintf(out, "127.0.1.1\t%s", name);
        if (strchr(name, '.'))
            fprintf(out, " %.*s", (int)strcspn(name, "."), name);
        fputs("\n", out);
        if (fclose(out) == 0)
            put_file("/etc/hosts", text, 0644, 0, 0);
    }
    if (in)
        fclose(in);
    free(text);
}

static void set_host(const struct yaml *meta, const struct yaml *config)
{
    char line[80];
    const char *name = yaml_get(config, "hostname");
    if (!name)
        name = yaml_get(meta, "local-hostname");
    if (!name)
        return;
    if (!is_host(name)) {
        complain("hostname", "is none");
        return;
    }
    snprintf(line, sizeof(line), "%s\n", name);
    if (put_file("/etc/hostname", line, 0644, 0, 0) == 0 && sethostname(name, strlen(name)) < 0)
        complain("hostname", strerror(errno));
    name_in_hosts(name);
}

static bool is_user(const char *name)
{
    size_t n = strlen(name);
    return n && n <= 32 && !strchr("-0123456789", name[0]) &&
           n == strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_-");
}

/* "a, b", or the list below: with commas. */
static void join_list(const struct yaml *y, unsigned user, const char *key, char *out, size_t size)
{
    const char *whole = yaml_get(y, "users/%u/%s", user, key), *item;
    size_t used = 0;
    out[0] = 0;
    for (const char *p = whole ? whole : ""; *p && used + 1 < size; p++)
        if (*p != ' ')
            out[used++] = *p, out[used] = 0;
    for (unsigned i = 0; !whole && (item = yaml_get(y, "users/%u/%s/%u", user, key, i)); i++)
        used += (size_t)snprintf(out + used, size - MIN(used, size), "%s%s", used ? "," : "", item);
}

static int make_user(const struct yaml *y, unsigned i, const char *name)
{
    char groups[512];
    const char *shell = yaml_get(y, "users/%u/shell", i), *gecos = yaml_get(y, "users/%u/gecos", i);
    const char *argv[16] = {"useradd", "-m", "-s", shell && shell[0] == '/' ? shell : "/bin/bash"};
    size_t n = 4;
    join_list(y, i, "groups", groups, sizeof(groups));
    if (groups[0]) {
        argv[n++] = "-G";
        argv[n++] = groups;
    }
    if (gecos && !strpbrk(gecos, ":\n")) {
        argv[n++] = "-c";
        argv[n++] = gecos;
    }
    argv[n++] = "--";
    argv[n++] = name;
    return run(argv);
}

static void set_password(const struct yaml *y, unsigned i, const char *name)
{
    const char *hash = yaml_get(y, "users/%u/passwd", i), *lock = yaml_get(y, "users/%u/lock_passwd", i);
    char usable[512];
    if (!hash && !(hash = yaml_get(y, "users/%u/hashed_passwd", i)))
        return;
    if (hash[0] != '$' || strpbrk(hash, ":\n ") || strlen(hash) > 500) {
        complain(name, "passwd is no hash as mkpasswd makes it");
        return;
    }
    /* As cloud-init has it: locked unless told otherwise. */
    snprintf(usable, sizeof(usable), "%s%s", lock && !strcasecmp(lock, "false") ? "" : "!", hash);
    run((const char *const[]){"usermod", "-p", usable, "--", name, NULL});
}

static void set_sudo(const struct yaml *y, unsigned i, const char *name)
{
    char path[96], *text = NULL;
    size_t size = 0;
    const char *rule = yaml_get(y, "users/%u/sudo", i);
    FILE *f = open_memstream(&text, &size);
    if (!f)
        return;
    if (rule && strcasecmp(rule, "false") && *rule && !strchr(rule, '\n'))
        fprintf(f, "%s %s\n", name, rule);
    for (unsigned k = 0; !rule && (rule = yaml_get(y, "users/%u/sudo/%u", i, k)); k++, rule = NULL)
        if (!strchr(rule, '\n'))
            fprintf(f, "%s %s\n", name, rule);
    fclose(f);
    snprintf(path, sizeof(path), "/etc/sudoers.d/90-%s", name);
    if (size && access("/etc/sudoers.d", X_OK) < 0)
        complain(name, "sudo is not installed");
    else if (size)
        put_file(path, text, 0440, 0, 0);
    free(text);
}

/* Add what is not there yet to the keys in `home`. */
static void write_keys(const struct yaml *y, const char *list, const struct user *u)
{
    char dir[300], path[320], *text = NULL;
    size_t size = 0;
    const char *key;
    snprintf(dir, sizeof(dir), "%s/.ssh", u->home);
    snprintf(path, sizeof(path), "%s/authorized_keys", dir);
    char *old = read_document(path);
    FILE *f = open_memstream(&text, &size);
    if (!f)
        return;
    if (old && *old)
        fprintf(f, "%s%s", old, old[strlen(old) - 1] == '\n' ? "" : "\n");
    for (unsigned i = 0; i < KEYS && (key = yaml_get(y, "%s/%u", list, i)); i++)
        if (!strchr(key, '\n') && !(old && strstr(old, key)))
            fprintf(f, "%s\n", key);
    fclose(f);
    mkdir(dir, 0700);
    put_file(path, text, 0600, u->uid, u->gid);
    free(text);
    free(old);
}

/* As that user: a home that was there before may have links in it that lead anywhere. */
static void add_keys(const struct yaml *y, const char *list, const char *name)
{
    struct user u;
    struct error e = {0};
    if (!yaml_has(y, "%s", list))
        return;
    if (user_find(&u, name, &e) < 0) {
        complain(name, e.msg);
        return;
    }
    pid_t child = fork();
    if (child == 0) {
        if (setgroups(0, NULL) < 0 || setresgid(u.gid, u.gid, u.gid) < 0 || setresuid(u.uid, u.uid, u.uid) < 0)
            complain(name, strerror(errno));
        else
            write_keys(y, list, &u);
        fflush(stderr);
        _exit(0);
    }
    if (child < 0)
        complain(name, strerror(errno));
    while (child > 0 && waitpid(child, NULL, 0) < 0 && errno == EINTR)
        ;
}

static void set_user(const struct yaml *y, unsigned i)
{
    struct user u;
    char list[64];
    const char *name = yaml_get(y, "users/%u/name", i);
    if (!name || !is_user(name)) {
        complain("users", "an entry without a name that can be: left");
        return;
    }
    if (user_find(&u, name, NULL) < 0 && make_user(y, i, name))
        return;
    set_password(y, i, name);
    set_sudo(y, i, name);
    snprintf(list, sizeof(list), "users/%u/ssh_authorized_keys", i);
    add_keys(y, list, name);
}

static void set_users(const struct yaml *y)
{
    const char *first = yaml_get(y, "users/0/name");
    for (unsigned i = 0; i < USERS && yaml_has(y, "users/%u", i); i++) {
        const char *word = yaml_get(y, "users/%u", i);
        if (!word) /* a mapping; a word would be "default", the user that an image brings: ours have none */
            set_user(y, i);
    }
    add_keys(y, "ssh_authorized_keys", first && is_user(first) ? first : "root");
}

/* Name what is in the document and not done. */
static void tell_unknown(const struct yaml *y)
{
    static const char *const known[] = {"hostname", "users", "ssh_authorized_keys", "disable_root"};
    for (size_t i = 0; i < y->n; i++) {
        size_t n = strcspn(y->v[i].path, "/");
        bool is = i && !strncmp(y->v[i].path, y->v[i - 1].path, n) && strchr("/", y->v[i - 1].path[n]);
        for (size_t k = 0; k < ARRAY_LEN(known) && !is; k++)
            is = strlen(known[k]) == n && !memcmp(known[k], y->v[i].path, n);
        if (!is)
            fprintf(stderr, "first boot: %.*s: is not done here\n", (int)n, y->v[i].path);
    }
}

static bool seen_before(const char *instance)
{
    char *old = read_document(INSTANCE);
    bool same = old && strlen(old) == strlen(instance) + 1 && !strncmp(old, instance, strlen(instance));
    free(old);
    return same;
}

static void do_first_boot(void)
{
    struct yaml meta, config = {0};
    char line[300];
    parse(&meta, SEED_DIR "/meta-data", false);
    const char *instance = yaml_get(&meta, "instance-id");
    if (!instance)
        instance = "nocloud";
    if (!seen_before(instance)) {
        parse(&config, SEED_DIR "/user-data", true);
        tell_unknown(&config);
        set_host(&meta, &config);
        set_users(&config);
        mkdir(STATE, 0755);
        snprintf(line, sizeof(line), "%.290s\n", instance);
        put_file(INSTANCE, line, 0644, 0, 0);
    }
    yaml_free(&meta);
    yaml_free(&config);
}

int first_boot(void)
{
    if (!mount_seed())
        return 0; /* nobody has anything to say */
    do_first_boot();
    umount(SEED_DIR);
    rmdir(SEED_DIR);
    return 0;
}
