"""Two machines as Ray simulates them, one of which is lost during a build, and another during questions.

`python tests/ray_nodes.py FOLDER` prints, as JSON, what was found; `test_ray_nodes.py` starts it, for a process is a driver of
one Ray only.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
from functools import partial
from pathlib import Path

import torch
from index_build import same_files, tracin_of
from ray_cases import ENVIRONMENT, FORM, slow_tracin, without_dashboard

from captum_tracinwe import GradientIndex
from captum_tracinwe.index.launch import SearchActors, build_with_ray

LITTLE = {"object_store_memory": 80 << 20}


def parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def raylet(node):
    """The process of a machine, of which its workers are children."""
    (found,) = node.all_processes["raylet"]
    return found.process.pid


def lost_during_a_build(cluster, node, folder, whole):
    """How many segments were there when the machine was lost."""
    (folder / "notes").mkdir()
    make = partial(slow_tracin, str(folder), str(folder / "notes"), 0.05)
    failed = []

    def build():
        try:
            build_with_ray(make, folder / "i", workers=3, **FORM)
        except Exception as error:
            failed.append(repr(error))

    building = threading.Thread(target=build)
    building.start()
    there, readers = 0, set()
    while building.is_alive() and (there < 3 or raylet(node) not in readers):
        time.sleep(0.05)
        readers = {parent(one.name) for one in (folder / "notes").iterdir() if Path(f"/proc/{one.name}/stat").exists()}
        there = len(GradientIndex.open(folder / "i").segments) if (folder / "i" / "manifest.json").exists() else 0
    cluster.remove_node(node, allow_graceful=False)
    building.join()
    assert not failed, failed
    same_files(folder / "i", whole.path)
    return there


def lost_during_questions(cluster, node, ray, whole):
    """How many actors the machine had, and how many questions were answered."""
    draw, asked = random.Random(0), 0
    with SearchActors(whole.path, 3) as parts:

        def ask():
            rows = whole.rows(draw.sample(range(len(whole)), 2))
            proponents = draw.random() < 0.5
            found, expected = (one.search(rows, 9, proponents) for one in (parts, whole))
            assert torch.equal(found.indices, expected.indices)
            assert torch.equal(found.influence_scores, expected.influence_scores)

        ask()
        processes = ray.get([actor.process.remote() for actor in parts._actors])
        had = sum(parent(pid) == raylet(node) for pid in processes)
        losing = threading.Timer(0.2, cluster.remove_node, (node,), {"allow_graceful": False})
        losing.start()
        while losing.is_alive() or asked < 20:
            ask()
            asked += 1
        after = ray.get([actor.process.remote() for actor in parts._actors])
        assert len(set(processes) - set(after)) == had, "as many as the machine had were started elsewhere"
        ask()
    return had, asked


def main(folder):
    import ray
    from ray.cluster_utils import Cluster

    torch.set_num_threads(1)
    whole = tracin_of(folder).build_index(folder / "whole", **FORM)
    quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
    head = {"num_cpus": 1, "include_dashboard": False, "_system_config": quick, **LITTLE}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        second = cluster.add_node(num_cpus=2, **LITTLE)
        ray.init(address=cluster.address, log_to_driver=False)
        cluster.wait_for_nodes()
        there = lost_during_a_build(cluster, second, folder, whole)
        third = cluster.add_node(num_cpus=2, **LITTLE)
        cluster.wait_for_nodes()
        had, asked = lost_during_questions(cluster, third, ray, whole)
        print(json.dumps({"segments": there, "actors": had, "questions": asked}))
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *(path for path in sys.path if path)])
    os.environ.update(ENVIRONMENT)
    without_dashboard()
    main(Path(sys.argv[1]))
