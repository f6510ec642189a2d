"""An interpreter's work: integers, dictionaries, strings, classes, generators, recursion, sorting, floats."""


class Node:
    __slots__ = ("key", "left", "right")

    def __init__(self, key):
        self.key, self.left, self.right = key, None, None


def insert(root, key):
    while True:
        side = "left" if key < root.key else "right"
        below = getattr(root, side)
        if below is None:
            setattr(root, side, Node(key))
            return
        root = below


def walk(node):
    if node:
        yield from walk(node.left)
        yield node.key
        yield from walk(node.right)


def numbers(n, seed=42):
    for _ in range(n):
        seed = (seed * 1103515245 + 12345) & 0x7FFFFFFF
        yield seed >> 8


def queens(n, row=0, columns=0, left=0, right=0):
    if row == n:
        return 1
    found = 0
    free = ~(columns | left | right) & ((1 << n) - 1)
    while free:
        bit = free & -free
        free ^= bit
        found += queens(n, row + 1, columns | bit, (left | bit) << 1, (right | bit) >> 1)
    return found


def words(path):
    count = {}
    with open(path) as f:
        for line in f:
            for word in line.replace("(", " ").replace(".", " ").split():
                count[word] = count.get(word, 0) + 1
    return sorted(count.items(), key=lambda item: (-item[1], item[0]))[:20]


def logistic(n):
    x = 0.5
    total = 0.0
    for _ in range(n):
        x = 3.75 * x * (1.0 - x)
        total += x
    return total


def main():
    root = Node(1 << 22)
    for n in numbers(40000):
        insert(root, n)
    print("tree", sum(k * (i & 7) for i, k in enumerate(walk(root))))
    print("queens", queens(9))
    for name in ("inspect", "argparse", "datetime", "typing"):
        for word, n in words(f"/usr/lib/python3.11/{name}.py"):
            print(n, word)
    print("sorted", " ".join(sorted(f"{n:x}" for n in numbers(60000))[::5000]))
    print("logistic", repr(logistic(600000)))
    print("digits", str(3**8000 // 7**2500)[-40:])


main()
