#!/usr/bin/env python3
"""Each rule of tools/check-house against a small tree that breaks it, and one that does not."""
import os
import subprocess
import tempfile
import unittest

import tap

GOOD = {
    ".clang-format": "BasedOnStyle: LLVM\n",
    "src/base/types.h": "#include <stdint.h>\ntypedef uint8_t u8;\n",
    "src/machine/mem/mem.h": '#include "base/types.h"\nu8 *mem_at(void);\n',
    "src/machine/mem/mem.c": '#include "machine/mem/mem.h"\nu8 *mem_at(void) { return 0; }\n',
    "src/machine/mem/meson.build": "files('mem.c')\n",
    "docs/a.md": "[b](b.md) [web](https://example.org/) [part](#part)\n",
    "docs/b.md": "nothing\n",
}


class CheckHouse(unittest.TestCase):
    def violations(self, changes):
        with tempfile.TemporaryDirectory() as root:
            for name, text in {**GOOD, **changes}.items():
                if text is None:
                    continue
                os.makedirs(os.path.dirname(os.path.join(root, name)) or root, exist_ok=True)
                with open(os.path.join(root, name), "w") as f:
                    f.write(text)
            for command in (["init", "-q"], ["add", "-A"]):
                subprocess.run(["git", "-C", root] + command, check=True)
            p = subprocess.run([os.path.join(tap.ROOT, "tools", "check-house"), root], stdout=subprocess.PIPE, text=True)
            self.assertEqual(p.returncode, 1 if p.stdout else 0)
            return p.stdout

    def refuses(self, changes, *texts):
        said = self.violations(changes)
        self.assertEqual(len(said.splitlines()), 1, said)
        for text in texts:
            self.assertIn(text, said)

    def test_good_tree(self):
        self.assertEqual(self.violations({}), "")

    def test_header_needs_another(self):
        self.refuses({"src/base/x.h": "u8 f(void);\n"}, "src/base/x.h:1:", "does not compile alone", "u8")

    def test_upward_include(self):
        self.refuses({"src/base/x.h": '#include "machine/mem/mem.h"\n'}, "src/base/x.h:1:", "base may not include machine")

    def test_sideways_include(self):
        self.refuses({"src/boot/x.h": '#include "device/y.h"\n', "src/device/y.h": "int y;\n"}, "boot may not include device")

    def test_include_out_of_room(self):
        self.refuses({"src/machine/mem/x.h": '\n#include "../../base/types.h"\n'}, "x.h:2:", "no path from src/")

    def test_include_of_nothing(self):
        said = self.violations({"src/machine/x.h": '#include "base/nothing.h"\n'})
        self.assertIn("no path from src/", said)

    def test_private_header(self):
        change = {"src/machine/mem/mem_internal.h": "int f(void);\n"}
        user = '#include "machine/mem/mem_internal.h"\n'
        self.assertEqual(self.violations({**change, "src/machine/mem/x.h": user, "tests/machine/x.h": user}), "")
        self.refuses({**change, "src/machine/irq/x.h": user}, "is private to src/machine/mem")
        self.refuses({**change, "tests/boot/x.h": user}, "is private to src/machine/mem")

    def test_platform_header(self):
        self.assertEqual(self.violations({"src/host/linux/x.h": "#include <sys/eventfd.h>\n"}), "")
        self.refuses({"src/machine/x.h": "#include <sys/eventfd.h>\n"}, "platform headers")
        self.refuses({"src/device/x.h": "#include <unistd.h>\n"}, "platform headers")
        self.assertEqual(self.violations({"src/vm/x.h": "#include <unistd.h>\n"}), "")
        self.refuses({"src/vm/x.h": "#include <sys/eventfd.h>\n"}, "platform headers")

    def test_decoder(self):
        if not os.path.exists("/usr/include/Zydis/Zydis.h"):
            self.skipTest("libzydis-dev is not installed")
        include = "#include <Zydis/Mnemonic.h>\n"
        self.assertEqual(self.violations({"src/isa/decode.h": include}), "")
        self.refuses({"src/isa/class.h": include}, "only isa/decode.c")

    def test_unlisted_source(self):
        self.refuses({"src/machine/x.c": "int x;\n"}, "src/machine/x.c:1:", "in no meson.build")
        self.assertEqual(self.violations({"src/machine/x.c": "int x;\n", "src/machine/meson.build": "files('x.c')"}), "")
        self.assertEqual(self.violations({"src/machine/sub/x.c": "int x;\n", "src/machine/meson.build": "files('sub/x.c')"}),
                         "")

    def test_source_listed_in_parts(self):
        parts = "foreach t : ['a', 'b']\n  executable(t, 'sys_' + t + '.c')\nendforeach\n"
        self.assertEqual(self.violations({"tests/isa/sys_a.c": "int x;\n", "tests/isa/meson.build": parts}), "")
        self.refuses({"tests/isa/sys_c.c": "int x;\n", "tests/isa/meson.build": parts}, "in no meson.build")

    def test_layout(self):
        self.refuses({"src/base/x.h": "int   x;\n"}, "src/base/x.h:1: layout")

    def test_path_outside(self):
        self.refuses({"notes.txt": "fine\nsee /wo" "rk/somewhere\n"}, "notes.txt:2:", "outside the tree")

    def test_dead_link(self):
        self.refuses({"docs/a.md": "[c](c.md)\n"}, "docs/a.md:1:", "link to c.md")
        self.refuses({"docs/a.md": "[c](../../c.md)\n"}, "docs/a.md:1:", "link to ../../c.md")

    def test_only_what_git_knows(self):
        with tempfile.TemporaryDirectory() as root:
            subprocess.run(["git", "-C", root, "init", "-q"], check=True)
            with open(os.path.join(root, "x.c"), "w") as f:
                f.write("int   x;\n")
            status = subprocess.run([os.path.join(tap.ROOT, "tools", "check-house"), root]).returncode
            self.assertEqual(status, 0)


if __name__ == "__main__":
    tap.main()
