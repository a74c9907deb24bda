"""A process that makes odd and hostile files beside and around weights, and asks for them by every public way in.

    python tests/hostile_files.py COUNT FOLDER [SEED]

Prints what came of them: refused in our words, harmless (weights and rate as without the odd part), or wrong. Its memory is
limited, so that a file that asks for gigabytes is told as wrong, or as dead.
"""

import json
import random
import resource
import shutil
import sys
import warnings
import zipfile
from collections import Counter
from pathlib import Path

import torch

from captum_tracinwe import TracInWE, load_checkpoint
from captum_tracinwe.app.data import InputError
from captum_tracinwe.app.given_model import head_of
from captum_tracinwe.app.testing import tiny_bert, toy_texts
from captum_tracinwe.checkpoints.rates import trainer_rate
from captum_tracinwe.checkpoints.weights import check_whole, find_checkpoints

MEMORY = 3 << 30  # beyond what torch and transformers take before
RATES = {2: 0.5, 4: 0.25}
ODD = [
    *(
        None,
        True,
        -1,
        0,
        1.5,
        float("nan"),
        float("inf"),
        -float("inf"),
        10**30,
        2**63,
        -(2**63),
        10**300,
        "",
        "0.5",
        "../x",
    ),
    *(
        "/etc/passwd",
        "\x00",
        "\ud800",
        "x" * 5000,
        [],
        {},
        [[]],
        [1, "a", None],
        {"a": {"b": []}},
        {"": 0},
        5e-324,
        1e308,
    ),
]
ODD_IN_PICKLES = [
    *(
        1j,
        b"x",
        (1,),
        {1, 2},
        torch.ones(3),
        torch.ones((), device="meta"),
        torch.tensor(float("nan")),
        torch.tensor(True),
    ),
    *(torch.eye(3).to_sparse(), torch.ones(2, 2), torch.zeros(0), torch.ones(1).expand(10**9), {5: 5}, -(10**300)),
]


def deep(depth):
    return "[" * depth + "]" * depth


def altered(content, rng, odd):
    """A copy with one place of it, at any depth, replaced, removed, doubled or renamed."""
    if isinstance(content, dict) and content and rng.random() < 0.85:
        key, found = rng.choice(list(content)), dict(content)
        deed = rng.random()
        if deed < 0.6:
            found[key] = altered(content[key], rng, odd)
        elif deed < 0.75:
            del found[key]
        elif deed < 0.9:
            found[rng.choice(["x", "", "\u202e", "a/b", key + "x" if isinstance(key, str) else "y"])] = found.pop(key)
        else:
            found[rng.choice(["extra", "lr", "learning_rate", "step"])] = rng.choice(odd)
        return found
    if isinstance(content, (list, tuple)) and content and rng.random() < 0.7:
        i, found = rng.randrange(len(content)), list(content)
        found[i] = altered(content[i], rng, odd)
        return found * rng.choice([1, 1, 3])
    return rng.choice(odd)


def damaged(path, rng, end=None):
    """Bytes cut, flipped, put in or repeated, up to ``end``."""
    content = bytearray(path.read_bytes())
    end = len(content) if end is None else min(end, len(content))
    deed = rng.random()
    if deed < 0.3:
        content = content[: rng.randrange(end)]
    elif deed < 0.8:
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(end)] ^= 1 << rng.randrange(8)
    elif deed < 0.9:
        content[rng.randrange(end) : rng.randrange(end)] = rng.randbytes(rng.randint(1, 9))
    else:
        content = content + content
    path.write_bytes(content)


def odd_json(path, rng):
    deed = rng.random()
    if deed < 0.75:
        path.write_text(json.dumps(altered(json.loads(path.read_text()), rng, ODD)))
    elif deed < 0.85:
        path.write_text(rng.choice([deep(100_000), '{"a":' * 50_000, "NaN", "null", "1" * 5000, "", "[]", '"x"', "{}"]))
    else:
        damaged(path, rng)


def odd_pickle(path, rng):
    deed = rng.random()
    if deed < 0.7:
        content = torch.load(path, weights_only=True)
        torch.save(altered(content, rng, ODD + ODD_IN_PICKLES), path, _use_new_zipfile_serialization=rng.random() < 0.8)
    elif deed < 0.85:
        rezipped(path, rng)
    else:
        damaged_zip(path, rng)


def rezipped(path, rng):
    """Packed another way: compressed, a bomb, an entry left out, one twice, one under another name."""
    with zipfile.ZipFile(path) as archive:
        entries = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    i, deed = rng.randrange(len(entries)), rng.random()
    name, content = entries[i]
    if deed < 0.3:
        entries[i] = (name, content + b"\x00" * rng.choice([1, 1000, 200_000_000]))
    elif deed < 0.5:
        del entries[i]
    elif deed < 0.6:
        entries.append((name, content[::-1]))
    elif deed < 0.75:
        entries[i] = (rng.choice(["../" + name, name.upper(), "x"]), content)
    method = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
    with zipfile.ZipFile(path, "w", method) as archive:
        for entry in entries:
            archive.writestr(*entry)


def damaged_zip(path, rng):
    """Its directory and its pickle; what is within tensors nobody can tell from numbers that were meant."""
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        place = archive.start_dir
    if rng.random() < 0.5:
        damaged(path, rng, archive.infolist()[0].file_size + 64)
        return
    tail = path.with_name("tail")
    tail.write_bytes(whole[place:])
    damaged(tail, rng)
    path.write_bytes(whole[:place] + tail.read_bytes())
    tail.unlink()


def odd_safetensors(path, rng):
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    if rng.random() < 0.5:
        header = json.dumps(altered(json.loads(content[8 : 8 + length]), rng, ODD)).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])
    else:
        damaged(path, rng, 8 + length)


def odd_name(path, rng):
    other = rng.choice(
        ["checkpoint-²", "checkpoint-٣", "checkpoint-", "checkpoint--1", "checkpoint-1e9", "checkpoint-" + "9" * 200]
    )
    shutil.copytree(path.parent, path.parent.with_name(other))


#: Kind → the file in checkpoint-4 that is made odd, and how; the files that are taken away before.
KINDS = {
    "trainer_state": ("trainer_state.json", odd_json, ["scheduler.pt", "optimizer.pt"]),
    "trainer_state beside a rate": ("trainer_state.json", odd_json, []),
    "scheduler": ("scheduler.pt", odd_pickle, []),
    "optimizer": ("optimizer.pt", odd_pickle, ["scheduler.pt"]),
    "config": ("config.json", odd_json, []),
    "adapter config": ("adapter_config.json", odd_json, []),
    "index": ("model.safetensors.index.json", odd_json, ["model.safetensors"]),
    "safetensors": ("model.safetensors", odd_safetensors, []),
    "bin": ("pytorch_model.bin", odd_pickle, ["model.safetensors"]),
    "names": ("config.json", odd_name, []),
}


def made(folder):
    """A run of two checkpoints, whole and in every form at once; one of two is taken away before use."""
    torch.manual_seed(0)
    for step, rate in RATES.items():
        place = folder / f"checkpoint-{step}"
        model = tiny_bert()
        model.save_pretrained(place, max_shard_size="3KB")
        model.save_pretrained(folder / "whole")
        shutil.copy(folder / "whole" / "model.safetensors", place)
        torch.save(model.state_dict(), place / "pytorch_model.bin")
        torch.save({"_last_lr": [rate, rate], "last_epoch": step}, place / "scheduler.pt")
        groups = [{"lr": rate, "params": [0]}, {"lr": rate, "params": [1]}]
        state = {i: {"step": torch.tensor(2.0), "exp_avg": torch.ones(3)} for i in range(2)}
        torch.save({"param_groups": groups, "state": state}, place / "optimizer.pt")
        log = [{"step": s, "learning_rate": r, "loss": 1.0, "epoch": 0.5} for s, r in RATES.items() if s <= step]
        plan = {"max_steps": 6, "num_train_epochs": 3, "save_steps": 2, "logging_steps": 2, "train_batch_size": 3}
        (place / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": log, **plan}))
        (place / "adapter_config.json").write_text(
            json.dumps({"base_model_name_or_path": "nowhere", "task_type": "SEQ_CLS"})
        )
    shutil.rmtree(folder / "whole")


class Asked:
    """What the ways in say of a run; ``wrong`` collects what they must not."""

    def __init__(self, folder, kind, wrong):
        self.folder, self.kind, self.wrong, self.refused = folder, kind, wrong, 0

    def ask(self, way, call, expected=None):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = call()
        except (ValueError, FileNotFoundError) as error:
            self.refused += 1
            named = self.folder.name in str(error) or "checkpoint-" in str(error)
            way_out = any(word in str(error) for word in ("xpected", "Remove", "pass ", "Pass "))
            if type(error) not in (ValueError, InputError) or not named or not way_out:
                self.wrong.append(f"{self.kind}, {way}: {type(error).__name__}: {error!s:.400}")
        except BaseException as error:
            self.wrong.append(f"{self.kind}, {way}: RAW {type(error).__name__}: {error!s:.400}")
        else:
            if expected is not None and not expected(found):
                self.wrong.append(f"{self.kind}, {way}: gave {str(found)[:200]}")


def told(folder, kind, rng, wrong):
    """Make one file odd and ask for it; whether anything was refused."""
    file, spoil, without = KINDS[kind]
    last = folder / "checkpoint-4"
    for place in (folder / f"checkpoint-{step}" for step in RATES):
        keep = [file] if file.endswith((".bin", "index.json")) else ["model.safetensors"]
        for name in ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"):
            if name not in keep:
                (place / name).unlink()
        for name in [*without, *(["adapter_config.json"] if kind != "adapter config" else [])]:
            (place / name).unlink(missing_ok=True)
        if kind == "adapter config":
            (place / "model.safetensors").rename(place / "adapter_model.safetensors")
    model = tiny_bert()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "adapter config":
            right = None
        else:
            load_checkpoint(model, last)
            right = state_of(model)
    spoil(last / file, rng)
    asked = Asked(folder, kind, wrong)
    fresh = tiny_bert()
    before = state_of(fresh)
    content = last / file
    # A rate that the odd file itself says in full is the one to use; the others are the run's.
    own = kind in ("scheduler", "optimizer", "trainer_state", "bin", "safetensors")
    fine = lambda rate: rate is None or rate in (0.25, 0.5, 1.0) or (own and said(content, rate))  # noqa: E731
    asked.ask("load_checkpoint", lambda: load_checkpoint(fresh, last), fine)
    after = state_of(fresh)
    if not torch.equal(after, before) and (right is None or not torch.equal(after, right)):
        wrong.append(f"{kind}, load_checkpoint: other weights")
    if (
        asked.refused
        and not torch.equal(after, before)
        and kind not in ("scheduler", "optimizer", "trainer_state", "bin")
    ):
        wrong.append(f"{kind}, load_checkpoint: changed the model it refused")
    asked.ask("trainer_rate", lambda: trainer_rate(last, fresh.bert.embeddings.word_embeddings.weight), fine)
    asked.ask("check_whole", lambda: check_whole(last))
    asked.ask("find_checkpoints", lambda: find_checkpoints(folder), lambda found: len(found) >= 2)
    asked.ask("head_of", lambda: head_of(last))
    ids, mask, labels = toy_texts(4)
    rows = [{"input_ids": i, "attention_mask": m, "labels": y} for i, m, y in zip(ids, mask, labels, strict=True)]
    asked.ask("from_pretrained_run", lambda: TracInWE.from_pretrained_run(folder, rows).self_influence().shape)
    return bool(asked.refused)


def said(path, rate):
    """Whether a file has this number in it."""
    try:
        text = path.read_text() if path.suffix == ".json" else str(torch.load(path, weights_only=True))
    except Exception:
        text = path.read_bytes().decode("latin-1")
    return rate == 0 or repr(rate) in text or f"{rate:.0f}" in text or f"{rate:.4f}" in text


def state_of(model):
    return torch.cat([tensor.detach().flatten().double() for tensor in model.state_dict().values()])


def main():
    count, folder = int(sys.argv[1]), Path(sys.argv[2])
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    torch.set_num_threads(1)
    whole = folder / "whole"
    whole.mkdir(parents=True)
    made(whole)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY,) * 2)
    refused, harmless, wrong = Counter(), Counter(), []
    for number in range(count):
        kind = list(KINDS)[number % len(KINDS)]
        place = folder / f"run-{seed}-{number}"
        shutil.copytree(whole, place)
        failed = len(wrong)
        outcome = refused if told(place, kind, random.Random(seed * 1_000_003 + number), wrong) else harmless
        outcome[kind] += 1
        wrong[failed:] = [f"{number}: {what}" for what in wrong[failed:]]
        if len(wrong) == failed:
            shutil.rmtree(place)
    print(json.dumps({"refused": refused, "harmless": harmless, "wrong": wrong}))


if __name__ == "__main__":
    main()
