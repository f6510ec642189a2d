#include "vm/explain.h"
#include "isa/decode.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

static const char *const how_texts[HOW_COUNT] = {
#define X(how, text) [how] = text,
    ENGINE_HOWS(X)
#undef X
};

static const char *const how_words[HOW_COUNT] = {
#define X(how, text) [how] = #how,
    ENGINE_HOWS(X)
#undef X
};

const char *explain_how_name(enum engine_how h, char out[EXPLAIN_HOW_NAME])
{
    const char *word = how_words[h] + strlen("HOW_");
    size_t n = 0;
    for (; word[n] && n < EXPLAIN_HOW_NAME - 1; n++)
        out[n] = (char)tolower((unsigned char)word[n]);
    out[n] = 0;
    return out;
}

const char *explain_how_text(enum engine_how h)
{
    return how_texts[h];
}

/* --- what can be believed --- */

static int check_insn(const struct engine_explain *x, u32 i, u32 from, struct error *e)
{
    const struct engine_explain_insn *n = &x->insn[i];
    if (!n->len || n->len > sizeof(n->bytes))
        return error_set(e, EPROTO, "explain: instruction %u has %u bytes", i, n->len);
    if (n->mode > ISA_MODE_64 || n->how >= HOW_COUNT)
        return error_set(e, EPROTO, "explain: instruction %u has mode %u, translation %u", i, n->mode, n->how);
    if (n->code_off < from || n->code_off > x->code_bytes || n->code_len > x->code_bytes - n->code_off)
        return error_set(e, EPROTO, "explain: instruction %u has code where none is", i);
    return 0;
}

int explain_check(const struct engine_explain *x, struct error *e)
{
    u32 from = 0;
    if (x->n > EXPLAIN_INSNS || x->code_bytes > EXPLAIN_CODE)
        return error_set(e, EPROTO, "explain: %u instructions, %u bytes of code", x->n, x->code_bytes);
    if (x->cpl > 3 || x->links > x->exits)
        return error_set(e, EPROTO, "explain: CPL %u, %u of %u exits linked", x->cpl, x->links, x->exits);
    for (u32 i = 0; i < x->n; i++) {
        int r = check_insn(x, i, from, e);
        if (r < 0)
            return r;
        if (x->insn[i].code_len)
            from = x->insn[i].code_off + x->insn[i].code_len;
    }
    return 0;
}

/* --- JSON --- */

int explain_address(const char *s, u64 *out)
{
    u64 v = 0;
    if (s[0] == '0' && (s[1] == 'x' || s[1] == 'X'))
        s += 2;
    size_t n = strlen(s);
    if (!n || n > 16)
        return -EINVAL;
    for (; *s; s++) {
        if (!isxdigit((unsigned char)*s))
            return -EINVAL;
        v = v << 4 | (u64)(isdigit((unsigned char)*s) ? *s - '0' : tolower((unsigned char)*s) - 'a' + 10);
    }
    *out = v;
    return 0;
}

static json_t *address_json(u64 a)
{
    char text[20];
    snprintf(text, sizeof(text), "%#llx", (unsigned long long)a);
    return json_string(text);
}

static json_t *hex_json(const u8 *p, size_t n)
{
    char text[2 * EXPLAIN_CODE + 1] = "";
    for (size_t i = 0; i < n; i++)
        snprintf(text + 2 * i, 3, "%02x", p[i]);
    return json_string(text);
}

/* 0 with at most `room` bytes in `out` and *n, or -EPROTO. */
static int hex_bytes(const char *s, u8 *out, size_t room, size_t *n)
{
    *n = strlen(s) / 2;
    if (strlen(s) % 2 || *n > room)
        return -EPROTO;
    for (size_t i = 0; i < *n; i++) {
        u64 v;
        char two[3] = {s[2 * i], s[2 * i + 1]};
        if (!isxdigit((unsigned char)two[0]) || explain_address(two, &v) < 0)
            return -EPROTO;
        out[i] = (u8)v;
    }
    return 0;
}

static json_t *insn_json(const struct engine_explain_insn *n)
{
    char how[EXPLAIN_HOW_NAME];
    return json_pack("{s:o, s:i, s:o, s:s, s:I, s:I}", "rip", address_json(n->rip), "bits", 16 << n->mode, "bytes",
                     hex_json(n->bytes, n->len), "how", explain_how_name(n->how, how), "code_offset",
                     (json_int_t)n->code_off, "code_length", (json_int_t)n->code_len);
}

json_t *explain_to_json(const struct engine_explain *x)
{
    json_t *list = json_array();
    for (u32 i = 0; i < x->n; i++)
        if (json_array_append_new(list, insn_json(&x->insn[i])) < 0) {
            json_decref(list);
            return NULL;
        }
    return json_pack("{s:o, s:o, s:o, s:i, s:i, s:i, s:o, s:o}", "address", address_json(x->address), "start",
                     address_json(x->start), "code_address", address_json(x->code_address), "cpl", x->cpl, "links",
                     x->links, "exits", x->exits, "code", hex_json(x->code, x->code_bytes), "instructions", list);
}

static int how_of(const char *name)
{
    char known[EXPLAIN_HOW_NAME];
    for (int i = 0; i < HOW_COUNT; i++)
        if (!strcmp(explain_how_name((enum engine_how)i, known), name))
            return i;
    return HOW_COUNT;
}

static int insn_from_json(struct engine_explain_insn *n, json_t *j)
{
    const char *rip, *bytes, *how;
    json_int_t off, len;
    int bits;
    size_t count;
    if (json_unpack(j, "{s:s, s:i, s:s, s:s, s:I, s:I}", "rip", &rip, "bits", &bits, "bytes", &bytes, "how", &how,
                    "code_offset", &off, "code_length", &len) < 0 ||
        explain_address(rip, &n->rip) < 0 || hex_bytes(bytes, n->bytes, sizeof(n->bytes), &count) < 0 ||
        (bits != 16 && bits != 32 && bits != 64) || off < 0 || off > EXPLAIN_CODE || len < 0 || len > EXPLAIN_CODE)
        return -EPROTO;
    n->len = (u8)count;
    n->mode = (u8)(bits == 16 ? ISA_MODE_16 : bits == 32 ? ISA_MODE_32 : ISA_MODE_64);
    n->how = (u8)how_of(how);
    n->code_off = (u32)off;
    n->code_len = (u32)len;
    return 0;
}

static int body_from_json(struct engine_explain *x, const json_t *j)
{
    const char *address, *start, *code_address, *code;
    json_t *list;
    int cpl, links, exits;
    size_t code_bytes;
    if (json_unpack((json_t *)j, "{s:s, s:s, s:s, s:i, s:i, s:i, s:s, s:o}", "address", &address, "start", &start,
                    "code_address", &code_address, "cpl", &cpl, "links", &links, "exits", &exits, "code", &code,
                    "instructions", &list) < 0 ||
        explain_address(address, &x->address) < 0 || explain_address(start, &x->start) < 0 ||
        explain_address(code_address, &x->code_address) < 0 ||
        hex_bytes(code, x->code, EXPLAIN_CODE, &code_bytes) < 0 || json_array_size(list) > EXPLAIN_INSNS || cpl < 0 ||
        cpl > 3 || links < 0 || links > 255 || exits < 0 || exits > 255)
        return -EPROTO;
    x->cpl = (u8)cpl;
    x->links = (u8)links;
    x->exits = (u8)exits;
    x->code_bytes = (u32)code_bytes;
    x->n = (u32)json_array_size(list);
    for (u32 i = 0; i < x->n; i++)
        if (insn_from_json(&x->insn[i], json_array_get(list, i)) < 0)
            return -EPROTO;
    return 0;
}

int explain_from_json(struct engine_explain *x, const json_t *j, struct error *e)
{
    *x = (struct engine_explain){0};
    if (body_from_json(x, j) < 0)
        return error_set(e, EPROTO, "explain: an answer that is none");
    return explain_check(x, e);
}
