/* The table of instruction classes (isa/class.h), made visible. */
#include "cli/cli.h"
#include "cli/json.h"
#include "isa/class.h"

#include <errno.h>
#include <strings.h>

static const char *form_name(u8 form)
{
    static const char *const names[] = {
        [ISA_FORM_ANY] = "", [ISA_FORM_FAR] = "far", [ISA_FORM_SEG] = "segment", [ISA_FORM_CONTROL] = "control"};
    return form < ARRAY_LEN(names) ? names[form] : "?";
}

static void print_row(const struct isa_class_row *r)
{
    char name[40];
    snprintf(name, sizeof(name), "%s%s%s", isa_mnemonic_name(r->mnemonic), r->form ? " " : "", form_name(r->form));
    printf("%-20s %-16s %s\n", name, isa_class_name(r->cls), r->reason);
}

static json_t *json_row(const struct isa_class_row *r)
{
    return json_pack("{s:s, s:s, s:s, s:s}", "mnemonic", isa_mnemonic_name(r->mnemonic), "form", form_name(r->form),
                     "class", isa_class_name(r->cls), "reason", r->reason);
}

/* Rows of one mnemonic, or all. The number of rows shown. */
static size_t show(const char *mnemonic, json_t *list)
{
    size_t n, hits = 0;
    const struct isa_class_row *rows = isa_class_rows(&n);
    for (size_t i = 0; i < n; i++) {
        if (mnemonic && strcasecmp(mnemonic, isa_mnemonic_name(rows[i].mnemonic)))
            continue;
        if (list)
            json_array_append_new(list, json_row(&rows[i]));
        else
            print_row(&rows[i]);
        hits++;
    }
    return hits;
}

/* Rows a class, when nothing was asked for in particular. */
static int summary(bool json, struct error *e)
{
    size_t n, count[ISA_CLASSES] = {0};
    const struct isa_class_row *rows = isa_class_rows(&n);
    for (size_t i = 0; i < n; i++)
        count[rows[i].cls]++;
    json_t *o = json ? json_object() : NULL;
    for (int c = 0; c < ISA_CLASSES; c++) {
        if (o)
            json_object_set_new(o, isa_class_name(c), json_integer((json_int_t)count[c]));
        else if (count[c])
            printf("%-20s %zu\n", isa_class_name(c), count[c]);
    }
    if (json)
        return cli_json_print(o, e);
    puts("\n`trapeze classify MNEMONIC` shows one, `trapeze classify --all` every row.");
    return CLI_OK;
}

static bool known(const char *mnemonic)
{
    for (u16 m = 1; m <= ZYDIS_MNEMONIC_MAX_VALUE; m++)
        if (!strcasecmp(mnemonic, isa_mnemonic_name(m)))
            return true;
    return false;
}

int verb_classify(const struct args *a, struct error *e)
{
    const char *mnemonic = a->n_operands ? a->operands[0] : NULL;
    bool json = a->number[OPT_FORMAT] != 0;
    if (!mnemonic && !a->given[OPT_ALL_CLASSES])
        return summary(json, e);
    if (mnemonic && a->given[OPT_ALL_CLASSES]) {
        error_set(e, EINVAL, "--all: takes no MNEMONIC beside it; give one of the two");
        return CLI_USAGE;
    }
    if (mnemonic && !known(mnemonic)) {
        error_set(e, EINVAL, "%.40s: no x86 instruction of that name; `trapeze classify --all` lists the table",
                  mnemonic);
        return CLI_USAGE;
    }
    json_t *list = json ? json_array() : NULL;
    size_t hits = show(mnemonic, list);
    if (json)
        return cli_json_print(list, e);
    if (!hits)
        printf("%-20s %-16s %s\n", mnemonic, "no row", "innocuous if its instruction set is on the allow-list");
    return CLI_OK;
}
