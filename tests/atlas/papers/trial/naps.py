"""A paper that takes a while"""

from gramian.lab import Card, Run

CARD = Card(
    title="A paper that takes a while",
    row=908,
    year=2020,
    kind="method",
    idea="A paper that takes a while",
    claim="It ends as it should.",
    api=("gramian.lab.run.Run",),
)


def experiment(run: Run) -> None:
    import time

    time.sleep(2)
    run.check("it slept", 2, above=1)
