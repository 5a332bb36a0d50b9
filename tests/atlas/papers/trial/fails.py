"""A paper whose claim does not hold"""

from gramian.lab import Card, Run

CARD = Card(
    title="A paper whose claim does not hold",
    row=902,
    year=2020,
    kind="method",
    idea="A paper whose claim does not hold",
    claim="It ends as it should.",
    api=("gramian.lab.run.Run",),
)


def experiment(run: Run) -> None:
    run.check("two is below one", 2, below=1)
