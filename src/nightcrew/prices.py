"""What tokens cost, computed with the price table that genai-prices brings along: no network, no thread."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib.metadata import version

from nightcrew.core.budget import plain_model
from nightcrew.core.model import Usage

A_PROMPT = 100_000
"""Tokens that a turn's prompt is taken to have at most where turns were not told: long ones cost more by the token."""


def cost(models: Iterable[str], usage: Usage) -> tuple[float, str]:
    """US dollars and the table they are from, for the first of these models that the table has; (0.0, "") for none.

    The price is that of an average turn, as often as there were turns.
    """
    if not usage.tokens:
        return 0.0, ""
    prompt = usage.input + usage.cache_read + usage.cache_write
    turns = usage.turns or max(-(-prompt // A_PROMPT), 1)
    for name in dict.fromkeys(each for model in models for each in (model, plain_model(model))):
        if name and (money := _turn(name, prompt / turns, usage, turns)) is not None:
            return money * turns, table()
    return 0.0, ""


@cache
def table() -> str:
    """The table's name and version."""
    return f"genai-prices {version('genai-prices')}"


def _turn(model: str, prompt: float, usage: Usage, turns: int) -> float | None:
    from genai_prices import Usage as Used  # noqa: PLC0415 - a quarter of a second, and 25 MB
    from genai_prices import calc_price  # noqa: PLC0415

    used = Used(
        input_tokens=prompt, output_tokens=usage.output / turns,
        cache_read_tokens=usage.cache_read / turns, cache_write_tokens=usage.cache_write / turns,
    )  # fmt: skip
    try:
        return float(calc_price(used, model).total_price)
    except Exception:  # an unknown model, or one whose prices do not fit: no reason to end a night
        return None
