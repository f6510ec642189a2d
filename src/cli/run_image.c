/*
 * `trapeze run vm:NAME`: a machine gets a copy of the image in its own directory, and a disk that tells it at its first boot
 * who it is. Disks: the image's first, those of --disk, the NoCloud disk last.
 */
#include "cli/vm_image.h"
#include "image/vmimage.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const enum option_id only_here[] = {OPT_USER, OPT_SSH_KEY, OPT_HOSTNAME, OPT_DISK_SIZE};

bool run_image_is(const struct args *a)
{
    return a->n_operands > 0 && vmimage_is_ref(a->operands[0]);
}

static int read_keys(struct nocloud *n, const struct args *a, struct error *e)
{
    int r = 0;
    for (int i = 0; i < a->n_many && r == 0; i++)
        if (a->many[i].id == OPT_SSH_KEY)
            r = nocloud_add_keys(n, a->many[i].text, e);
    return r;
}

static int check(const struct args *a, struct error *e)
{
    struct nocloud n = {0};
    if (a->n_operands > 1 && a->operands[1][0] == '-')
        return error_set(e, EINVAL, "%s: options of run stand before %s", a->operands[1], a->operands[0]);
    if (a->n_operands > 1)
        return error_set(e, ENOTSUP,
                         "%s: a machine starts its own system; run commands in it with `trapeze exec NAME %s`",
                         a->operands[0], a->operands[1]);
    int r = a->given[OPT_USER] ? nocloud_check_user(a->text[OPT_USER], e) : 0;
    if (r == 0 && a->given[OPT_HOSTNAME])
        r = nocloud_check_host(a->text[OPT_HOSTNAME], e);
    if (r == 0)
        r = read_keys(&n, a, e);
    nocloud_free(&n);
    return r;
}

/* Room for the image's disk before the others, and for the NoCloud disk behind them. */
static int place_disks(struct vm_config *c, struct error *e)
{
    if (c->n_disks + 2 > VM_DISKS_MAX)
        return error_set(e, EINVAL, "--disk: given too often; with an image %d disks are possible", VM_DISKS_MAX - 2);
    memmove(&c->disks[1], &c->disks[0], c->n_disks * sizeof(c->disks[0]));
    c->disks[0] = (struct vm_disk){.cache = "auto", .format = "raw"};
    c->disks[++c->n_disks] = (struct vm_disk){.cache = "writeback", .format = "raw", .read_only = true};
    c->n_disks++;
    return 0;
}

/* Files that the image names, where the caller has not named another. */
static int place_files(struct vm_config *c, const struct args *a, const struct vmimage_files *f, const char *dir,
                       struct error *e)
{
    struct vm_disk *root = &c->disks[0], *seed = &c->disks[c->n_disks - 1];
    if (!a->given[OPT_KERNEL])
        memcpy(c->kernel, f->kernel, sizeof(c->kernel));
    if (!a->given[OPT_KERNEL] && !a->given[OPT_INITRD])
        memcpy(c->initrd, f->initrd, sizeof(c->initrd));
    memcpy(root->file, f->disk, sizeof(root->file));
    if (snprintf(seed->file, sizeof(seed->file), "%s/%s", dir, VMIMAGE_SEED) >= (int)sizeof(seed->file))
        return error_set(e, ENAMETOOLONG, "%.100s..: the name is too long", dir);
    return 0;
}

/* The image's command line, and behind it the caller's. */
static int place_append(struct vm_config *c, const struct args *a, const struct vmimage_files *f, struct error *e)
{
    const char *own = a->text[OPT_APPEND];
    bool virtio = vm_config_virtio_console(c) && !run_names_console(own);
    int n = snprintf(c->append, sizeof(c->append), "%s%s%s%s", f->append, virtio ? " console=hvc0" : "",
                     own[0] ? " " : "", own);
    return n < (int)sizeof(c->append) ? 0 : error_set(e, EINVAL, "--append: too long with what the image needs");
}

int run_image_config(struct vm_config *c, const struct args *a, struct error *e)
{
    char name[VMIMAGE_NAME];
    struct vmimage_store s;
    struct vmimage_files f;
    for (size_t i = 0; !run_image_is(a) && i < ARRAY_LEN(only_here); i++)
        if (a->given[only_here[i]])
            return error_set(e, EINVAL,
                             "--%s: is for containers and machines from images; --kernel starts a machine without one",
                             cli_options[only_here[i]].name);
    if (!run_image_is(a))
        return 0;
    int r = check(a, e);
    if (r == 0)
        r = vmimage_ref_parse(a->operands[0], name, e);
    if (r == 0)
        r = vmimage_store_open(&s, NULL, e);
    if (r < 0)
        return r;
    r = vmimage_describe(&s, name, s.path, &f, e); /* the names are only examples, until there is a directory */
    if (r == 0)
        r = place_disks(c, e);
    if (r == 0)
        r = place_files(c, a, &f, s.path, e);
    if (r == 0)
        r = place_append(c, a, &f, e);
    vmimage_store_close(&s);
    return r;
}

static int write_seed(const struct vm_config *c, const struct args *a, const struct machine_row *row, struct error *e)
{
    char host[64];
    struct nocloud n = {.instance = row->id, .hostname = a->text[OPT_HOSTNAME], .user = a->text[OPT_USER]};
    if (!n.hostname) {
        nocloud_host(row->name, host);
        n.hostname = host;
    }
    int r = read_keys(&n, a, e);
    if (r == 0)
        r = nocloud_write(&n, c->disks[c->n_disks - 1].file, e);
    nocloud_free(&n);
    return r;
}

int run_image_prepare(struct vm_config *c, const struct args *a, const struct machine_row *row, struct error *e)
{
    char name[VMIMAGE_NAME];
    struct vmimage_store s;
    struct vmimage_files f;
    int r = vmimage_ref_parse(a->operands[0], name, e);
    if (r == 0)
        r = vmimage_store_open(&s, NULL, e);
    if (r < 0)
        return r;
    r = vmimage_copy(&s, name, row->dir, a->number[OPT_DISK_SIZE], &f, e);
    vmimage_store_close(&s);
    if (r == 0)
        r = place_files(c, a, &f, row->dir, e);
    if (r == 0)
        r = place_append(c, a, &f, e); /* it names the file system of this copy */
    return r < 0 ? r : write_seed(c, a, row, e);
}
