"""Graphs and knowledge graphs."""
# ruff: noqa: E501 - a table reads best with a row a line

from gramian.data.catalogue.entry import Entry
from gramian.data.catalogue.wheels import PYKEEN


def _triples(name: str, shape: str, what: str, *more: str) -> Entry:
    files = tuple(f"{name}/{part}.txt" for part in ("train", "valid", "test", *more))
    return Entry(name, what, "triples", shape, wheel=PYKEEN, files=files)


def _code(name: str, function: str, shape: str, what: str, reader: str = "networkx_graph") -> Entry:
    package, extra, licence = ("networkx", "", "BSD-3-Clause")
    if reader == "sknetwork_graph":
        package, extra, licence = ("scikit-network", "graph", "BSD-3-Clause")
    options = {"function": function, "package": package}
    return Entry(name, what, reader, shape, "code", options=options, licence=licence, extra=extra)


GRAPHS = (
    _triples("nations", "14 entities, 55 relations, 1592/199/201 triples, 26 literals", "relations of states", "literals"),
    _triples("kinships", "104 entities, 25 relations, 8544/1068/1074 triples", "kinship in a tribe"),
    _triples("umls", "135 entities, 46 relations, 5216/652/661 triples", "medical concepts"),
    _code("karate", "karate_club_graph", "34 nodes, 78 edges, weighted", "friendships in a club that split"),
    _code("davis", "davis_southern_women_graph", "32 nodes, 89 edges", "18 women at 14 events; bipartite"),
    _code("florentine", "florentine_families_graph", "15 nodes, 20 edges", "marriages of Florentine families"),
    _code("les_miserables", "les_miserables_graph", "77 nodes, 254 edges, weighted", "who appears with whom"),
    _code("graph_atlas", "graph_atlas_g", "1253 graphs of 0..7 nodes", "every graph of up to seven nodes", "networkx_graphs"),
    _code("painters", "painters", "14 nodes, 50 edges, directed", "links between painters' pages", "sknetwork_graph"),
    _code("movie_actor", "movie_actor", "32 nodes, 43 edges", "films and their actors; bipartite", "sknetwork_graph"),
    _code(
        "art_philo_science", "art_philo_science", "30 nodes, 240 edges, directed, 11 features", "links between pages",
        "sknetwork_graph",
    ),
    _code("star_wars", "star_wars", "7 nodes, 8 edges", "four villains and three films; bipartite", "sknetwork_graph"),
)  # fmt: skip
