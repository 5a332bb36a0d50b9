"""Time series: labelled sets of them, and single ones."""
# ruff: noqa: E501 - a table reads best with a row a line

from gramian.data.catalogue.entry import Entry, Wheel
from gramian.data.catalogue.wheels import AEON, SKTIME, STATSMODELS, TSLEARN, VEGA


def _labelled(
    name: str, folder: str, shape: str, what: str, *, stem: str = "", wheel: Wheel = AEON, regression: bool = False
) -> Entry:
    stem = stem or folder
    files = tuple(f"{folder}/{stem}_{part}.ts" for part in ("TRAIN", "TEST"))
    return Entry(name, what, "labelled_series", shape, wheel=wheel, files=files, options={"regression": regression})


def _csv(name: str, file: str, shape: str, what: str, wheel: Wheel = AEON, **options: object) -> Entry:
    return Entry(name, what, "table", shape, wheel=wheel, files=(file,), options=options)


def _marked(name: str, file: str, shape: str, what: str, wheel: Wheel = SKTIME, **options: object) -> Entry:
    return Entry(name, what, "series", shape, wheel=wheel, files=(file,), options=options)


_MARKS = {"label": "label"}

SERIES = (
    # labelled sets
    _labelled("acsf1", "ACSF1", "100+100, 1 x 1460, 10 classes", "power drawn by household appliances"),
    _labelled("arrow_head", "ArrowHead", "36+175, 1 x 251, 3 classes", "outlines of arrow heads"),
    _labelled("basic_motions", "BasicMotions", "40+40, 6 x 100, 4 classes", "a wrist's motion: stand, walk, run, badminton"),
    _labelled("gun_point", "GunPoint", "50+150, 1 x 150, 2 classes", "a hand that draws a gun or points"),
    _labelled("italy_power_demand", "ItalyPowerDemand", "67+1029, 1 x 24, 2 classes", "a day's power demand; winter or summer"),
    _labelled("japanese_vowels", "JapaneseVowels", "270+370, 12 x 7..29, 9 classes", "cepstra of nine speakers; ragged"),
    _labelled(
        "japanese_vowels_eq", "JapaneseVowels", "270+370, 12 x 25, 9 classes", "the same at equal length",
        stem="JapaneseVowels_eq",
    ),
    _labelled("osu_leaf", "OSULeaf", "200+242, 1 x 427, 6 classes", "outlines of leaves"),
    _labelled(
        "pickup_gesture_wiimote_z", "PickupGestureWiimoteZ", "50+50, 1 x 29..361, 10 classes", "gestures, vertical; ragged",
    ),
    _labelled(
        "pickup_gesture_wiimote_z_eq", "PickupGestureWiimoteZ", "50+50, 1 x 361, 10 classes", "the same at equal length",
        stem="PickupGestureWiimoteZ_eq",
    ),
    _labelled("plaid", "PLAID", "537+537, 1 x 100..1344, 11 classes", "appliances' current; ragged", wheel=SKTIME),
    Entry(
        "trace", "simulated failures of a nuclear plant's instruments", "labelled_series_npz",
        "100+100, 1 x 275, 4 classes", wheel=TSLEARN, files=("Trace.npz",),
    ),
    _labelled(
        "covid_3month", "Covid3Month", "140+61, 1 x 84, regression", "daily cases against the death rate", regression=True,
    ),
    _labelled("covid_3month_disc", "Covid3Month_disc", "140+61, 1 x 84, 3 classes", "the same with the rate in three classes"),
    _labelled(
        "cardano_sentiment", "CardanoSentiment", "74+33, 2 x 24, regression", "a day's sentiment against the next price",
        regression=True,
    ),
    _labelled(
        "tecator", "Tecator", "172+43, 1 x 100, regression", "spectra of meat against its fat",
        wheel=SKTIME, regression=True,
    ),
    # series with marked anomalies or changes
    Entry(
        "kdd_tsad_135", "blood pressure with one anomaly", "series", "7501 x 1, labels, train 1200 x 1", wheel=AEON,
        files=tuple(f"KDD-TSAD_135/135_UCR_Anomaly_InternalBleeding16_{part}.csv" for part in ("TEST", "TRAIN")),
        options={"label": "is_anomaly", "drop": ("timestamp",)},
    ),
    _marked(
        "daphnet", "Daphnet_S06R02E0/S06R02E0.csv", "7040 x 9, labels", "body sensors; the gait freezes", AEON,
        label="is_anomaly", drop=("timestamp",),
    ),
    _marked("mitdb", "mitdb/mitdb.csv", "7500 x 1, labels", "an electrocardiogram with changes", **_MARKS),
    _marked(
        "seatbelts", "seatbelts/seatbelts.csv", "192 x 1, labels", "drivers killed or injured, monthly", **_MARKS,
        drop=("Unnamed: 0",),
    ),
    _marked("yahoo", "yahoo/yahoo.csv", "1000 x 1, labels", "a service's traffic with changes", **_MARKS),
    _marked(
        "electric_devices_segmentation", "segmentation/ElectricDevices.csv", "11532 x 1, labels", "devices one after another",
        AEON, change_points=(1090, 4436, 5712, 7923), header=None, drop=(0,),
    ),
    _marked(
        "gun_point_segmentation", "segmentation/GunPoint.csv", "1875 x 1, labels", "gestures of two kinds one after another",
        AEON, change_points=(900,), header=None, drop=(0,),
    ),
    Entry(
        "m1_yearly", "the yearly series of the first M competition", "series_set", "181 series of 15..58", wheel=AEON,
        files=("m1_yearly_dataset/m1_yearly_dataset.tsf",),
    ),
    # single series
    _csv("airline", "Airline/Airline.csv", "144 x 2", "passengers, monthly"),
    _csv("lynx", "Lynx/Lynx.csv", "114 x 2", "lynx trapped, yearly", columns=("year", "lynx")),
    _csv("shampoo", "ShampooSales/ShampooSales.csv", "36 x 2", "sales, monthly"),
    _csv("pbs", "PBS_dataset/PBS_dataset.csv", "204 x 2", "prescriptions, monthly; mostly small counts"),
    _csv("uschange", "Uschange/Uschange.csv", "187 x 6", "quarterly changes of five American figures", drop=("Unnamed: 0",)),
    _csv("solar", "solar/solar.csv", "289 x 2", "solar power, half-hourly"),
    _csv("sunspots", "sunspots/sunspots.csv", "309 x 2", "sunspots, yearly", STATSMODELS),
    _csv("co2", "co2/co2.csv", "2284 x 2", "carbon dioxide at Mauna Loa, weekly, with gaps", STATSMODELS),
    _csv("nile", "nile/nile.csv", "100 x 2", "the Nile's flow, yearly", STATSMODELS),
    _csv("elnino", "elnino/elnino.csv", "61 x 13", "sea temperature, a row a year", STATSMODELS),
    _csv("elec_equip", "elec_equip/elec_equip.csv", "257 x 2", "electrical equipment made, monthly", STATSMODELS),
    _csv("macrodata", "macrodata/macrodata.csv", "203 x 14", "American economy, quarterly", STATSMODELS),
    _csv("seattle_weather", "seattle-weather.csv", "1461 x 5 + weather", "four years of weather, daily", VEGA, target="weather"),
    _csv("sf_temps", "sf-temps.csv", "8759 x 2", "a year's temperature in San Francisco, hourly", VEGA),
    _csv("stocks", "stocks.csv", "560 x 3", "prices of five stocks, monthly", VEGA),
    # benchmarks at public homes
    Entry(
        "etth1", "an electricity transformer, hourly, of which the first 14,400 rows are the benchmark", "table",
        "17420 x 8", "public", files=("ETTh1.csv",), licence="CC BY-ND 4.0",
        urls=("https://raw.githubusercontent.com/zhouhaoyi/ETDataset/main/ETT-small/ETTh1.csv",),
    ),
    Entry(
        "exchange_rate", "eight currencies, daily", "table", "7588 x 8", "public", files=("exchange_rate.txt.gz",),
        licence="unstated", options={"header": None},
        urls=("https://raw.githubusercontent.com/laiguokun/multivariate-time-series-data/master/exchange_rate/exchange_rate.txt.gz",),
    ),
)  # fmt: skip
