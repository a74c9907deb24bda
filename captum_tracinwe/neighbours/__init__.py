"""What the literature around TracIn-WE asks of the same row gradients: each neighbour a module, each question one call."""

from importlib import import_module
from typing import Any

# Name → module of this room, imported when the name is asked for: each needs other things.
_HOMES: dict[str, str] = {
    "GroupInfluence": "groups",
    "example_weights": "weights",
    "group_influence": "groups",
    "unlearn": "unlearning",
    "unlearn_inverse": "unlearning",
    "KeepUpdates": "rollback_training",
    "RollbackInfluence": "rollback_influence",
    "Updates": "rollback_store",
    "rollback": "rollback_influence",
    "rollback_scores": "rollback_influence",
    "rolled_back": "rollback_influence",
    "IndependenceWeights": "independence",
    "InfluenceStability": "stability",
    "LexicalBias": "biased_words",
    "StableExample": "stability",
    "TakenUp": "biased_words",
    "WordLabel": "biased_words",
    "independence_weights": "independence",
    "influence_stability": "stability",
    "lexical_bias": "biased_words",
    "taken_up": "biased_words",
    "Candidates": "prefiltering",
    "ModelPair": "across_models",
    "Prefiltered": "prefiltering",
    "RankAgreement": "across_models",
    "RecallReport": "prefiltering",
    "SampledInverse": "sampled_inverse",
    "last_features": "prefiltering",
    "prefilter": "prefiltering",
    "rank_agreement": "across_models",
    "s_test": "sampled_inverse",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
