/*
 * Documents of a NoCloud disk, as the guest's first boot reads them. Must hold: what is read is within its bounds, every value
 * is found by its path, and reading it a second time says the same.
 */
#include "fuzz.h"
#include "yaml.h"

static int read_copy(struct yaml *y, const u8 *data, size_t len)
{
    char *text = malloc(len + 1);
    FUZZ_CHECK(text);
    memcpy(text, data, len);
    text[len] = 0;
    struct error e = {0};
    int r = yaml_parse(y, text, &e);
    FUZZ_CHECK(r == 0 || e.msg[0]);
    free(text);
    return r;
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
    struct yaml first, second;
    int r = read_copy(&first, data, len);
    FUZZ_CHECK(r == read_copy(&second, data, len));
    FUZZ_CHECK(first.n == second.n && first.n <= YAML_PAIRS_MAX);
    for (size_t i = 0; i < first.n; i++) {
        FUZZ_CHECK(memchr(first.v[i].path, 0, YAML_PATH_MAX));
        FUZZ_CHECK(!strcmp(first.v[i].value, second.v[i].value));
        FUZZ_CHECK(strlen(first.v[i].value) <= YAML_TEXT_MAX);
        FUZZ_CHECK(yaml_get(&first, "%s", first.v[i].path) && yaml_has(&first, "%s", first.v[i].path));
    }
    yaml_free(&first);
    yaml_free(&second);
    return 0;
}
