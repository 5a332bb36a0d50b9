"""A paper whose code raises"""

from gramian.lab import Card, Run

CARD = Card(
    title="A paper whose code raises",
    row=903,
    year=2020,
    kind="method",
    idea="A paper whose code raises",
    claim="It ends as it should.",
    api=("gramian.lab.run.Run",),
)


def experiment(run: Run) -> None:
    run.check("measured before", 1, above=0)
    raise RuntimeError("something broke")
