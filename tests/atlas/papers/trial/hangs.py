"""A paper that never ends"""

from gramian.lab import Card, Run

CARD = Card(
    title="A paper that never ends",
    row=904,
    year=2020,
    kind="method",
    idea="A paper that never ends",
    claim="It ends as it should.",
    api=("gramian.lab.run.Run",),
)


def experiment(run: Run) -> None:
    import time

    run.check("measured before", 1, above=0)
    while True:
        time.sleep(0.1)
