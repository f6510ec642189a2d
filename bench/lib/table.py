"""The values of all rounds, and the table that holds them against the bars."""
import math
import statistics

from lib.measurements import MEASUREMENTS, PROGRAMS, PV_VARIANTS, PV_WORKS, SMALL_CACHE

LAST_COMPUTE_ROW = "crc32"  # of the kit, in the order of its tables
CLOCK_TOLERANCE = 0.02
NEAR_NATIVE, NEAR_LIMIT = 1.5, 1.3  # where TCG is so near to native: so much slower than both is no miss


class Results:
    """values: peer -> name -> a value a round; the rest is what Readings tell, gathered by peer."""

    def __init__(self, peers):
        self.peers = peers
        self.values = {p: {} for p in peers}
        self.sums = {p: {} for p in peers}
        self.wrong = {p: [] for p in peers}
        self.skipped = {p: set() for p in peers}

    def add(self, peer, reading):
        for name, value in reading.values.items():
            self.values[peer].setdefault(name, []).append(value)
        for program, sums in reading.sums.items():
            self.sums[peer].setdefault(program, set()).update(sums)
        self.wrong[peer] += reading.wrong
        self.skipped[peer] |= reading.skipped
        if reading.clocks and abs(reading.clocks[0] / reading.clocks[1] - 1) > CLOCK_TOLERANCE:
            self.wrong[peer].append("clock: %.2f s passed in the guest, %.2f s on the host" % reading.clocks)

    def best(self, peer, name, choose=min):
        """The best of all rounds, or what else `choose` takes of them; or None."""
        values = self.values.get(peer, {}).get(name)
        return choose(values) if values else None

    def ratio(self, above, below, name):
        """How many times slower the peer `above` is than `below`, or None."""
        a, b = self.best(above, name), self.best(below, name)
        return None if a is None or b is None else a / b


def geometric_mean(values):
    """None when there is none, or one is missing."""
    values = list(values)
    return math.exp(sum(map(math.log, values)) / len(values)) if values and None not in values else None


def show(value):
    if value is None or isinstance(value, str):
        return value or "-"
    return str(value) if isinstance(value, int) else f"{value:.0f}" if value >= 100 else f"{value:.2f}"


class Row:
    """A line of the table: by peer a value, the bar for Trapeze's, and what explains it. bar None: there is none."""

    def __init__(self, text, unit, values, bar=None, more=False, notes=()):
        self.text, self.unit, self.values, self.bar, self.more = text, unit, values, bar, more
        self.notes = list(notes)

    def verdict(self):
        value = self.values.get("trapeze")
        if value is None:
            return "NOT MEASURED"
        met = self.bar is None or (value >= self.bar if self.more else value <= self.bar)
        return "" if met else "MISSED"

    def print(self, peers):
        bar = "" if self.bar is None else f"{'>=' if self.more else '<='} {show(self.bar)}"
        cells = "".join(f"{show(self.values.get(p)):>11}" for p in peers)
        print(f"{self.text:44} {self.unit:>4} {bar:>9}{cells}   {self.verdict()}".rstrip())
        for note in self.notes:
            print(f"    {note}")


def best_row(results, text, unit, name, bar=None, more=False):
    choose = max if more else min
    return Row(text, unit, {p: results.best(p, name, choose) for p in results.peers}, bar, more)


# --- rows of each measurement ---

def boot_rows(results, _):
    # no bar without TCG; one that nothing meets when TCG did not boot
    bar = results.best("tcg", "boot") or math.nan if "tcg" in results.peers else None
    return [best_row(results, "start to init, Debian's kernel", "s", "boot", bar)]


def simple_rows(results, _):
    return [best_row(results, "simple instructions a second", "M/s", "simple", 40, True)]


def idle_rows(results, _):
    return [best_row(results, "idle guest, share of a core", "%", "idle", 1),
            best_row(results, "PSS less guest memory", "MiB", "pss", 48)]


def wrong_programs(results):
    """By peer, the programs whose output is not what it is natively (or, without native, under the last peer)."""
    reference = "native" if "native" in results.peers else results.peers[-1]
    right = results.sums[reference]
    return {p: [f for f in PROGRAMS if len(results.sums[p].get(f, ())) != 1 or results.sums[p][f] != right.get(f)]
            for p in results.peers}


def programs_rows(results, _):
    names = [f"program/{p}" for p in PROGRAMS]
    rows = [best_row(results, f"program: {p}", "s", f"program/{p}") for p in PROGRAMS]
    wrong = wrong_programs(results)
    rows.append(Row("programs with a wrong result", "", {p: len(w) for p, w in wrong.items()}, 0, notes=[
        f"{p}: {' '.join(w)}" for p, w in wrong.items() if w]))
    if "native" in results.peers:
        rows.append(Row("programs, times slower than native (mean)", "", {
            p: geometric_mean(results.ratio(p, "native", n) for n in names) for p in results.peers}, 4))
    if "tcg" in results.peers:
        rows.append(slower_row(results, "programs slower than TCG", names))
    return rows + [busy_row(results, "programs")]


def cache_rows(results, _):
    """The sums of this run were compared with the others: one set a program holds them all."""
    names = [p for p in PROGRAMS if results.best("trapeze", f"small/{p}") is not None]
    slower = []
    for p in names:
        default = results.best("trapeze", f"program/{p}")
        slower.append(results.best("trapeze", f"small/{p}") / default if default else None)
    wrong = wrong_programs(results)["trapeze"]
    done = len([p for p in names if p not in wrong])
    return [Row(f"programs right with --code-cache {SMALL_CACHE}", "", {"trapeze": done}, len(PROGRAMS), True),
            Row("    times slower than with the default", "", {"trapeze": geometric_mean(slower)})]


def cpus_rows(results, _):
    def times(name, above=None):
        values = {}
        for p in results.peers:
            unit, base = results.best(p, name), results.best(p, above) if above else 1
            values[p] = base / unit if unit and base else None
        return values
    return [Row("2 CPUs, integer work: times one", "", times("cpus/2"), 1.7, True),
            Row("4 CPUs on the same host: times 2", "", times("cpus/unit4", "cpus/unit2"), 1, True)]


def pv_rows(results, _):
    """How many times faster with all of it than without a part: above 1, the part helps. Medians, for luck has a large share."""
    def median(name):
        values = results.values["trapeze"].get(name)
        return statistics.median(values) if values else None
    rows = []
    for work in PV_WORKS:
        every = median(f"pv/{work}/all")
        rows.append(Row(f"4 CPUs on the same host: {work}", "ns", {"trapeze": every}))
        for name in PV_VARIANTS:
            without = median(f"pv/{work}/{name}")
            if name != "all":
                rows.append(Row(f"    times faster than with {name}", "", {"trapeze": without / every if every and without else None}))
    return rows


DISK_ROWS = {
    "seqread": ("MB/s", "read 1 MiB, one after the other"), "seqwrite": ("MB/s", "write 1 MiB, one after the other"),
    "read4k": ("op/s", "read 4 KiB anywhere"), "write4k": ("op/s", "write 4 KiB anywhere"),
    "read4k_32": ("op/s", "read 4 KiB anywhere, 32 at once"), "write4k_32": ("op/s", "write 4 KiB anywhere, 32 at once"),
    "sync4k": ("op/s", "write 4 KiB and fdatasync")}


def disk_rows(results, _):
    """Medians: a host's disk has good moments, too. No row below TCG's; flushed writes half as fast as native, too."""
    rows = []
    for name, (unit, text) in DISK_ROWS.items():
        values = {p: results.best(p, f"disk/{name}", statistics.median) for p in results.peers}
        bar = values.get("tcg") or (math.nan if "tcg" in results.peers else None)
        rows.append(Row("disk: " + text, unit, values, bar, True))
        if name == "sync4k" and values.get("native"):
            ours = values.get("trapeze")
            rows.append(Row("    part of native's rate", "", {"trapeze": ours and ours / values["native"]}, 0.5, True))
    return rows + [busy_row(results, "disk")]


def mmio_rows(results, _):
    rows = []
    for name in ("read4k", "read4k_32", "sync4k"):
        over = {way: results.best("trapeze", f"{way}/{name}", statistics.median) for way in ("disk", "mmio")}
        unit, text = DISK_ROWS[name]
        rows.append(Row(f"disk over MMIO: {text}", unit, {"trapeze": over["mmio"]}))
        part = over["mmio"] / over["disk"] if over["mmio"] and over["disk"] else None
        rows.append(Row("    part of the rate over PCI", "", {"trapeze": part}))
    return rows


def slower_row(results, text, names):
    """How many of the rows are slower than TCG by more than they may. Rows that are missing have a line of their own."""
    notes = []
    for name in names:
        slower, near = results.ratio("trapeze", "tcg", name), results.ratio("tcg", "native", name)
        is_near = near is not None and near <= NEAR_NATIVE
        # nobody is asked to be faster than the host, which TCG can be where it need not be atomic
        limit = NEAR_LIMIT * max(1, 1 / near) if is_near else 1
        if slower is not None and slower > limit:
            notes.append(f"{name.split('/')[-1]}: {slower:.2f} times as long as TCG" +
                         (f", which is near native: limit {limit:.2f}" if is_near else ""))
    return Row(text, "", {"trapeze": len(notes)}, 0, notes=notes)


def kit_rows(results, table):
    compute = table[:table.index(LAST_COMPUTE_ROW) + 1]
    notes, counts = [], {}
    for p in results.peers:
        missing = [r for r in table if r not in results.skipped[p] and results.best(p, f"kit/{r}") is None]
        counts[p] = len(missing)
        notes += [f"{p}: {' '.join(missing)}"] if missing else []
    rows = [Row("kit: rows wrong or missing", "", counts, 0, notes=notes)]
    if "tcg" in results.peers:
        known = [r for r in compute if r not in results.skipped["trapeze"] | results.skipped["tcg"]]
        faster = geometric_mean(results.ratio("tcg", "trapeze", f"kit/{r}") for r in known)
        rows += [Row(f"kit: times faster than TCG ({len(known)} compute rows)", "", {"trapeze": faster}, 3, True),
                 slower_row(results, "kit: compute rows slower than TCG", [f"kit/{r}" for r in compute]),
                 slower_row(results, "kit: other rows slower than TCG", [f"kit/{r}" for r in table if r not in compute])]
    return rows + [busy_row(results, "kit")]


def busy_row(results, name):
    return best_row(results, "    CPUs of the host that were busy meanwhile", "", f"{name}/busy")


def wrong_row(results):
    lines = [f"{p}: {line}" for p in results.peers for line in dict.fromkeys(results.wrong[p])]
    return Row("what a guest found wrong", "", {p: len(results.wrong[p]) for p in results.peers}, 0, notes=lines)


ROWS = {"boot": boot_rows, "simple": simple_rows, "idle": idle_rows, "programs": programs_rows, "cache": cache_rows, "cpus": cpus_rows, "pv": pv_rows,
        "disk": disk_rows, "mmio": mmio_rows, "kit": kit_rows}
assert ROWS.keys() == MEASUREMENTS.keys()


# --- printing ---

def print_bars(results, measured, kit_table):
    """The bars of what was measured; how many are missed."""
    rows = [row for m in measured for row in ROWS[m](results, kit_table)] + [wrong_row(results)]
    print(f"{'':49} {'bar':>9}" + "".join(f"{p:>11}" for p in results.peers))
    for row in rows:
        row.print(results.peers)
    return sum(1 for row in rows if row.verdict())


RATIOS = [("trapeze", "native"), ("tcg", "native"), ("tcg", "trapeze")]


def print_ratios(results, measured, kit_table):
    """Every program and row of the kit: each peer's best value, and how many times slower one is than the other."""
    names = [f"program/{p}" for p in PROGRAMS] * ("programs" in measured) + [f"kit/{r}" for r in kit_table] * (
        "kit" in measured)
    ratios = [(a, b) for a, b in RATIOS if a in results.peers and b in results.peers]
    if not names or not ratios:
        return
    print(f"\n{'programs: s; kit: ns an operation or byte':42}" + "".join(f"{p:>11}" for p in results.peers) +
          "".join(f"{a + '/' + b:>16}" for a, b in ratios))
    for name in names:
        values = [results.best(p, name) for p in results.peers]
        row = name.split("/")[1]
        print(f"    {row:38}" + "".join("%11s" % (
            "skipped" if row in results.skipped[p] else "-" if v is None else f"{v:.4g}")
            for p, v in zip(results.peers, values)) +
            "".join(f"{show(results.ratio(a, b, name)):>16}" for a, b in ratios))
