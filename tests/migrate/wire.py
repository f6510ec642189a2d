#!/usr/bin/env python3
"""A wire with faults: sits between `trapeze migrate` and `trapeze receive` and does one bad thing at one message.

    wire.py --listen ADDR --to ADDR [--trace FILE] [RULE]..         ADDR: HOST:PORT or unix:PATH

It knows where a message ends (docs/migration-stream.md: type, version, instance, length, checksum, 16 bytes), and no more; a
connection that begins with anything else, as TLS does, is passed on as it is. Messages are counted over all connections.

A rule is DIRECTION:TYPE:N:ACTION[=ARG]: "up" is from who connects, "down" to him; TYPE four letters, or * for any; N counts from 1;
it happens once. ROUN>PAGE is the first PAGE behind a ROUN, PAGE<MACH a PAGE before MACH (it waits until the next message is known).

    cut          both ends see a reset, the message is lost     cut-after     the same, after it has arrived
    hole         no packet passes in either direction any more, hole-after    the same, after it has arrived
                 none is acknowledged, and new connections hang, until "heal"; TCP goes on then, if it is still there
                 (unix sockets: nothing is passed on until then)
    truncate=K   K bytes of it (default: half), then the end    drop          it is left out
    double       it comes twice                                 swap          it comes after the next one
    flip=B       bit B of it is turned (default: the middle;    delay=MS      it comes later
                 negative: from its end)                        hold          it comes when somebody says "release"
    mend=B       bit B of its payload is turned, and its        edit          a function of the caller's changes it
                 checksum made right again

Says "listening ADDR", then "fired RULE" for each that happened. Commands on standard input: cut, hole, heal, release; it ends with it.
As a module: Wire(listen, to, rules, edit=f) with start, cut, hole, heal, release, end, and what happened in .log and .fired.
"""
import argparse
import asyncio
import ctypes
import fcntl
import socket
import struct
import sys
import termios
import threading

HEADER = struct.Struct("<4sHHII")
LONGEST = 64 << 20  # of a message: MESSAGE_BYTES_MAX
ROOM = 1 << 20
WITH_NUMBER = {"truncate", "flip", "delay", "mend"}
ACTIONS = WITH_NUMBER | {"cut", "cut-after", "hole", "hole-after", "drop", "double", "swap", "hold", "edit"}


class Rule:
    def __init__(self, text):
        self.text = text
        parts = text.split(":")
        if len(parts) != 4:
            raise ValueError(f"{text}: a rule is DIRECTION:TYPE:N:ACTION[=ARG]")
        self.direction, self.type, n, action = parts
        self.action, _, argument = action.partition("=")
        self.behind, self.before = None, None
        if ">" in self.type:
            self.behind, self.type = self.type.split(">")
        elif "<" in self.type:
            self.type, self.before = self.type.split("<")
        if self.direction not in ("up", "down") or self.action not in ACTIONS or len(self.type) not in (1, 4):
            raise ValueError(f"{text}: no such direction, type or action")
        self.armed = False  # behind: that has been seen
        if argument and self.action not in WITH_NUMBER:
            raise ValueError(f"{text}: {self.action} takes no number")
        self.left, self.argument = int(n), int(argument) if argument else None
        if self.left < 1 or (self.action == "delay" and self.argument is None):
            raise ValueError(f"{text}: a number is missing, or counts from 1")

    def waits(self, direction, kind):
        """Whether it has to know what comes next."""
        return self.before and self.left > 0 and self.direction == direction and self.type == kind

    def meets(self, direction, kind, following):
        """Count this message; whether it is the one."""
        if self.direction != direction:
            return False
        armed = not self.behind or self.armed
        if self.behind:
            self.armed = kind == self.behind or (self.armed and kind != self.type)
        if self.type not in ("*", kind) or not armed or (self.before and self.before != following):
            return False
        self.left -= 1
        return self.left == 0


def flip(record, bit):
    """That bit of a record turned."""
    bits = len(record) * 8
    bit = bits // 2 if bit is None else bit % bits
    out = bytearray(record)
    out[bit // 8] ^= 1 << bit % 8
    return bytes(out)


def crc_table():
    table = []
    for n in range(256):
        for _ in range(8):
            n = n >> 1 ^ (0x82F63B78 if n & 1 else 0)
        table.append(n)
    return table


CRC_TABLE = crc_table()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def with_payload(record, payload):
    """The record with another payload, its length and checksum right."""
    kind, version, instance, _, _ = HEADER.unpack(record[:HEADER.size])
    return HEADER.pack(kind, version, instance, len(payload), crc32c(payload)) + payload


def is_header(head):
    return len(head) == HEADER.size and all(c in b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 " for c in head[:4])


SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27
DROP_ALL = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))  # one instruction of BPF: return 0


def block(s):
    """The kernel drops each packet that comes to a socket before TCP sees it: no acknowledgement, no reset, no new connection."""
    if s.family != socket.AF_UNIX:
        s.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(DROP_ALL)))


def unblock(s):
    try:
        s.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
    except OSError:
        pass  # it had none


class Link:
    """One connection: what came, and where it goes on to."""

    def __init__(self, near, far):
        self.near, self.far = near, far  # pairs of reader and writer

    def sockets(self):
        found = [w.get_extra_info("socket") for _, w in (self.near, self.far)]
        return [s for s in found if s and s.fileno() >= 0]

    def reset(self):
        for s in self.sockets():
            unblock(s)  # a reset comes through
        for _, writer in (self.near, self.far):
            s = writer.get_extra_info("socket")
            try:
                if s and s.family != socket.AF_UNIX:
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            except OSError:
                pass  # this end is closed already
            writer.transport.abort()


class Wire:
    def __init__(self, listen, to, rules=(), say=None, edit=None):
        self.listen, self.to = listen, to
        self.edit = edit  # of a record's bytes, gives others
        self.rules = [Rule(r) for r in rules]
        self.say = say or (lambda *_: None)
        self.log = []  # (direction, type, length) of each message that was read
        self.fired = []
        self.links, self.tasks, self.gates = set(), set(), []
        self.address = None

    # --- in the loop ---

    def match(self, direction, kind, following=None):
        """The rule for a message. All count it; two for one message: the first."""
        rules = [r for r in self.rules if r.meets(direction, kind, following)]
        if rules:
            rules[0].gate = asyncio.Event()
            self.gates.append(rules[0].gate)
            self.fired.append(rules[0].text)
            self.say("fired", rules[0].text)
        return rules[0] if rules else None

    def close_hole(self):
        self.open.set()
        for s in self.all_sockets():
            unblock(s)

    def open_hole(self):
        self.open.clear()
        for s in self.all_sockets():
            block(s)

    def all_sockets(self):
        return [s for link in self.links for s in link.sockets()] + list(self.server.sockets)

    async def arrived(self, writer):
        """Wait until the other end has acknowledged everything: what is cut off now loses nothing."""
        s = writer.get_extra_info("socket")
        for _ in range(2000):
            held = struct.unpack("i", fcntl.ioctl(s.fileno(), termios.TIOCOUTQ, bytes(4)))[0] if s.fileno() >= 0 else 0
            if not held and not writer.transport.get_write_buffer_size():
                break
            await asyncio.sleep(0.001)

    async def put(self, writer, data):
        await self.open.wait()
        writer.write(data)
        await writer.drain()

    async def act(self, link, writer, record, rule, held):
        """Pass a message on, by its rule. Whether the connection goes on."""
        action = rule.action if rule else None
        if action == "swap":
            held.append(record)
            return True
        if action == "cut":
            link.reset()
            return False
        if action == "hole":
            self.open_hole()
        elif action == "flip":
            record = flip(record, rule.argument)
        elif action == "delay":
            await asyncio.sleep(rule.argument / 1000)
        elif action == "hold":
            await rule.gate.wait()
        elif action == "mend":
            record = with_payload(record, flip(record[HEADER.size:], rule.argument))
        elif action == "edit":
            record = self.edit(record)
        elif action == "truncate":
            part = len(record) // 2 if rule.argument is None else rule.argument
            await self.put(writer, record[:part])
            for _, w in (link.near, link.far):
                w.close()
            return False
        for _ in range({"drop": 0, "double": 2}.get(action, 1)):
            await self.put(writer, record)
        while held:
            await self.put(writer, held.pop(0))
        if action in ("hole-after", "cut-after"):
            await self.arrived(writer)
        if action == "hole-after":
            self.open_hole()
        elif action == "cut-after":
            link.reset()
        return action != "cut-after"

    async def pass_on(self, reader, writer, begun):
        """What has no messages that we know, as it is."""
        await self.put(writer, begun)
        while True:
            data = await reader.read(65536)
            if not data:
                break
            await self.put(writer, data)

    async def messages(self, link, direction, reader, writer):
        held, waiting = [], None
        while True:
            try:
                record = await reader.readexactly(HEADER.size)
            except asyncio.IncompleteReadError:
                if waiting:
                    await self.act(link, writer, waiting[1], self.match(direction, waiting[0]), held)
                raise
            kind, _, _, length, _ = HEADER.unpack(record)
            if not is_header(record) or length > LONGEST:
                await self.pass_on(reader, writer, record)
                return
            try:
                record += await reader.readexactly(length)
            except asyncio.IncompleteReadError as e:
                raise asyncio.IncompleteReadError(record + e.partial, None)
            kind = kind.decode()
            self.log.append((direction, kind, length))
            self.say(direction, kind, length)
            if waiting and not await self.act(link, writer, waiting[1], self.match(direction, waiting[0], kind), held):
                return
            waiting = (kind, record) if any(r.waits(direction, kind) for r in self.rules) else None
            if not waiting and not await self.act(link, writer, record, self.match(direction, kind), held):
                return

    async def pump(self, link, direction, reader, writer):
        try:
            try:
                await self.messages(link, direction, reader, writer)
            except asyncio.IncompleteReadError as e:
                if e.partial:
                    await self.put(writer, e.partial)
            await self.open.wait()
            if not writer.transport.is_closing():
                writer.write_eof()
        except (ConnectionError, OSError):
            await self.open.wait()
            link.reset()

    async def serve(self, reader, writer):
        link = None
        self.tasks.add(asyncio.current_task())
        try:
            await self.open.wait()
            if self.to.startswith("unix:"):
                far = await asyncio.open_unix_connection(self.to[5:], limit=ROOM)
            else:
                host, _, port = self.to.rpartition(":")
                far = await asyncio.open_connection(host.strip("[]"), int(port), limit=ROOM)
            link = Link((reader, writer), far)
            self.links.add(link)
            if not self.open.is_set():  # since then
                self.open_hole()
            await asyncio.gather(self.pump(link, "up", reader, far[1]), self.pump(link, "down", far[0], writer))
        except OSError:
            Link((reader, writer), (reader, writer)).reset()
        except asyncio.CancelledError:
            pass
        finally:
            self.tasks.discard(asyncio.current_task())
            if link:
                self.links.discard(link)
                for _, w in (link.near, link.far):
                    w.close()

    async def main(self, ready):
        self.loop = asyncio.get_running_loop()
        self.open, self.over = asyncio.Event(), asyncio.Event()
        self.open.set()
        if self.listen.startswith("unix:"):
            self.server = await asyncio.start_unix_server(self.serve, self.listen[5:], limit=ROOM)
            self.address = self.listen
        else:
            host, _, port = self.listen.rpartition(":")
            self.server = await asyncio.start_server(self.serve, host.strip("[]"), int(port), limit=ROOM)
            self.address = f"{host}:{self.server.sockets[0].getsockname()[1]}"
        ready.set()
        await self.over.wait()
        self.server.close()
        for link in list(self.links):
            link.reset()
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- from outside ---

    def start(self):
        """Listen, in a thread of its own; returns where."""
        ready, failed = threading.Event(), []

        def run():
            try:
                asyncio.run(self.main(ready))
            except OSError as e:
                failed.append(e)
                ready.set()

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()
        ready.wait()
        if failed:
            raise failed[0]
        return self.address

    def call(self, f):
        """Have it done in the loop, and wait until it is."""
        done = threading.Event()
        self.loop.call_soon_threadsafe(lambda: (f(), done.set()))
        done.wait()

    def cut(self):
        self.call(lambda: [link.reset() for link in list(self.links)])

    def hole(self):
        self.call(self.open_hole)

    def heal(self):
        self.call(self.close_hole)

    def release(self):
        """What is held now goes on."""
        def open_gates():
            while self.gates:
                self.gates.pop().set()
        self.call(open_gates)

    def end(self):
        if self.thread.is_alive():
            self.call(lambda: self.over.set())
        self.thread.join()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--listen", required=True)
    p.add_argument("--to", required=True)
    p.add_argument("--trace", type=argparse.FileType("w"))
    p.add_argument("rules", nargs="*")
    o = p.parse_args()

    def say(what, *rest):
        if what == "fired":
            print(what, *rest, flush=True)
        if o.trace:
            print(what, *rest, file=o.trace, flush=True)

    try:
        wire = Wire(o.listen, o.to, o.rules, say)
        print("listening", wire.start(), flush=True)
    except (OSError, ValueError) as e:
        sys.exit(f"wire.py: {e}")
    commands = {"cut": wire.cut, "hole": wire.hole, "heal": wire.heal, "release": wire.release}
    for line in sys.stdin:
        commands.get(line.strip(), lambda: print("no such command", flush=True))()
    wire.end()


if __name__ == "__main__":
    main()
