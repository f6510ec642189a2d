/* What is read of somebody's documents: names, digests, manifests, indexes, configurations. */
#include "image/image.h"
#include "image/layer.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define HEX "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

static void test_references(void **state)
{
    static const struct {
        const char *typed, *full; /* NULL: refused */
    } cases[] = {
        {"debian", "docker.io/library/debian:latest"},
        {"debian:12", "docker.io/library/debian:12"},
        {"index.docker.io/debian", "docker.io/library/debian:latest"},
        {"me/it", "docker.io/me/it:latest"},
        {"localhost/x", "localhost/x:latest"},
        {"127.0.0.1:5000/a/b_c:T.1", "127.0.0.1:5000/a/b_c:T.1"},
        {"[::1]:5000/a", "[::1]:5000/a:latest"},
        {"a--b__c.d", "docker.io/library/a--b__c.d:latest"},
        {"debian@sha256:" HEX, "docker.io/library/debian@sha256:" HEX},
        {"x:1@sha256:" HEX, "docker.io/library/x:1@sha256:" HEX},
        {"", NULL},
        {"Debian", NULL},
        {"a//b", NULL},
        {"/a", NULL},
        {"a/", NULL},
        {"../a", NULL},
        {"a/../b", NULL},
        {"a...b", NULL},
        {"a___b", NULL},
        {"-a", NULL},
        {"a-", NULL},
        {"a:", NULL},
        {"a:-x", NULL},
        {"a:b:c", NULL},
        {"a@sha256:12", NULL},
        {"a@md5:" HEX, NULL},
        {"h.x:99999999/a", NULL},
        {"h.x:/a", NULL},
        {"a b", NULL},
        {"a\n", NULL},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct reference r;
        struct error e = {0};
        char full[REFERENCE_TEXT];
        int rc = reference_parse(&r, cases[i].typed, &e);
        if (!cases[i].full) {
            if (rc != -EINVAL)
                print_error("accepted: %s\n", cases[i].typed);
            assert_int_equal(rc, -EINVAL);
            continue;
        }
        assert_int_equal(rc, 0);
        reference_full(&r, full);
        assert_string_equal(full, cases[i].full);
    }
}

static void test_digests(void **state)
{
    char out[DIGEST_TEXT];
    digest_of("", 0, out); /* FIPS 180-4, the empty message */
    assert_string_equal(out, "sha256:" HEX);
    assert_false(digest_valid("sha256:" HEX "0"));
    assert_false(digest_valid("sha256:../../../../../../../../../../../../../../../../../../../../../../etc"));
    assert_false(digest_valid("sha256:E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855"));
    assert_false(digest_valid(NULL));
}

#define CONFIG "{\"mediaType\":\"" TYPE_OCI_CONFIG "\",\"digest\":\"sha256:" HEX "\",\"size\":2}"
#define LAYER  "{\"mediaType\":\"" TYPE_OCI_LAYER "+gzip\",\"digest\":\"sha256:" HEX "\",\"size\":9}"

static int parse(const char *text)
{
    static struct manifest m;
    struct error e = {0};
    int r = manifest_parse(&m, text, strlen(text), &e);
    assert_true(r == 0 || e.msg[0]);
    return r;
}

static void test_manifests(void **state)
{
    assert_int_equal(parse("{\"schemaVersion\":2,\"config\":" CONFIG ",\"layers\":[" LAYER "," LAYER "]}"), 0);
    static const char *const bad[] = {
        "",
        "[]",
        "{",
        "{\"schemaVersion\":1,\"config\":" CONFIG ",\"layers\":[]}",
        "{\"schemaVersion\":2,\"config\":" CONFIG "}",
        "{\"schemaVersion\":2,\"layers\":[]}",
        "{\"schemaVersion\":2,\"schemaVersion\":2,\"config\":" CONFIG ",\"layers\":[]}",
        /* an index to one reader, a manifest to another */
        "{\"schemaVersion\":2,\"config\":" CONFIG ",\"layers\":[],\"manifests\":[]}",
        "{\"schemaVersion\":2,\"mediaType\":\"" TYPE_OCI_INDEX "\",\"config\":" CONFIG ",\"layers\":[]}",
        "{\"schemaVersion\":2,\"config\":" LAYER ",\"layers\":[]}",
        "{\"schemaVersion\":2,\"config\":" CONFIG ",\"layers\":[" CONFIG "]}",
        "{\"schemaVersion\":2,\"config\":" CONFIG ",\"layers\":[3]}",
        "{\"schemaVersion\":2,\"config\":" CONFIG ",\"layers\":[{\"mediaType\":\"" TYPE_OCI_LAYER
        "\",\"digest\":\"sha256:" HEX "\",\"size\":-1}]}",
        "{\"schemaVersion\":2,\"config\":" CONFIG ",\"layers\":[{\"mediaType\":\"" TYPE_OCI_LAYER
        "\",\"digest\":\"sha256:../../x\",\"size\":1}]}",
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_true(parse(bad[i]) < 0);
}

static void test_too_many_layers(void **state)
{
    char *text = malloc(200 * (IMAGE_LAYERS_MAX + 2) + 1000), *p = text;
    p += sprintf(p, "{\"schemaVersion\":2,\"config\":%s,\"layers\":[", CONFIG);
    for (int i = 0; i <= IMAGE_LAYERS_MAX; i++)
        p += sprintf(p, "%s%s", i ? "," : "", LAYER);
    sprintf(p, "]}");
    assert_int_equal(parse(text), -E2BIG);
    free(text);
}

static void test_depth(void **state)
{
    size_t n = 1u << 20;
    char *text = malloc(2 * n + 1);
    memset(text, '[', n);
    memset(text + n, ']', n);
    text[2 * n] = 0;
    assert_int_equal(parse(text), -EBADMSG);
    free(text);
}

#define ENTRY(arch, variant, hex)                                                                     \
    "{\"mediaType\":\"" TYPE_OCI_MANIFEST "\",\"digest\":\"sha256:" hex "\",\"size\":5,\"platform\":" \
    "{\"os\":\"linux\",\"architecture\":\"" arch "\"" variant "}}"
#define HEX_A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define HEX_B "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

static void test_platforms(void **state)
{
    static const struct {
        const char *text, *digest;
    } cases[] = {
        {"{\"manifests\":[" ENTRY("arm64", "", HEX_A) "," ENTRY("amd64", "", HEX_B) "]}", "sha256:" HEX_B},
        {"{\"manifests\":[" ENTRY("amd64", ",\"variant\":\"v3\"", HEX_A) "," ENTRY("amd64", "", HEX_B) "]}",
         "sha256:" HEX_B},
        {"{\"manifests\":[" ENTRY("386", "", HEX_A) "]}", "sha256:" HEX_A},
        {"{\"manifests\":[" ENTRY("unknown", "", HEX_A) "]}", NULL},
        {"{\"manifests\":[]}", NULL},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct image_descriptor d;
        struct error e = {0};
        int r = manifest_choose(cases[i].text, strlen(cases[i].text), &d, &e);
        assert_int_equal(r, cases[i].digest ? 0 : -ENOENT);
        if (r == 0)
            assert_string_equal(d.digest, cases[i].digest);
    }
}

static void test_configurations(void **state)
{
    static const struct {
        const char *text;
        int r;
    } cases[] = {
        {"{\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"sha256:" HEX "\"]},\"config\":{\"Env\":[\"A=b\"]}}", 0},
        {"{\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[]},\"config\":null}", 0},
        {"{\"rootfs\":{\"type\":\"other\",\"diff_ids\":[]}}", -EBADMSG},
        {"{\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"../x\"]}}", -EINVAL},
        {"{\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[]},\"config\":{\"Env\":[1]}}", -EBADMSG},
        {"{\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[]},\"config\":{\"Cmd\":\"sh\"}}", -EBADMSG},
        {"{\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[]},\"os\":\"windows\"}", -ENOTSUP},
        {"{\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[]},\"architecture\":\"arm64\"}", -ENOTSUP},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct image_config c;
        struct error e = {0};
        assert_int_equal(image_config_parse(&c, cases[i].text, strlen(cases[i].text), &e), cases[i].r);
        image_config_free(&c);
    }
}

/* config.md: ChainID(A) = A, ChainID(A|B) = digest(ChainID(A) " " DiffID(B)). */
static void test_chain(void **state)
{
    char chain[DIGEST_TEXT] = "", expected[DIGEST_TEXT];
    const char *both = "sha256:" HEX_A " sha256:" HEX_B;
    layer_chain(chain, "sha256:" HEX_A);
    assert_string_equal(chain, "sha256:" HEX_A);
    layer_chain(chain, "sha256:" HEX_B);
    digest_of(both, strlen(both), expected);
    assert_string_equal(chain, expected);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_references),      cmocka_unit_test(test_digests), cmocka_unit_test(test_manifests),
        cmocka_unit_test(test_too_many_layers), cmocka_unit_test(test_depth),   cmocka_unit_test(test_platforms),
        cmocka_unit_test(test_configurations),  cmocka_unit_test(test_chain),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
