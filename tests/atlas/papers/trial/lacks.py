"""A paper that needs what is not here"""

from gramian.lab import Card, Run

CARD = Card(
    title="A paper that needs what is not here",
    row=907,
    year=2020,
    kind="method",
    idea="A paper that needs what is not here",
    claim="It ends as it should.",
    api=("gramian.lab.run.Run",),
)


def experiment(run: Run) -> None:
    from gramian.lab import Missing

    raise Missing("nowhere: gramian data fetch nowhere")
