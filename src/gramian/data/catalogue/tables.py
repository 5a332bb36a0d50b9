"""Tables: measurements, surveys, and times until an event."""

from gramian.data.catalogue.entry import Entry, Wheel
from gramian.data.catalogue.wheels import LIFELINES, STATSMODELS, VEGA


def _sklearn(name: str, file: str, shape: str, what: str) -> Entry:
    files = tuple(f"data/{f}" for f in file.split())
    licence = "BSD-3-Clause package"
    return Entry(name, what, "sklearn_table", shape, "sklearn", files=files, options={"load": name}, licence=licence)


def _stats(name: str, shape: str, what: str, licence: str = "", **options: object) -> Entry:
    return Entry(
        name, what, "table", shape, wheel=STATSMODELS, files=(f"{name}/{name}.csv",), options=options, licence=licence
    )


def _until(name: str, file: str, shape: str, what: str, time: str, event: str, **options: object) -> Entry:
    options = {"target": time, "event": event, **options}
    return Entry(name, what, "table", shape, wheel=LIFELINES, files=(file,), options=options)


def _plain(name: str, file: str, shape: str, what: str, wheel: Wheel, **options: object) -> Entry:
    return Entry(name, what, "table", shape, wheel=wheel, files=(file,), options=options)


_PERMISSION = "by the author's permission"
_UNSTATED = "unstated"

TABLES = (
    _sklearn("breast_cancer", "breast_cancer.csv", "569 x 30 + target", "cell nuclei; malignant or benign"),
    _sklearn("wine", "wine_data.csv", "178 x 13 + target", "wines of three growers"),
    _sklearn("iris", "iris.csv", "150 x 4 + target", "flowers of three species"),
    _sklearn(
        "diabetes", "diabetes_data_raw.csv.gz diabetes_target.csv.gz", "442 x 10 + target", "disease a year later"
    ),
    _sklearn(
        "linnerud", "linnerud_exercise.csv linnerud_physiological.csv", "20 x 6", "three exercises, three measures"
    ),
    _stats("randhie", "20190 x 9 + mdvis", "visits to the doctor in an insurance experiment", target="mdvis"),
    _stats("fair", "6366 x 8 + affairs", "marriage survey", _PERMISSION, target="affairs"),
    _stats("anes96", "944 x 9 + vote", "American voters, 1996", target="vote", sep="\t", quotechar="'"),
    _stats("modechoice", "840 x 8 + choice", "how 210 people travelled", target="choice", sep=";"),
    _stats("star98", "303 x 22", "school districts' mathematics", _PERMISSION),
    _stats("grunfeld", "220 x 4 + invest", "investment of eleven firms over twenty years", target="invest"),
    _stats("engel", "235 x 1 + foodexp", "income and food", target="foodexp"),
    _stats("longley", "16 x 7 + TOTEMP", "the collinear macroeconomic table", target="TOTEMP"),
    _stats("stackloss", "21 x 3 + STACKLOSS", "a plant that oxidizes ammonia", target="STACKLOSS"),
    _stats("statecrime", "51 x 7 + murder", "American states", target="murder"),
    _stats("copper", "25 x 6 + WORLDCONSUMPTION", "the copper market", target="WORLDCONSUMPTION"),
    _stats("cancer", "301 x 1 + cancer", "breast cancer and population by county", _UNSTATED, target="cancer"),
    _stats("heart", "69 x 2 + survival", "survival after a transplant", _UNSTATED, target="survival", event="censors"),
    _stats("fertility", "219 x 58", "births per woman, countries by years", "World Bank terms"),
    _until("rossi", "rossi.csv", "432 x 8 + week", "weeks until a new arrest", "week", "arrest"),
    _until("gbsg2", "gbsg2.csv", "686 x 9 + time", "breast cancer until it returns", "time", "cens"),
    _until("lung", "lung.csv", "228 x 9 + time", "lung cancer survival", "time", "status"),
    _until("actg175", "ACTG175.csv", "2139 x 26 + days", "a trial of HIV drugs", "days", "cens", drop=("Unnamed: 0",)),
    _until("larynx", "larynx.csv", "90 x 5 + time", "cancer of the larynx", "time", "death"),
    _until("dd", "dd.csv", "1808 x 11 + duration", "how long governments last", "duration", "observed"),
    _until("kidney_transplant", "kidney_transplant.csv", "863 x 5 + time", "survival with a kidney", "time", "death"),
    _plain("cars", "cars.json", "406 x 8 + Miles_per_Gallon", "cars of 1970–1982", VEGA, target="Miles_per_Gallon"),
    _plain("airports", "airports.csv", "3376 x 7", "American airports with their places", VEGA),
)
