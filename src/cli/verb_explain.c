/*
 * A block of guest code: each instruction, its class and why, how the engine runs it, and the host's code for it.
 *
 * Stacked on a narrow terminal (or none), side by side on a wide one:
 *
 *    guest instruction                       guest instruction          | host code
 *      its class; how it is run                its class; how it is run | host code
 *      | host code                                                      | host code
 *      | host code
 *
 * Both print the same lines: a guest instruction has two, or three where the second gets long, its host code any number. What precedes the first instruction's
 * code is the head of the block, what lies behind the last's are its exits.
 */
#include "cli/json.h"
#include "cli/machine.h"
#include "cli/terminal.h"
#include "isa/class.h"
#include "vm/explain.h"

#include <errno.h>
#include <string.h>

#define PATIENCE  6   /* seconds that a keeper may take to answer: one more than it gives its cell */
#define LINE      160 /* bytes of a line at most */
#define LEFT      76  /* columns of the guest's side */
#define WIDE      150 /* columns from which on the sides stand beside each other */
#define BYTES_ROW 8   /* room for as many bytes of an instruction; the text of longer ones begins further right */

/* --- host code --- */

/* A part of the block's code that is being disassembled. */
struct host_code {
    const struct engine_explain *x;
    u32 at, end;
};

struct host_line {
    u64 address;
    u8 n, bytes[ISA_MAX_LEN];
    char text[96];
};

/* The next instruction; false at the end. What does not decode is shown byte by byte. */
static bool host_next(struct host_code *h, struct host_line *l)
{
    struct isa_insn insn;
    if (h->at >= h->end)
        return false;
    const u8 *p = h->x->code + h->at;
    l->address = h->x->code_address + h->at;
    if (isa_decode(ISA_MODE_64, p, MIN(h->end - h->at, (u32)ISA_MAX_LEN), &insn) == ISA_DECODE_OK) {
        l->n = insn.len;
        isa_format(&insn, l->address, l->text, sizeof(l->text));
    } else {
        l->n = 1;
        snprintf(l->text, sizeof(l->text), "db 0x%02x", *p);
    }
    memcpy(l->bytes, p, l->n);
    h->at += l->n;
    return true;
}

static struct host_code host_range(const struct engine_explain *x, u32 from, u32 to)
{
    return (struct host_code){x, from, MAX(from, to)};
}

/* Code of instruction `i`: up to that of the next one that has any, so that nothing between them is left out. */
static struct host_code host_of(const struct engine_explain *x, u32 i)
{
    const struct engine_explain_insn *n = &x->insn[i];
    u32 end = n->code_off + n->code_len;
    for (u32 k = i + 1; n->code_len && k < x->n; k++)
        if (x->insn[k].code_len) {
            end = x->insn[k].code_off;
            break;
        }
    return host_range(x, n->code_off, end);
}

/* Where the code of the first instruction begins, and that of the last ends. */
static u32 body_start(const struct engine_explain *x)
{
    for (u32 i = 0; i < x->n; i++)
        if (x->insn[i].code_len)
            return x->insn[i].code_off;
    return 0;
}

static u32 body_end(const struct engine_explain *x)
{
    for (u32 i = x->n; i; i--)
        if (x->insn[i - 1].code_len)
            return x->insn[i - 1].code_off + x->insn[i - 1].code_len;
    return 0;
}

/* --- guest code --- */

struct guest_line {
    char text[96];
    const char *class_name, *reason, *how;
};

static void guest_look(const struct engine_explain_insn *n, struct guest_line *l)
{
    struct isa_insn insn;
    *l = (struct guest_line){.text = "(not decoded)", .class_name = "?", .reason = "", .how = explain_how_text(n->how)};
    if (isa_decode((enum isa_mode)n->mode, n->bytes, n->len, &insn) != ISA_DECODE_OK)
        return;
    isa_format(&insn, n->rip, l->text, sizeof(l->text));
    l->class_name = isa_class_name(isa_classify(&insn, &l->reason));
}

/* The instruction that holds the address asked for; an address is linear, a RIP is not where CS has a base. */
static bool is_asked(const struct engine_explain *x, const struct engine_explain_insn *n)
{
    u64 linear = x->start + (n->rip - x->insn[0].rip);
    return x->address - linear < n->len;
}

/* --- for people --- */

struct style {
    bool wide;
    const char *bold, *dim, *off;
};

static const char *hex(const u8 *p, unsigned n, char out[3 * ISA_MAX_LEN + 1])
{
    *out = 0;
    for (unsigned i = 0; i < n; i++)
        snprintf(out + 3 * i, 4, i + 1 < n ? "%02x " : "%02x", p[i]);
    return out;
}

static void print_host(const struct style *s, const struct host_line *l)
{
    char bytes[3 * ISA_MAX_LEN + 1];
    printf("%s%12llx  %-*s %s%s\n", s->dim, (unsigned long long)l->address, 3 * BYTES_ROW, hex(l->bytes, l->n, bytes),
           l->text, s->off);
}

/* The guest's lines of one instruction; how many. */
#define GUEST_LINES 3
static int guest_lines(const struct engine_explain *x, const struct engine_explain_insn *n, char out[GUEST_LINES][LINE])
{
    char bytes[3 * ISA_MAX_LEN + 1];
    struct guest_line g;
    guest_look(n, &g);
    snprintf(out[0], LINE, "%s %16llx  %-*s %s", is_asked(x, n) ? "=>" : "  ", (unsigned long long)n->rip,
             3 * BYTES_ROW - 1, hex(n->bytes, n->len, bytes), g.text);
    int n1 = snprintf(out[1], LINE, "%6s%s%s%s", "", g.class_name, *g.reason ? ": " : "", g.reason);
    bool fits = n1 + 2 + (int)strlen(g.how) <= LEFT;
    if (fits)
        snprintf(out[1] + n1, LINE - (size_t)n1, "; %s", g.how);
    snprintf(out[2], LINE, "%6s%s", "", g.how);
    return fits ? 2 : 3;
}

static void print_beside(const struct style *s, char left[GUEST_LINES][LINE], int n, struct host_code host)
{
    struct host_line l;
    bool more = host_next(&host, &l);
    for (int i = 0; i < n || more; i++) {
        const char *text = i < n ? left[i] : "", *on = i == 0 ? s->bold : "";
        printf("%s%-*s%s", on, more ? LEFT : 0, text, *on ? s->off : "");
        if (more) {
            fputs(strlen(text) > LEFT ? "\n" : "", stdout);
            printf("%*s", strlen(text) > LEFT ? LEFT : 0, "");
            fputs("| ", stdout);
            print_host(s, &l);
            more = host_next(&host, &l);
        } else {
            puts("");
        }
    }
}

static void print_below(const struct style *s, char left[GUEST_LINES][LINE], int n, struct host_code host)
{
    struct host_line l;
    for (int i = 0; i < n; i++)
        printf("%s%s%s\n", i == 0 ? s->bold : "", left[i], i == 0 ? s->off : "");
    while (host_next(&host, &l)) {
        fputs("      | ", stdout);
        print_host(s, &l);
    }
}

static void print_part(const struct style *s, const char *title, struct host_code host)
{
    struct host_line l;
    if (host.at >= host.end)
        return;
    printf("%s\n", title);
    while (host_next(&host, &l)) {
        printf("%*s| ", s->wide ? LEFT : 6, "");
        print_host(s, &l);
    }
}

static void print_title(const char *machine, const char *engine, const struct engine_explain *x)
{
    unsigned bytes = 0;
    for (u32 i = 0; i < x->n; i++)
        bytes += x->insn[i].len;
    printf("machine %s, engine %s: %u instruction%s, %u byte%s, CPL %u", machine, engine, x->n, x->n == 1 ? "" : "s",
           bytes, bytes == 1 ? "" : "s", x->cpl);
    if (x->code_bytes)
        printf("\n%u bytes of host code; %u of %u exits linked to other blocks", x->code_bytes, x->links, x->exits);
    puts("\n");
}

static void print_all(const char *machine, const char *engine, const struct engine_explain *x)
{
    bool colours = terminal_colours();
    const struct style s = {.wide = x->code_bytes && terminal_columns() >= WIDE,
                            .bold = colours ? "\033[1m" : "",
                            .dim = colours ? "\033[2m" : "",
                            .off = colours ? "\033[0m" : ""};
    print_title(machine, engine, x);
    if (!x->n)
        printf("   %#llx: the bytes there are no instruction: #UD\n", (unsigned long long)x->address);
    print_part(&s, "   head of the block", host_range(x, 0, body_start(x)));
    for (u32 i = 0; i < x->n; i++) {
        char left[GUEST_LINES][LINE];
        int n = guest_lines(x, &x->insn[i], left);
        if (s.wide)
            print_beside(&s, left, n, host_of(x, i));
        else
            print_below(&s, left, n, host_of(x, i));
    }
    print_part(&s, "   exits and slow paths", host_range(x, body_end(x), x->code_bytes));
}

/* --- for programs --- */

static json_t *host_json(struct host_code host)
{
    struct host_line l;
    char address[20], bytes[3 * ISA_MAX_LEN + 1];
    json_t *list = json_array();
    while (host_next(&host, &l)) {
        snprintf(address, sizeof(address), "%#llx", (unsigned long long)l.address);
        json_array_append_new(list, json_pack("{s:s, s:s, s:s}", "address", address, "bytes", hex(l.bytes, l.n, bytes),
                                              "assembly", l.text));
    }
    return list;
}

/* The keeper's object, and what is read from its bytes here. */
static json_t *explain_json(const char *machine, const char *engine, const struct engine_explain *x)
{
    json_t *o = explain_to_json(x), *list = o ? json_object_get(o, "instructions") : NULL;
    for (u32 i = 0; i < x->n && list; i++) {
        struct guest_line g;
        guest_look(&x->insn[i], &g);
        json_t *more = json_pack("{s:s, s:s, s:s, s:s, s:o}", "assembly", g.text, "class", g.class_name, "reason",
                                 g.reason, "how_text", g.how, "host", host_json(host_of(x, i)));
        json_object_update(json_array_get(list, i), more);
        json_decref(more);
    }
    if (o) {
        json_object_set_new(o, "name", json_string(machine));
        json_object_set_new(o, "engine", json_string(engine));
        json_object_set_new(o, "head", host_json(host_range(x, 0, body_start(x))));
        json_object_set_new(o, "tail", host_json(host_range(x, body_end(x), x->code_bytes)));
    }
    return o;
}

/* --- the verb --- */

static int ask(const struct machine_row *row, const char *address, char engine[16], struct engine_explain *x,
               struct error *e)
{
    json_t *reply = NULL;
    json_t *request = json_pack("{s:s, s:s*}", "do", "explain", "address", address);
    int rc = machine_call(row, PATIENCE, request, &reply, e);
    if (rc == 0 && (rc = explain_from_json(x, reply, e)) < 0)
        error_prefix(e, "machine %s", row->name);
    const char *name = rc == 0 ? json_string_value(json_object_get(reply, "engine")) : NULL;
    snprintf(engine, 16, "%s", name ? name : "unknown");
    json_decref(reply);
    return rc;
}

int verb_explain(const struct args *a, struct error *e)
{
    struct machine_row row;
    struct engine_explain x;
    u64 address;
    char engine[16];
    const char *where = a->n_operands > 1 ? a->operands[1] : NULL;
    if (where && explain_address(where, &address) < 0) {
        error_set(e, EINVAL, "%.40s: no address; give it in hexadecimal, as in 0xffffffff81000000", where);
        return CLI_USAGE;
    }
    if (machine_find(a->operands[0], &row, e) < 0)
        return cli_status_of(e);
    int status = CLI_OK;
    if (ask(&row, where, engine, &x, e) < 0)
        status = cli_status_of(e);
    else if (a->number[OPT_FORMAT])
        status = cli_json_print(explain_json(row.name, engine, &x), e);
    else
        print_all(row.name, engine, &x);
    registry_row_free(&row);
    return status;
}
