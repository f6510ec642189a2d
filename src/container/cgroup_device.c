/*
 * Device rules of cgroup version 2: the kernel runs an eBPF program at each open and mknod of a device node.
 *
 * The program is made here, instruction by instruction. The last rule that matches decides, so the rules are tested from the
 * last to the first, and the first that matches ends the program; what matches none is denied:
 *
 *     r2 = type (low half of ctx[0]), r3 = access (high half), r4 = major, r5 = minor
 *     for each rule:  if type differs, or access asks for more than the rule speaks of, or a number differs: next
 *                     r0 = allow; exit
 *     r0 = 0; exit
 *
 * A denying rule matches when any of the accesses asked for is one that it denies; an allowing one when all are allowed.
 */
#include "container/cgroup.h"
#include "container/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PER_RULE 12

struct program {
    struct bpf_insn *code;
    size_t n;
};

static void emit(struct program *p, u8 op, u8 dst, u8 src, s16 offset, s32 imm)
{
    p->code[p->n++] = (struct bpf_insn){.code = op, .dst_reg = dst, .src_reg = src, .off = offset, .imm = imm};
}

static u32 access_bits(const char *access)
{
    u32 bits = 0;
    for (; *access; access++)
        bits |= *access == 'r' ? BPF_DEVCG_ACC_READ : *access == 'w' ? BPF_DEVCG_ACC_WRITE : BPF_DEVCG_ACC_MKNOD;
    return bits;
}

/* Jumps to the next rule are written with the distance 0 and mended when the rule's length is known. */
static void emit_rule(struct program *p, const struct spec_device_rule *d)
{
    size_t jumps[4], n = 0;
    u32 bits = access_bits(d->access);
    if (d->type != 'a') {
        jumps[n++] = p->n;
        emit(p, BPF_JMP | BPF_JNE | BPF_K, BPF_REG_2, 0, 0, d->type == 'b' ? BPF_DEVCG_DEV_BLOCK : BPF_DEVCG_DEV_CHAR);
    }
    if (bits != 7) {
        emit(p, BPF_ALU | BPF_MOV | BPF_X, BPF_REG_1, BPF_REG_3, 0, 0);
        emit(p, BPF_ALU | BPF_AND | BPF_K, BPF_REG_1, 0, 0, (s32)(d->allow ? ~bits & 7 : bits));
        jumps[n++] = p->n;
        emit(p, BPF_JMP | (d->allow ? BPF_JNE : BPF_JEQ) | BPF_K, BPF_REG_1, 0, 0, 0);
    }
    if (d->major >= 0) {
        jumps[n++] = p->n;
        emit(p, BPF_JMP | BPF_JNE | BPF_K, BPF_REG_4, 0, 0, (s32)d->major);
    }
    if (d->minor >= 0) {
        jumps[n++] = p->n;
        emit(p, BPF_JMP | BPF_JNE | BPF_K, BPF_REG_5, 0, 0, (s32)d->minor);
    }
    emit(p, BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, d->allow);
    emit(p, BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
    for (size_t i = 0; i < n; i++)
        p->code[jumps[i]].off = (s16)(p->n - jumps[i] - 1);
}

static void emit_all(struct program *p, const struct spec_device_rule *rules, size_t n)
{
    emit(p, BPF_LDX | BPF_W | BPF_MEM, BPF_REG_2, BPF_REG_1, 0, 0);
    emit(p, BPF_ALU | BPF_MOV | BPF_X, BPF_REG_3, BPF_REG_2, 0, 0);
    emit(p, BPF_ALU | BPF_AND | BPF_K, BPF_REG_2, 0, 0, 0xffff);
    emit(p, BPF_ALU | BPF_RSH | BPF_K, BPF_REG_3, 0, 0, 16);
    emit(p, BPF_LDX | BPF_W | BPF_MEM, BPF_REG_4, BPF_REG_1, 4, 0);
    emit(p, BPF_LDX | BPF_W | BPF_MEM, BPF_REG_5, BPF_REG_1, 8, 0);
    while (n--) {
        emit_rule(p, &rules[n]);
        bool everything =
            rules[n].type == 'a' && rules[n].major < 0 && rules[n].minor < 0 && strlen(rules[n].access) == 3;
        if (everything)
            return; /* what stands before it never counts, and the verifier refuses code that is never reached */
    }
    emit(p, BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, 0);
    emit(p, BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
}

static int load(const struct program *p, struct error *e)
{
    union bpf_attr a;
    memset(&a, 0, sizeof(a));
    a.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
    a.insns = (u64)(uintptr_t)p->code;
    a.insn_cnt = (u32)p->n;
    a.license = (u64)(uintptr_t) "MIT";
    int fd = (int)syscall(SYS_bpf, BPF_PROG_LOAD, &a, sizeof(a));
    return fd < 0 ? sys_error(e, "resources.devices: loading the eBPF program") : fd;
}

/* Take away the programs that are there already (`update` puts a new one in the place of the old). */
static void detach_old(int cgroup, int keep)
{
    u32 ids[64];
    union bpf_attr a;
    memset(&a, 0, sizeof(a));
    a.query.target_fd = (u32)cgroup;
    a.query.attach_type = BPF_CGROUP_DEVICE;
    a.query.prog_ids = (u64)(uintptr_t)ids;
    a.query.prog_cnt = ARRAY_LEN(ids);
    if (syscall(SYS_bpf, BPF_PROG_QUERY, &a, sizeof(a)) < 0)
        return;
    u32 n = a.query.prog_cnt;
    for (u32 i = 0; i + 1 < n; i++) { /* the last is the new one */
        memset(&a, 0, sizeof(a));
        a.prog_id = ids[i];
        CLEANUP_FD int fd = (int)syscall(SYS_bpf, BPF_PROG_GET_FD_BY_ID, &a, sizeof(a));
        if (fd < 0)
            continue;
        memset(&a, 0, sizeof(a));
        a.target_fd = (u32)cgroup;
        a.attach_bpf_fd = (u32)fd;
        a.attach_type = BPF_CGROUP_DEVICE;
        syscall(SYS_bpf, BPF_PROG_DETACH, &a, sizeof(a));
    }
}

struct bpf_insn *cgroup_device_code(const struct spec_device_rule *rules, size_t n, size_t *length)
{
    struct program p = {calloc(8 + PER_RULE * n, sizeof(*p.code)), 0};
    if (p.code)
        emit_all(&p, rules, n);
    *length = p.n;
    return p.code;
}

int cgroup_device_program(const struct cgroup_hierarchy *h, const struct spec_device_rule *rules, size_t n,
                          struct error *e)
{
    struct program p;
    CLEANUP_FREE struct bpf_insn *code = p.code = cgroup_device_code(rules, n, &p.n);
    union bpf_attr a;
    if (!code)
        return error_set(e, ENOMEM, "resources.devices: out of memory");
    CLEANUP_FD int fd = load(&p, e);
    CLEANUP_FD int cgroup = fd < 0 ? -1 : openat(h->dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return fd;
    memset(&a, 0, sizeof(a));
    a.target_fd = (u32)cgroup;
    a.attach_bpf_fd = (u32)fd;
    a.attach_type = BPF_CGROUP_DEVICE;
    a.attach_flags = BPF_F_ALLOW_MULTI;
    if (cgroup < 0 || syscall(SYS_bpf, BPF_PROG_ATTACH, &a, sizeof(a)) < 0)
        return sys_error(e, "resources.devices: attaching the eBPF program to %s%s", h->mount, h->path);
    detach_old(cgroup, fd);
    return 0;
}
