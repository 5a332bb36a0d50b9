"""Augmented covariance: classify a series by the covariance of its delay embedding (Carrara and Papadopoulo, 2023)."""

from __future__ import annotations

import numpy as np
import pandas as pd

from gramian import data
from gramian.data.synthetic import dynamics
from gramian.estimators import spd
from gramian.estimators.series import augmented_covariance as acm
from gramian.estimators.series import embedding
from gramian.lab import Card, Missing, Run

CARD = Card(
    title="Classification of BCI-EEG based on augmented covariance matrix",
    row=1,
    year=2023,
    kind="estimator",
    arxiv="2302.04508",
    idea="Stack delayed copies of a series and take the covariance: the matrix of the Yule–Walker equations, "
    "positive definite, which knows the dynamics as well as the correlations. Classify it in the tangent space "
    "of such matrices.",
    claim="Series that an ordinary covariance confuses are told apart by the augmented one; the order and lag can be "
    "chosen by cross-validation or by rules of dynamical systems.",
    keywords=(
        "EEG",
        "brain-computer interface",
        "time series classification",
        "Riemannian",
        "Takens",
        "delay embedding",
    ),
    api=(
        "gramian.estimators.series.augmented_covariance.AugmentedCovariance",
        "gramian.estimators.series.augmented_covariance.AugmentedCovarianceClassifier",
        "gramian.estimators.series.embedding.select_embedding",
        "gramian.estimators.spd.TangentSpace",
    ),
    use="classifier = AugmentedCovarianceClassifier(order=2, lag=2, shrinkage=0.05)\n"
    "classifier.fit(x_train, y_train)          # (n, length, channels), or a list of ragged series\n"
    "classifier.predict(x_test)",
    reach="the motor-imagery recordings of MOABB are downloads; JapaneseVowels and BasicMotions stand in",
    differs=(
        "The default classifier on tangent vectors is logistic regression; the paper's SVM with an RBF kernel is "
        'classifier="svm". On JapaneseVowels the embedding helps the first and not the second; the report shows both.',
        "Short series need shrinkage towards a multiple of the identity, which the paper's long recordings do not.",
    ),
    needs=("series",),
    data=("japanese_vowels", "basic_motions"),
)


def experiment(run: Run, *, shrinkage: float = 0.05) -> None:
    """Measure what delays add to a covariance.

    Args:
        shrinkage: towards a multiple of the identity, on the real series.
    """
    order_one_is_the_covariance(run)
    yule_walker_recovers_the_model(run)
    delays_see_what_covariance_cannot(run)
    rules_find_known_dimensions(run)
    vowels(run, shrinkage=shrinkage)
    if not run.quick:
        grid_of_embeddings(run, shrinkage=shrinkage)
        choosing_the_embedding_is_honest(run)


def order_one_is_the_covariance(run: Run) -> None:
    """Order 1 is the ordinary covariance pipeline, as pyriemann computes it."""
    try:
        from pyriemann.estimation import Covariances
        from pyriemann.tangentspace import TangentSpace
    except ImportError as error:
        raise Missing('pyriemann is not installed: pip install "gramian[series]"') from error

    x = run.rng().standard_normal((30, 80, 5)) @ run.rng(1).standard_normal((5, 5))
    ours = spd.TangentSpace().fit_transform(acm.AugmentedCovariance(order=1).fit_transform(x))
    theirs = Covariances("scm").transform(x.transpose(0, 2, 1))
    theirs = TangentSpace(tsupdate=False).fit(theirs).transform(theirs)
    run.check(
        "with order 1 the tangent vectors equal pyriemann's, largest difference",
        float(np.abs(ours - theirs).max()),
        below=1e-8,
        paper="the augmented covariance contains the usual pipeline as p = 1",
    )


def yule_walker_recovers_the_model(run: Run) -> None:
    """The blocks of the augmented covariance solve the Yule–Walker equations of a VAR(2)."""
    truth = np.array(
        [[[0.5, 0.2, 0.0], [-0.3, 0.4, 0.1], [0.0, 0.1, 0.3]], [[-0.3, 0.0, 0.2], [0.0, 0.2, 0.0], [0.1, 0.0, -0.4]]]
    )
    noise = np.array([[1.0, 0.3, 0.0], [0.3, 1.0, -0.2], [0.0, -0.2, 0.5]])
    x = dynamics.vector_autoregression(truth, 20_000, run.rng(2), noise=noise)
    matrix = acm.AugmentedCovariance(order=3, lag=1).fit_transform(x)[0]
    coefficients, residual = acm.autoregression(matrix, channels=3)
    run.check(
        "largest error of a VAR(2)'s coefficients solved from the augmented covariance",
        float(np.abs(coefficients - truth).max()),
        below=0.05,
        paper="the augmented covariance is the matrix of the Yule–Walker equations",
    )
    run.check("largest error of the innovations' covariance", float(np.abs(residual - noise).max()), below=0.05)


def _twins(run: Run, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Two classes of equal covariance: x(t) = ±0.3 x(t − 2) + e(t)."""
    step = 0.3 * np.eye(2)
    zero = np.zeros((2, 2))
    halves = [
        dynamics.vector_autoregression(np.stack((zero, sign * step)), 200, run.rng(3 + i), count=count)
        for i, sign in enumerate((1, -1))
    ]
    return np.concatenate(halves), np.repeat(["positive", "negative"], count)


def delays_see_what_covariance_cannot(run: Run) -> None:
    """Two classes with one covariance and opposite dynamics."""
    from matplotlib import pyplot

    x, y = _twins(run, 150)
    train = np.arange(len(y)) % 3 != 0
    score = {}
    for order in (1, 2):
        classifier = acm.AugmentedCovarianceClassifier(order, 2, shrinkage=0.0, classifier="svm").fit(
            x[train], y[train]
        )
        score[order] = float(np.mean(classifier.predict(x[~train]) == y[~train]))
    claim = "accuracy on two classes of equal covariance"
    run.check(f"{claim}, order 1", score[1], between=(0.35, 0.65), paper="chance: the covariances are equal")
    run.check(f"{claim}, order 2 and lag 2", score[2], above=0.95, paper="spatial and temporal information together")

    matrices = acm.AugmentedCovariance(order=3, lag=2).fit_transform(x)
    figure, axes = pyplot.subplots(1, 2, figsize=(7, 3.2))
    for axis, label in zip(axes, ("positive", "negative")):
        image = axis.imshow(matrices[y == label].mean(axis=0), vmin=-1.1, vmax=1.1, cmap="RdBu_r")
        axis.set_title(f"x(t) = {'+' if label == 'positive' else '−'}0.3 x(t−2) + e")
        axis.set_xticks(range(6), [f"x{c}(t{d})" for d in ("", "−2", "−4") for c in (1, 2)], rotation=60, fontsize=8)
        axis.set_yticks([])
        axis.grid(visible=False)
    figure.colorbar(image, ax=axes, shrink=0.8)
    caption = (
        "Mean augmented covariances (order 3, lag 2). The diagonal 2×2 blocks, all an ordinary covariance sees, agree."
    )
    run.plot("augmented covariances of twins", figure, caption)


def rules_find_known_dimensions(run: Run) -> None:
    """The dynamical rules on systems whose dimension and time scale are known."""
    henon = embedding.select_embedding([dynamics.henon_map(3000)], lag_rule="autocorrelation")
    run.check(
        "Hénon's map: order by false neighbours", henon.order, equals=2, paper="dimension 2 (Kennel et al., 1992)"
    )
    lorenz = embedding.select_embedding([dynamics.lorenz(4000)], lag_rule="mutual-information", max_lag=40)
    run.check(
        "Lorenz: first minimum of the mutual information, seconds",
        0.02 * lorenz.lag,
        between=(0.14, 0.18),
        paper="about 0.16 s",
    )
    run.check("Lorenz: order by false neighbours", lorenz.order, equals=3, paper="dimension 3 (Kennel et al., 1992)")


def vowels(run: Run, *, shrinkage: float = 0.05) -> None:
    """Nine speakers told apart by ragged series of 12 channels and 7 to 29 samples."""
    vowels = data.load("japanese_vowels")
    rows, score = [], {}
    for classifier in ("logistic",) if run.quick else acm.CLASSIFIERS:
        for order in (1, 2):
            model = acm.AugmentedCovarianceClassifier(order, 2, shrinkage=shrinkage, classifier=classifier)
            model.fit(vowels.x_train, vowels.y_train)
            score[classifier, order] = float(np.mean(model.predict(vowels.x_test) == vowels.y_test))
            rows.append({"classifier": classifier, "order": order, "lag": 2, "test accuracy": score[classifier, order]})
    run.table("JapaneseVowels", rows, "Ragged series, 270 to fit and 370 to test; order 1 is the ordinary covariance.")
    unseen = "motor-imagery recordings gain; they are not on this machine, so other series stand in"
    run.check("JapaneseVowels: accuracy of (p, τ) = (2, 2), logistic", score["logistic", 2], above=0.92, paper=unseen)
    run.check(
        "JapaneseVowels: gain of (2, 2) over the ordinary covariance, points of accuracy",
        100 * (score["logistic", 2] - score["logistic", 1]),
        above=1.0,
        paper=unseen,
    )


def grid_of_embeddings(run: Run, *, shrinkage: float = 0.05) -> None:
    """All small embeddings of JapaneseVowels, and the one that cross-validation on the training set picks."""
    from matplotlib import pyplot

    vowels = data.load("japanese_vowels")
    orders, lags = (1, 2, 3), (1, 2, 3)
    table = pd.DataFrame(index=pd.Index(orders, name="order"), columns=[f"lag {lag}" for lag in lags], dtype=float)
    for order in run.progress(orders, "embeddings of JapaneseVowels"):
        for lag in lags:
            if order > 1 or lag == 1:
                if (order - 1) * lag >= min(map(len, vowels.x_train)) - 1:
                    continue
                model = acm.AugmentedCovarianceClassifier(order, lag, shrinkage=shrinkage).fit(
                    vowels.x_train, vowels.y_train
                )
                table.loc[order, f"lag {lag}"] = np.mean(model.predict(vowels.x_test) == vowels.y_test)
    table.loc[1] = table.loc[1, "lag 1"]
    run.table("accuracy by order and lag", table, "Test accuracy on JapaneseVowels, logistic regression.")
    searched = acm.AugmentedCovarianceClassifier(embedding="grid", shrinkage=shrinkage, orders=(1, 2), lags=lags)
    searched.fit(vowels.x_train, vowels.y_train)
    accuracy = float(np.mean(searched.predict(vowels.x_test) == vowels.y_test))
    gain = 100 * (accuracy - float(table.loc[1, "lag 1"]))
    run.check("JapaneseVowels: gain of the embedding that cross-validation picks, points", gain, above=1.0)
    ruled = embedding.select_embedding(vowels.x_train, max_lag=3)
    run.text(
        "what was picked",
        f"Cross-validation on the training set picks order {searched.order_}, lag {searched.lag_} (test accuracy "
        f"{accuracy:.3f}). The dynamical rules say order {ruled.order}, lag {ruled.lag}: series of 7 to 29 samples are "
        "too short for nearest neighbours to part, so on these the rules fall back to the ordinary covariance.",
    )
    figure, axis = pyplot.subplots(figsize=(5, 3.2))
    image = axis.imshow(table.to_numpy(dtype=float), cmap="viridis")
    for (i, j), value in np.ndenumerate(table.to_numpy(dtype=float)):
        if np.isfinite(value):
            axis.text(j, i, f"{value:.3f}", ha="center", va="center", color="#ffffff")
    axis.set_xticks(range(len(lags)), lags)
    axis.set_yticks(range(len(orders)), orders)
    axis.set_xlabel("lag τ")
    axis.set_ylabel("order p")
    axis.grid(visible=False)
    figure.colorbar(image, label="test accuracy")
    run.plot("embeddings of vowels", figure, "JapaneseVowels; row 1 is the ordinary covariance, whatever the lag.")


def choosing_the_embedding_is_honest(run: Run) -> None:
    """The search of the embedding sees the training folds only."""
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    motions = data.load("basic_motions")
    x = np.concatenate((motions.x_train, motions.x_test))
    y = np.concatenate((motions.y_train, motions.y_test))
    model = acm.AugmentedCovarianceClassifier(embedding="grid", orders=(1, 2), lags=(1, 2))
    folds = StratifiedKFold(5, shuffle=True, random_state=run.seed)
    true = float(cross_val_score(model, x, y, cv=folds).mean())
    shuffled = [float(cross_val_score(model, x, run.rng(10 + i).permutation(y), cv=folds).mean()) for i in range(2)]
    run.check("BasicMotions: nested cross-validation accuracy", true, above=0.95, paper="(set not in the paper)")
    run.check(
        "BasicMotions: the same with shuffled labels, mean of two shuffles (chance is 0.25)",
        float(np.mean(shuffled)),
        between=(0.15, 0.35),
        paper="nothing leaks from the test folds",
    )
