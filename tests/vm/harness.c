#include "harness.h"
#include "base/bytes.h"

#include <elf.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define LOAD_AT  0x100000u
#define NOTE_LEN 20u

/* A 64-bit ELF file with one segment and Xen's PHYS32_ENTRY note. */
static void write_kernel(const char *path, const u8 *code, size_t len)
{
    struct {
        Elf64_Ehdr e;
        Elf64_Phdr p[2];
        u8 note[NOTE_LEN];
    } head = {
        .e = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
              .e_type = ET_EXEC,
              .e_machine = EM_X86_64,
              .e_version = EV_CURRENT,
              .e_entry = LOAD_AT,
              .e_phoff = sizeof(Elf64_Ehdr),
              .e_ehsize = sizeof(Elf64_Ehdr),
              .e_phentsize = sizeof(Elf64_Phdr),
              .e_phnum = 2},
    };
    head.p[0] = (Elf64_Phdr){.p_type = PT_LOAD,
                             .p_flags = PF_R | PF_X,
                             .p_offset = sizeof(head),
                             .p_vaddr = LOAD_AT,
                             .p_paddr = LOAD_AT,
                             .p_filesz = len,
                             .p_memsz = len,
                             .p_align = 1};
    head.p[1] = (Elf64_Phdr){.p_type = PT_NOTE,
                             .p_offset = (u64)((u8 *)head.note - (u8 *)&head),
                             .p_filesz = NOTE_LEN,
                             .p_memsz = NOTE_LEN,
                             .p_align = 4};
    put_le32(head.note, 4);
    put_le32(head.note + 4, 4);
    put_le32(head.note + 8, 18);
    memcpy(head.note + 12, "Xen", 4);
    put_le32(head.note + 16, LOAD_AT);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(&head, sizeof(head), 1, f), 1);
    assert_int_equal(fwrite(code, len, 1, f), 1);
    assert_int_equal(fclose(f), 0);
}

void machine_prepare(struct machine *m, const char *name, const u8 *begin, const u8 *end)
{
    memset(m, 0, sizeof(*m));
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); /* init may be none that reaps: keepers come back to us */
    strcpy(m->dir, "/tmp/trapeze-test-XXXXXX");
    assert_non_null(mkdtemp(m->dir));
    snprintf(m->socket, sizeof(m->socket), "%s/%s", m->dir, VM_FILE_CONTROL);
    vm_config_init(&m->cfg);
    snprintf(m->cfg.name, sizeof(m->cfg.name), "%s", name);
    snprintf(m->cfg.kernel, sizeof(m->cfg.kernel), "%s/kernel", m->dir);
    m->cfg.memory = 16u << 20;
    write_kernel(m->cfg.kernel, begin, (size_t)(end - begin));
}

void machine_launch(struct machine *m)
{
    struct error e = {0};
    if (vm_launch(&m->cfg, m->dir, &m->keeper, &e) < 0)
        fail_msg("%s: %s", m->cfg.name, e.msg);
}

void machine_start(struct machine *m, const char *name, const u8 *begin, const u8 *end)
{
    machine_prepare(m, name, begin, end);
    machine_launch(m);
}

int machine_do(struct machine *m, json_t **reply, const char *fmt, ...)
{
    struct error e = {0};
    va_list ap;
    va_start(ap, fmt);
    json_t *j = json_vpack_ex(NULL, 0, fmt, ap);
    va_end(ap);
    return control_once(m->socket, j, reply, &e);
}

void machine_gone(struct machine *m)
{
    for (int i = 0; i < 3000; i++) {
        if (!process_lives(m->keeper))
            return;
        poll(NULL, 0, 10);
    }
    fail_msg("%s: its keeper (%d) is still there", m->cfg.name, m->keeper);
}

int machine_wait(struct machine *m, char *reason)
{
    json_t *j;
    struct error e = {0};
    int code = -1;
    int r = control_once(m->socket, json_pack("{s:s}", "do", "wait"), &j, &e);
    if (r == 0) {
        code = (int)json_integer_value(json_object_get(j, "code"));
        if (reason)
            snprintf(reason, 200, "%s", json_string_value(json_object_get(j, "reason")));
        json_decref(j);
        machine_gone(m);
        return code;
    }
    /* It may have ended before the connection was made: then its last word is in the file. */
    machine_gone(m);
    if (vm_end_read(m->dir, &code, reason, 200, NULL) < 0)
        fail_msg("%s: the keeper ended without a word (%s)", m->cfg.name, e.msg);
    return code;
}

void machine_expect(struct machine *m, const char *text)
{
    char path[128];
    char *all = malloc(4u << 20);
    assert_non_null(all);
    snprintf(path, sizeof(path), "%s/%s", m->dir, VM_FILE_LOG);
    for (int i = 0; i < 3000; i++) {
        FILE *f = fopen(path, "r");
        size_t n = f ? fread(all, 1, (4u << 20) - 1, f) : 0;
        if (f)
            fclose(f);
        if (memmem(all, n, text, strlen(text))) {
            free(all);
            return;
        }
        poll(NULL, 0, 10);
    }
    free(all);
    fail_msg("%s: did not print \"%s\"", m->cfg.name, text);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

void machine_forget(struct machine *m)
{
    nftw(m->dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

bool process_lives(pid_t pid)
{
    char path[64], line[512];
    while (waitpid(-1, NULL, WNOHANG) > 0)
        ;
    snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    FILE *f = fopen(path, "r");
    if (!f)
        return false;
    size_t n = fread(line, 1, sizeof(line) - 1, f);
    fclose(f);
    line[n] = 0;
    char *end = strrchr(line, ')');
    return end && end[1] && end[2] != 'Z' && end[2] != 'X';
}
