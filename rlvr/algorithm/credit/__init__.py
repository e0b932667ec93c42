"""Credit assignment: token coefficients c_t, one file a method; ``base`` says what it is."""

from rlvr.algorithm.credit.base import CREDITS as CREDITS
from rlvr.algorithm.credit.base import Credit as Credit
from rlvr.algorithm.credit.base import CreditAssigner as CreditAssigner
from rlvr.algorithm.credit.base import Driver as Driver
from rlvr.algorithm.credit.base import Features as Features
from rlvr.algorithm.credit.base import FrozenPolicy as FrozenPolicy
from rlvr.algorithm.credit.base import Needs as Needs
from rlvr.algorithm.credit.base import Prefix as Prefix
from rlvr.algorithm.credit.base import PreparesInputs as PreparesInputs
from rlvr.algorithm.credit.base import Question as Question
from rlvr.algorithm.credit.base import Ranks as Ranks
from rlvr.algorithm.credit.base import SoloRanks as SoloRanks
