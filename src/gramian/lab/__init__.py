"""What an experiment is: a card that describes a paper, and a run that measures its claim.

Nothing here knows a method, and importing it imports neither torch nor numpy: the atlas reads cards
hundreds at a time.
"""

from gramian.lab.budget import FULL, QUICK, Budget
from gramian.lab.card import KINDS, Card
from gramian.lab.check import Check
from gramian.lab.progress import progress_bar
from gramian.lab.run import Missing, Run
from gramian.lab.seeds import seed_everything

__all__ = ["FULL", "KINDS", "QUICK", "Budget", "Card", "Check", "Missing", "Run", "progress_bar", "seed_everything"]
