"""Beyond one process: :func:`build_with_ray` and :func:`search_with_ray`, and the actors that search for longer."""

from captum_tracinwe.index.cluster.building import build_with_ray
from captum_tracinwe.index.cluster.searching import SearchActors, search_with_ray

__all__ = ["SearchActors", "build_with_ray", "search_with_ray"]
