"""What the literature around TracIn-WE asks of the same row gradients: each neighbour a module, each question one call."""

from importlib import import_module
from typing import Any

# Name → module of this room, imported when the name is asked for: each needs other things.
_HOMES: dict[str, str] = {
    "Candidates": "candidates",
    "GroupInfluence": "groups",
    "IndependenceWeights": "independence",
    "InfluenceStability": "stability",
    "KeepUpdates": "rollback_training",
    "LexicalBias": "biased_words",
    "ModelPair": "across_models",
    "Prefiltered": "candidates",
    "RankAgreement": "across_models",
    "RecallReport": "recall",
    "RollbackInfluence": "rollback_influence",
    "SampledInverse": "sampled_inverse",
    "StableExample": "stability",
    "TakenUp": "biased_words",
    "Updates": "rollback_store",
    "WordLabel": "biased_words",
    "example_weights": "weights",
    "group_influence": "groups",
    "independence_weights": "independence",
    "influence_stability": "stability",
    "last_features": "prefiltering",
    "lexical_bias": "biased_words",
    "prefilter": "prefiltering",
    "rank_agreement": "across_models",
    "rollback": "rollback_influence",
    "rollback_scores": "rollback_influence",
    "rolled_back": "rollback_influence",
    "s_test": "sampled_inverse",
    "taken_up": "biased_words",
    "unlearn": "unlearning",
    "unlearn_inverse": "unlearning",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
