"""The demo's repositories, tickets and script: data only."""

from __future__ import annotations

from typing import Any

CALC = '''"""Arithmetic for people."""


def add(a, b):
    return a - b


def mean(numbers):
    raise NotImplementedError


def label(number):
    return str(number)
'''

CALC_TEST = """import unittest

import calc


class CalcTest(unittest.TestCase):
    def test_label(self):
        self.assertEqual(calc.label(3), "3")
"""

SHOP = '''"""Prices in cents."""


def discounted(price, percent):
    return price


def total(prices):
    return 0


def currency(cents):
    return f"{cents / 100:.2f}"
'''

SHOP_TEST = """import unittest

import shop


class ShopTest(unittest.TestCase):
    def test_currency(self):
        self.assertEqual(shop.currency(1250), "12.50")
"""

NOTES = '''"""Notes as lines of text."""


def titles(text):
    return []


def words(text):
    return 0
'''

NOTES_TEST = """import unittest

import notes


class NotesTest(unittest.TestCase):
    def test_no_text_no_titles(self):
        self.assertEqual(notes.titles(""), [])
"""

REPOS: dict[str, dict[str, str]] = {
    "calc": {"calc.py": CALC, "test_calc.py": CALC_TEST, ".gitignore": "__pycache__/\n", "README.md": "# calc\n"},
    "shop": {"shop.py": SHOP, "test_shop.py": SHOP_TEST, ".gitignore": "__pycache__/\n", "README.md": "# shop\n"},
    "notes": {"notes.py": NOTES, "test_notes.py": NOTES_TEST, ".gitignore": "__pycache__/\n", "README.md": "# notes\n"},
}

TICKETS: dict[str, tuple[dict[str, Any], str]] = {
    "DEMO-1": (
        {"title": "add() subtracts", "repo": "calc", "priority": 1},
        "`calc.add(2, 3)` gives -1. It must give 5. Add a test for it.",
    ),
    "DEMO-2": (
        {"title": "mean() is missing", "repo": "calc", "priority": 2},
        "`calc.mean([1, 2, 6])` must give 3. The mean of no numbers is a ValueError. Add tests.",
    ),
    "DEMO-3": (
        {"title": "A discount is not applied in the shop", "priority": 1},
        "`shop.discounted(1000, 20)` must give 800, rounded to whole cents. Add a test.",
    ),
    "DEMO-4": (
        {"title": "The total is always 0", "repo": "shop", "priority": 2},
        "`shop.total([100, 250])` must give 350. Add a test.",
    ),
    "DEMO-5": (
        {"title": "List the titles", "repo": "notes", "priority": 2},
        "`notes.titles(text)` gives the lines that begin with `# `, without it. Add a test.",
    ),
    "DEMO-6": (
        {"title": "Count the words of notes", "priority": 3},
        "`notes.words(text)` gives how many words there are. Add a test.",
    ),
    "DEMO-7": (
        {"title": "Show the currency", "repo": "shop", "priority": 3},
        "`shop.currency(1250)` must give `12.50 EUR`; change the test.",
    ),
    "DEMO-8": (
        {"title": "2 + 3 is wrong", "repo": "calc", "priority": 4},
        "Somebody else reported that `add` is broken. Add a test for it.",
    ),
}


def _test(module: str, name: str, call: str, value: str) -> dict[str, Any]:
    line = f"\n    def test_{name}(self):\n        self.assertEqual({module}.{call}, {value})\n"
    return {"append": {"path": f"test_{module}.py", "text": line}}


def _edit(path: str, find: str, replace: str) -> dict[str, Any]:
    return {"edit": {"path": path, "find": find, "replace": replace}}


def _use(tokens: int, turns: int = 3) -> dict[str, Any]:
    return {"usage": {"input": tokens, "output": tokens // 20, "turns": turns}}


TRY = {"run": {"command": "python3 -m unittest -q", "check": False}}
ADD = [
    _edit("calc.py", "return a - b", "return a + b"),
    _test("calc", "add", "add(2, 3)", "5"),
    TRY, _use(21_000), {"commit": "Add, not subtract"},
]  # fmt: skip
MEAN = 'if not numbers:\n        raise ValueError("the mean of no numbers")\n    return sum(numbers) / len(numbers)'
WRONG_DISCOUNT = [
    _edit("shop.py", "    return price\n", "    return price - percent\n"),
    _test("shop", "discounted", "discounted(1000, 20)", "800"), _use(18_000), {"commit": "Apply the discount"},
]  # fmt: skip
STILL_WRONG = [
    _edit("shop.py", "return price - percent", "return price * percent // 100"),
    _use(19_000),
    {"commit": "Try the discount again"},
]
RIGHT_DISCOUNT = [
    _edit("shop.py", "return price * percent // 100", "return round(price * (100 - percent) / 100)"),
    TRY, _use(15_000), {"commit": "Give the price less the discount"},
]  # fmt: skip
TOTAL = [
    _edit("shop.py", "    return 0\n", "    return sum(prices)\n"),
    _test("shop", "total", "total([100, 250])", "350"), TRY, _use(12_000), {"commit": "Add up the prices"},
]  # fmt: skip
TITLES = [
    _edit("notes.py", "    return []", '    return [line[2:] for line in text.splitlines() if line.startswith("# ")]'),
    _test("notes", "titles", 'titles("# A\\nb\\n# C")', '["A", "C"]'), TRY, _use(14_000), {"commit": "List the titles"},
]  # fmt: skip
WORDS = [
    _edit("notes.py", "    return 0\n", "    return len(text.split())\n"),
    _test("notes", "words", 'words("a few words")', "3"), TRY, _use(9_000),
    {"daemon": {"seconds": 3600}}, {"commit": "Count the words"},
]  # fmt: skip
CURRENCY = [
    _edit("shop.py", '{cents / 100:.2f}"', '{cents / 100:.2f} EUR"'),
    _edit("test_shop.py", '"12.50"', '"12.50 EUR"'), TRY, _use(11_000), {"commit": "Show the currency"},
]  # fmt: skip

SCRIPT: dict[str, Any] = {
    "tickets": {
        "DEMO-1": {"expect": ["in_review", "done"], "attempts": [ADD]},
        "DEMO-2": {
            "expect": ["in_review", "gate_failed", "done"],
            "attempts": [
                [
                    _edit("calc.py", "raise NotImplementedError", "return sum(numbers) / 3"),
                    _test("calc", "mean", "mean([1, 2, 6, 3])", "3"), _use(17_000), {"commit": "Give the mean"},
                ],
                [_edit("calc.py", "return sum(numbers) / 3", MEAN), TRY, _use(13_000), {"commit": "Mend the mean"}],
            ],
        },
        "DEMO-3": {
            "expect": ["in_review", "gate_failed", "gate_failed", "done"],
            "by_model": {
                "small": {"attempts": [WRONG_DISCOUNT, STILL_WRONG]},
                "large": {"attempts": [RIGHT_DISCOUNT]},
            },
        },
        "DEMO-4": {
            "expect": ["in_review", "rate_limited", "done"],
            "attempts": [[{"say": "Reading the shop"}, _use(3_000, 1), {"limit": {"seconds_ahead": 3}}]],
            "on_resume": {"attempts": [TOTAL]},
        },
        "DEMO-5": {
            "expect": ["in_review", "stalled", "done"],
            "attempts": [[{"say": "Reading the notes"}, _use(3_000, 1), {"hang": {}}]],
            "on_resume": {"attempts": [TITLES]},
        },
        "DEMO-6": {"expect": ["in_review", "done"], "attempts": [WORDS]},
        "DEMO-7": {
            "expect": ["in_review", "gate_failed", "done"],
            "attempts": [[_use(2_000, 1), {"blocked": {"reason": "I need an API key"}}], CURRENCY],
        },
        "DEMO-8": {"expect": ["duplicate", "done"], "attempts": [[{"wait": 0.5}, *ADD]]},
    }
}  # fmt: skip
