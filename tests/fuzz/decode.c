/* Any bytes as an instruction, in each width: what comes back describes no more bytes than there are, and is the same twice. */
#include "fuzz.h"
#include "isa/class.h"
#include "isa/decode.h"

static void check(const struct isa_insn *i, size_t avail)
{
    FUZZ_CHECK(i->len >= 1 && i->len <= ISA_MAX_LEN && i->len <= avail);
    FUZZ_CHECK(i->n_ops <= ISA_MAX_OPS && i->cls < ISA_CLASSES);
    FUZZ_CHECK(i->off_opcode < i->len && i->off_modrm < i->len && i->off_sib < i->len && i->off_rex < i->len);
    FUZZ_CHECK(i->off_disp + i->disp_len <= i->len && i->off_imm + i->imm_len <= i->len);
    FUZZ_CHECK(!i->has_rex || i->off_rex < i->off_opcode);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
    if (!len)
        return 0;
    for (enum isa_mode mode = ISA_MODE_16; mode <= ISA_MODE_64; mode++) {
        struct isa_insn a = {0}, b = {0};
        int rc = isa_decode(mode, data, len, &a);
        FUZZ_CHECK(rc >= ISA_DECODE_OK && rc <= ISA_DECODE_TOO_LONG);
        FUZZ_CHECK(rc != ISA_DECODE_SHORT || len < ISA_MAX_LEN);
        if (rc)
            continue;
        check(&a, len);
        FUZZ_CHECK(isa_decode(mode, data, a.len, &b) == ISA_DECODE_OK); /* no byte behind it counts */
        FUZZ_CHECK(a.len == b.len && a.mnemonic == b.mnemonic && a.cls == b.cls);
        const char *reason = NULL;
        FUZZ_CHECK(isa_classify(&a, &reason) == (enum isa_class)a.cls && reason);
        char text[128];
        isa_format(&a, 0xffffffffffffff00, text, sizeof(text));
        FUZZ_CHECK(memchr(text, 0, sizeof(text)));
    }
    return 0;
}
