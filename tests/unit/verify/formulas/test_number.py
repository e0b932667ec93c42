import random
from fractions import Fraction

import pytest

from rlvr.verify.formulas.number import Number, close, read_number


def value(text: str) -> Fraction | None:
    number = read_number(text)
    return None if number is None else number.value


def spellings(n: int, d: int) -> list[str]:
    sign = "-" if n < 0 else ""
    whole, rest = divmod(abs(n), d)
    return [
        f"{n}/{d}",
        f"{n} / {d}",
        rf"\frac{{{n}}}{{{d}}}",
        rf"{sign}\frac{{{abs(n)}}}{{{d}}}",
        rf"{sign}{whole}\frac{{{rest}}}{{{d}}}",
        rf"{sign}{whole} \frac {{{rest}}} {{{d}}}",
        f"{sign}{whole} {rest}/{d}",
    ]


def test_every_spelling_of_a_fraction_is_that_fraction(seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(200):
        n, d = dice.randint(-500, 500), dice.randint(1, 500)
        for text in spellings(n, d):
            assert value(text) == Fraction(n, d), text


def test_every_spelling_of_an_integer_and_a_decimal(seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(200):
        n = dice.randint(-(10**9), 10**9)
        assert value(str(n)) == value(f"{n:,}") == value(f"{n}.0") == value(f" {n} ") == n
        assert value(f"{n:,}".replace(",", " ")) == n
        places = dice.randint(1, 8)
        assert value(f"{n / 10**places:.{places}f}") == Fraction(f"{n / 10**places:.{places}f}")
        exponent = dice.randint(-30, 30)
        expected = n * Fraction(10) ** exponent
        assert value(rf"{n} \times 10^{{{exponent}}}") == value(f"{n}e{exponent}") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [(".5", Fraction(1, 2)), (r"\frac12", Fraction(1, 2)), (r"\frac9{19}", Fraction(9, 19))]
    + [("+2", Fraction(2)), (r"6 \cdot 10^3", Fraction(6000)), ("- 5", Fraction(-5))],
)
def test_short_forms(text: str, expected: Fraction) -> None:
    assert value(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "-", "x", "1/0", r"\frac{1}{0}", "12,34", "1,2", "1 2", "2^3", "5_8", "1e9999", "1..2"]
    + ["\u0665", "9" * 10_000, "1/2/3", r"\frac{a}{2}", "--5", "infinity", "nan"],
)
def test_anything_else_is_no_number(text: str) -> None:
    assert read_number(text) is None


def test_only_a_decimal_leaves_room_for_rounding() -> None:
    third = Number(Fraction(1, 3), False, False)
    assert Number(Fraction("0.333333"), True, False).equals(third)
    assert not Number(Fraction("0.3333"), True, False).equals(third)
    assert not Number(Fraction(333333, 1000000), False, False).equals(third)


def test_room_for_rounding_shrinks_with_small_numbers() -> None:
    assert close(Fraction("1000000.0000009"), Fraction(1000000))
    assert not close(Fraction("1000000.01"), Fraction(1000000))
    assert not close(Fraction("0.0000674"), Fraction("0.0000672"))
    assert not close(Fraction("1e-30"), Fraction(0))
