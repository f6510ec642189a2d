"""Calls that fail, and clocks of another host: how tests tell tests/migrate/inject.c. INJECT names the library."""
import mmap
import os
import struct

from harness import Skip

LIBRARY = os.environ.get("INJECT_LIBRARY")
PAGE = struct.Struct("<IIiiIIqq32s64s16s")


class Inject:
    """For the processes that are started in a place from now on."""

    def __init__(self, place):
        if not LIBRARY:
            raise Skip("INJECT_LIBRARY is not set")
        path = os.path.join(place.path, "inject")
        with open(path, "wb") as f:
            f.truncate(4096)
        with open(path, "r+b") as f:
            self.page = mmap.mmap(f.fileno(), 4096)
        self.wall, self.rate = 0, 0
        place.env.update({"LD_PRELOAD": LIBRARY, "INJECT": path})

    def put(self, armed, nth=0, code=0, call="", name="", comm="", for_good=False):
        self.page[4:PAGE.size] = PAGE.pack(0, for_good, nth, code, 0, 0, self.wall, self.rate, call.encode(), name.encode(),
                                           comm.encode())[4:]
        self.page[0:4] = struct.pack("<I", armed)  # last: the rest is there when somebody sees it

    def clocks(self, wall_seconds, rate=0):
        """`rate`: millionths of the speed that the clock has beside the TSC; 0: as it is."""
        self.wall, self.rate = wall_seconds * 1000000000, rate
        self.put(0)

    def arm(self, call, code, nth=1, **more):
        self.put(0)
        self.put(1, nth, code, call, **more)

    def fired(self):
        return PAGE.unpack(self.page[:PAGE.size])[4]

    def disarm(self):
        """How often it has happened."""
        n = self.fired()
        self.page[0:4] = struct.pack("<I", 0)
        return n
