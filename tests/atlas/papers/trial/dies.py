"""A paper whose process is killed"""

from gramian.lab import Card, Run

CARD = Card(
    title="A paper whose process is killed",
    row=906,
    year=2020,
    kind="method",
    idea="A paper whose process is killed",
    claim="It ends as it should.",
    api=("gramian.lab.run.Run",),
)


def experiment(run: Run) -> None:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)
