"""The paper's family of methods and its rivals, each as ``scores(test, train) -> (N, M)``; positive = proponent."""

from captum_tracinwe.evidence.methods.examples import Examples, Explained, Method
from captum_tracinwe.evidence.methods.fitted_bag import BagRegression
from captum_tracinwe.evidence.methods.from_captum import (
    influence_last,
    last_self_influence,
    similarity,
    tracin_last,
    tracin_last_projected,
    tracin_layers,
)
from captum_tracinwe.evidence.methods.last_layer import representer_last, tr_tfidf, training_loss
from captum_tracinwe.evidence.methods.peers import peer
from captum_tracinwe.evidence.methods.retrieval import bm25, random_scores, tfidf
from captum_tracinwe.evidence.methods.word_embedding import common_tokens, tracin_we, tracin_we_syn, we_self_influence
from captum_tracinwe.evidence.methods.word_regression import bag_regression

__all__ = [
    "BagRegression",
    "Examples",
    "Explained",
    "Method",
    "bag_regression",
    "bm25",
    "common_tokens",
    "influence_last",
    "last_self_influence",
    "peer",
    "random_scores",
    "representer_last",
    "similarity",
    "tfidf",
    "tr_tfidf",
    "tracin_last",
    "tracin_last_projected",
    "tracin_layers",
    "tracin_we",
    "tracin_we_syn",
    "training_loss",
    "we_self_influence",
]
