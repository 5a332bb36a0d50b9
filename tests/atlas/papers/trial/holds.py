"""A paper whose claim holds"""

from gramian.lab import Card, Run

CARD = Card(
    title="A paper whose claim holds",
    row=901,
    year=2020,
    kind="method",
    idea="A paper whose claim holds",
    claim="It ends as it should.",
    api=("gramian.lab.run.Run",),
)


def experiment(run: Run, *, sizes: tuple[int, ...] = (1, 2), scale: float = 1.0, name: str | None = None) -> None:
    """Measure something true.

    Args:
        sizes: how large each trial is,
            one after the other.
        scale: a factor.
    """
    from matplotlib import pyplot

    figure, axes = pyplot.subplots()
    axes.plot(sizes)
    run.plot("sizes", figure, "sizes <b>as given</b>")
    run.table("sizes", [{"size": s, "scaled": s * scale} for s in sizes])
    run.check("sizes are positive <script>", min(sizes), above=1, paper="yes & always")
