import json
import random
import time
from fractions import Fraction
from pathlib import Path

import pytest

from rlvr.task import Outcome
from rlvr.verify.math import verify_math

SAME = r"""
integers                | 42                        | 42
sign                    | -5                        | -5.0
plus                    | 2                         | +2
separators              | 10,\!080                  | 10080
separators with spaces  | 11,\! 111,\! 100          | 11,111,100
braced comma            | 1{,}234                   | 1234
unicode minus           | -3                        | −3
decimal and fraction    | \frac{1}{4}               | 0.25
rounded decimal         | \frac{1}{3}               | 0.333333
rounded root            | \sqrt{2}                  | 1.414214
scientific              | 6.02 \times 10^{23}       | 6.02e23
tiny scientific         | 5.3 \times 10^{-9}        | 0.0000000053
mixed number            | 1\frac{4}{5}              | 9/5
short fraction          | \frac43                   | \dfrac{4}{3}
grouped denominator     | \frac{2469}{20,000}       | 0.12345
percent kept            | 50\%                      | 50\%
percent left out        | 50\%                      | 50
percent added           | 50                        | 50\%
percent applied         | 50\%                      | 0.5
percent of a fraction   | \frac{1}{2}               | 50 percent
dollars                 | \$18.90                   | 18.9
degrees                 | 90^\circ                  | 90
degrees in braces       | 22.5^{\circ}              | 22.5 \text{ degrees}
unit of gold            | 5.4 \text{ cents}         | 5.4
unit of response        | 12                        | 12 \text{ cm}^2
mbox unit               | 864 \mbox{ inches}^2      | 864
bare unit               | 18                        | 18 dollars
glued unit              | 10                        | 10cm
compound unit           | 15 \text{ kcal m}^{-2} \text{yr}^{-1} | 15
word                    | \text{Evelyn}             | Evelyn
word and case           | \text{east}               | \textbf{East}
choice                  | \text{(C)}                | C
choice in brackets      | C                         | \text{(C)}
list of words           | \text{A, B, E}            | \text{A,B,E}
base                    | 4210_{5}                  | 4210_5
base left out           | 52_8                      | 52
list in any order       | 3, 5, 7                   | 7,3,5
or                      | 5, 7                      | 7 \text{ or } 5
set braces              | \{1, 2\}                  | 2, 1
plus minus              | 1 \pm \sqrt{19}           | 1-\sqrt{19}, 1+\sqrt{19}
tuple                   | \left( 3, \frac{\pi}{2} \right) | (3, \pi/2)
pair without brackets   | (15,-29)                  | 15, -29
interval                | (3,4]                     | \left(3, 4\right]
interval as inequality  | [-2,7]                    | -2 \le x \le 7
inequality as interval  | -2 \le x \le 7            | [-2,7]
union in any order      | (-\infty, 2) \cup (3, \infty) | (3,\infty)\cup(-\infty,2)
membership              | x \in [-2,7]              | [-2,7]
name dropped            | x=5                       | 5
name added              | 5                         | x = 5
function dropped        | f(x)=2x                   | 2x
names in a list         | x=1, x=2                  | 1, 2
names in any order      | a=2, b=3                  | a=2, b=3
equation turned round   | x^2+y^2=1                 | 1 = y^2+x^2
equation negated        | 5x - 7y + 4 = 0           | 7y - 5x - 4 = 0
equation and its value  | y = 2x + 3                | 2x + 3
matrix | \begin{pmatrix} -1/3 \\ 2 \end{pmatrix} | \begin{bmatrix}-\frac13\\2\end{bmatrix}
root                    | 11\sqrt2                  | \sqrt{242}
expanded                | (a+5)(b+2)                | ab+2a+5b+10
trigonometry            | \cot x                    | \frac{\cos x}{\sin x}
complex                 | 6-5i                      | -5i+6
complex product         | -4                        | (2i)^2
complex quotient        | \frac{1+i}{2}             | \frac{1}{1-i}
factorial               | 120                       | 5!
binomial                | 120                       | \binom{10}{3}
large power             | 2^{2005}                  | 2 \cdot 2^{2004}
huge power, same text   | 9^{9^{9}}                 | 9^{9^9}
approximately           | \frac{22}{7}              | \frac{22}{7} \approx 3.14
chain of equations      | 4                         | 2 + 2 = 4
subscript               | E_{1}                     | E_1
dollar signs            | $90^{\circ}$,$60^{\circ}$ | 60, 90
full stop               | (-\infty, 0) \cup\{1\}    | (-\infty, 0) \cup \{1\}.
gold in a box           | \boxed{7}                 | 7
empty set               | \emptyset                 | \{\}
"""

DIFFERENT = r"""
integers                | 42                        | 43
sign                    | 5                         | -5
close integers          | 1000000                   | 1000001
close fractions         | \frac{1}{3}               | \frac{333333}{1000000}
coarse decimal          | \frac{1}{3}               | 0.33
coarse pi               | \pi                       | 3.14
fraction near pi        | \pi                       | \frac{355}{113}
tiny decimals           | 0.0000672                 | 0.0000674
zero                    | 0                         | 0.0000001
percent and hundredth   | 50                        | 0.5
words                   | \text{even}               | \text{odd}
anagram                 | \text{even}               | neve
bare anagram            | Evelyn                    | nylevE
word and number         | \text{(C)}                | 3
other base              | 52_8                      | 52_7
other digits            | 52_8                      | 53
order in a tuple        | (1,2)                     | (2,1)
interval ends           | (1,2)                     | [1,2]
interval half           | (3,4]                     | [3,4)
missing element         | 1, 2                      | 1
extra element           | 1, 2                      | 1, 2, 3
repeated guess          | 5                         | 5, 6
swapped names           | x=1, y=2                  | 2, 1
other name              | x=5                       | y=5
complex conjugate       | 6-5i                      | 6+5i
variables               | 2k                        | 2m
matrix and tuple        | \begin{pmatrix} 1 \\ 2 \end{pmatrix} | (1, 2)
matrix entries          | \begin{pmatrix} 1 \\ 2 \end{pmatrix} | \begin{pmatrix} 2\\1 \end{pmatrix}
neighbours of a power   | 2^{2005} - 1              | 2^{2005} + 1
division by zero        | \infty                    | \frac{1}{0}
absolute value          | |x|                       | x
"""

UNPARSEABLE = [
    r"9^{9^{9}}",
    r"10^{10^{10}}",
    r"((9!)!)!",
    r"9!!!!!!!!",
    r"100000000!",
    r"\binom{10000000}{5000000}",
    r"\gcd(9^{9^9}, 3)",
    r"\prod_{k=1}^{100000000} k",
    r"\frac{1}{9^{9^9}}",
    r"\log_2 9^{9^9}",
    r"9^{9^9} \mod 7",
    r"(1, 9^{9^9})",
    r"\begin{pmatrix} 1 & 1 \\ 1 & 0 \end{pmatrix}^{99999999}",
    "(" * 500 + "5" + ")" * 500,
    r"\frac{1}{" * 60 + "2" + "}" * 60,
    "{" * 500_000 + "}" * 500_000,
    "x+" * 5_000 + "x",
    "9" * 100_000,
    "5\x00",
    "\ud800",
    "\u202e5",
    "%" * 500,
    ", " * 400,
    r"\frac{1}{",
    r"\notacommand{5}{{",
    '__import__("os").system("true")',
]

# Each took a process to its limit once: gold answer, and what cannot be decided or is wrong.
SLOW = [
    ("5", "(x+1)^{9999}"),
    ("x+1", "(x+y+z+w)^{300}"),
    ("x+1", "x^" * 100 + "x"),
    ("x+1", "|x" * 150),
    (r"\sin x", "+".join(rf"\sin({k}x)" for k in range(1, 60))),
    ("n^2", r"\sum_{k=1}^n k^{500}"),
    ("n^2", r"\sum_{k=1}^{1000} \sin k"),
    ("x = y + 1", "x^{300} + y^{299}x + 3 = 0"),
    ("(1, 2)", "(x+1)^{200} < 3"),
    ("2", r"\sqrt{10^{4000}+1}"),
    ("2", r"\int_0^1 e^{x^x} dx"),
    ("x+1", ", ".join(f"x+{k}" for k in range(60))),
]


def table(text: str) -> list[object]:
    rows = (line.rsplit(" | ", 1) for line in text.strip().splitlines())
    cells = [(*left.split("|", 1), right) for left, right in rows]
    return [pytest.param(gold.strip(), answer.strip(), id=n.strip()) for n, gold, answer in cells]


def boxed(answer: str) -> str:
    return f"Let me think. So the answer is $\\boxed{{{answer}}}$."


@pytest.mark.parametrize(("gold", "answer"), table(SAME))
def test_means_the_same(gold: str, answer: str) -> None:
    verdict = verify_math(gold, boxed(answer))
    assert (verdict.outcome, verdict.reward) == (Outcome.CORRECT, 1.0), verdict.detail


@pytest.mark.parametrize(("gold", "answer"), table(DIFFERENT))
def test_means_something_else(gold: str, answer: str) -> None:
    verdict = verify_math(gold, boxed(answer))
    assert (verdict.outcome, verdict.reward) == (Outcome.INCORRECT, 0.0), verdict.detail


@pytest.mark.parametrize("answer", UNPARSEABLE, ids=lambda a: ascii(a[:20]))
@pytest.mark.parametrize("gold", ["5", r"\frac{\pi}{2} + x", "(1, 2)"])
def test_hostile_answers_are_refused_in_time(gold: str, answer: str) -> None:
    start = time.process_time()
    verdict = verify_math(gold, boxed(answer))
    assert (verdict.outcome, verdict.reward) == (Outcome.UNPARSEABLE, 0.0)
    assert time.process_time() - start < 10


@pytest.mark.parametrize(("gold", "answer"), SLOW, ids=lambda text: ascii(text[:20]))
def test_what_is_long_to_decide_is_told_at_once(gold: str, answer: str) -> None:
    start = time.process_time()
    assert verify_math(gold, boxed(answer)).reward == 0
    assert time.process_time() - start < 3  # a parser that is still cold; a warm one: 0.5


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("the answer is 5", "no "),
        (r"\boxed{5", "never closed"),
        (r"\boxed{}", "empty"),
        (r"\boxed{5} and \boxed{ }", "empty"),
    ],
)
def test_no_answer_is_unparseable(text: str, reason: str) -> None:
    verdict = verify_math("5", text)
    assert verdict.outcome is Outcome.UNPARSEABLE
    assert reason in verdict.detail


def test_a_broken_gold_answer_is_no_verdict() -> None:
    with pytest.raises(ValueError, match="gold answer .* never closed"):
        verify_math(r"\boxed{5", r"\boxed{5}")


def test_the_last_box_counts() -> None:
    assert verify_math("5", r"\boxed{4}, no, \boxed{5}").reward == 1
    assert verify_math("5", r"\boxed{5}, no, \boxed{4}").reward == 0
    assert verify_math("5", "\\boxed{5}" * 10_000 + "\\boxed{6}").reward == 0


def test_answer_line() -> None:
    assert verify_math("34", "Some steps.\n\nAnswer: $34$").reward == 1
    assert verify_math("34", "Some steps.\n\nAnswer: $35$").outcome is Outcome.INCORRECT


def test_random_rationals_agree_with_exact_arithmetic(seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(300):
        a, b, c, d = (dice.randint(1, 12) for _ in range(4))
        verdict = verify_math(rf"\frac{{{a}}}{{{b}}}", boxed(f"{c}/{d}"))
        assert verdict.reward == float(Fraction(a, b) == Fraction(c, d)), (a, b, c, d)


def test_real_gold_answers_equal_themselves_and_their_variants() -> None:
    rows = Path(__file__).parents[2] / "data" / "math.jsonl"
    golds = [json.loads(line)["answer"] for line in rows.read_text().splitlines()]
    assert len(golds) > 5
    for gold in golds:
        variant = gold.replace(r"\frac", r"\dfrac").replace(",", ", ").replace("+", " + ")
        for answer in (gold, variant, f"${gold}$"):
            assert verify_math(gold, boxed(answer)).reward == 1, (gold, answer)
