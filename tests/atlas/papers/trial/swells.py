"""A paper that allocates past its cap"""

from gramian.lab import Card, Run

CARD = Card(
    title="A paper that allocates past its cap",
    row=905,
    year=2020,
    kind="method",
    idea="A paper that allocates past its cap",
    claim="It ends as it should.",
    api=("gramian.lab.run.Run",),
)


def experiment(run: Run) -> None:
    import time

    kept = []
    while True:
        kept.append(bytearray(b"x" * 2**26))
        time.sleep(0.02)
