"""A process that loads checkpoints while another overwrites them in place: prints how often they were right, and refused."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from captum_tracinwe import save_checkpoint
from captum_tracinwe.checkpoints.weights import assign_checkpoint, load_checkpoint


def model(value=0.0):
    made = nn.Sequential(nn.Embedding(400, 64), nn.Linear(64, 400), nn.Linear(400, 64))
    for parameter in made.parameters():
        nn.init.constant_(parameter, value)
    return made


def files(kind, folder):
    """Path to load → two contents of each of its files, of weights that are all 1 and all 2."""
    contents = []
    for value in (1, 2):
        if kind == "shards":
            state = list(model(value).state_dict().items())
            parts = {"a.safetensors": dict(state[:2]), "b.safetensors": dict(state[2:])}
            for name, part in parts.items():
                save_file(part, folder / name, metadata={"note": "long" * value})
            index = {"weight_map": {key: name for name, part in parts.items() for key in part}}
            (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        else:
            parts = [kind]
            save_checkpoint(folder / kind, model(value), 1.0, step=10 ** (5 * value))
        contents.append({folder / name: (folder / name).read_bytes() for name in parts})
    return folder if kind == "shards" else folder / kind, contents


def overwrite(contents, reader):
    while os.getppid() == reader:  # a reader that died has nobody else to end this
        for content in contents:
            for path, whole in content.items():
                with open(path, "wb", buffering=0) as file:
                    for start in range(0, len(whole), 50_000):
                        file.write(whole[start : start + 50_000])
                        time.sleep(0.0005)
            time.sleep(0.08)


def tell(kind, folder, seconds):
    path, contents = files(kind, folder)
    loaded = model()
    count = {"right": 0, "refused": 0, "said": []}
    reader, writer = os.getpid(), os.fork()
    if not writer:
        overwrite(contents, reader)
        os._exit(0)
    try:
        end = time.time() + seconds
        while time.time() < end or (not (count["right"] and count["refused"]) and time.time() < end + 30):
            load = (load_checkpoint, assign_checkpoint)[(count["right"] + count["refused"]) % 2]
            before = loaded[0].weight[0, 0].item()
            try:
                load(loaded, path)
            except ValueError as error:
                count["refused"] += 1
                count["said"].append(str(error))
                expected = {before}
            else:
                count["right"] += 1
                expected = {1.0, 2.0}
            time.sleep(0.003)  # for the other to write under what was loaded
            found = set(torch.cat([parameter.detach().flatten() for parameter in loaded.parameters()]).tolist())
            assert len(found) == 1, f"{kind}: weights {found} after {count}"
            assert found <= expected, f"{kind}: weights {found} after {count}"
    finally:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
    count["said"] = sorted({" ".join(said.replace(str(folder), "").split()[3:9]) for said in count["said"]})
    return count


if __name__ == "__main__":
    import warnings

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    kind, folder, seconds = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
    print(json.dumps(tell(kind, folder, seconds)))
