"""The card of a paper: what it says, in our words, and where its method lives."""

from __future__ import annotations

from dataclasses import dataclass, field

KINDS = ("method", "architecture", "estimator", "theory", "survey", "dataset")


@dataclass(frozen=True, kw_only=True)
class Card:
    """A paper, as one literal.

    The atlas slices the ``CARD = Card(…)`` expression out of a paper's file and evaluates its keywords
    as literals, without importing the file: every value must be a literal.

    Args:
        title: the paper's title.
        row: the paper's number in this collection.
        year: year of first publication.
        kind: one of `KINDS`.
        idea: one or two plain sentences: the mechanism.
        claim: one sentence: what the paper says that can be measured.
        arxiv: arXiv identifier, if it has one.
        doi: DOI, if it has no arXiv identifier.
        keywords: words a user would search for, beyond those in title and idea.
        api: dotted names of the objects that implement the method, by their defining modules.
        use: two or three lines of code that use it.
        reach: what of the claim is out of reach on a laptop, and why; one short clause.
        differs: where we differ from the paper or its released code, and why.
        needs: extras that the experiment needs (``"language"``, ``"series"``, …).
        data: data sets and models that the experiment reads, by their names in `gramian data list`.
        slug, topic: set by the atlas from the file's place.

    Raises:
        ValueError: an unknown kind, an empty title or idea, or an api entry that is not a dotted
            name under ``gramian``.
    """

    title: str
    row: int
    year: int
    kind: str
    idea: str
    claim: str = ""
    arxiv: str | None = None
    doi: str | None = None
    keywords: tuple[str, ...] = ()
    api: tuple[str, ...] = ()
    use: str = ""
    reach: str = ""
    differs: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    slug: str = field(default="", compare=False)
    topic: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind={self.kind!r} is not one of {', '.join(KINDS)}")
        if not self.title or not self.idea:
            raise ValueError("a card needs a title and an idea")
        for name in ("keywords", "api", "differs", "needs", "data"):
            if isinstance(getattr(self, name), str):
                raise ValueError(f"{name} is a tuple of strings; a lone string needs a trailing comma: ({name!r},)")
        for dotted in self.api:
            if not dotted.startswith("gramian.") or dotted.count(".") < 2:
                raise ValueError(f"api entry {dotted!r} is not a dotted name like 'gramian.nn.state.s4d.S4D'")
