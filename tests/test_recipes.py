"""The recipes that come with the project, held against tables of the references' settings that are written out here.

Sources of the tables: the papers, and the code of deeplearning-wisc/cider, Jingkang50/OpenOOD, jeff024/PALM and
sudarshanregmi/ReweightOOD. What is not in a table is the same for all rows and stands in `expected`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from spherood.benchmark.protocol import load_protocol, protocol_names
from spherood.data import Source
from spherood.errors import ConfigError
from spherood.schema import parse
from spherood.training import Recipe, load_recipe

FILES = {path.stem: path for path in sorted((Path(__file__).resolve().parents[1] / "recipes").glob("*.yaml"))}

# loss: with the momentum of the prototypes (CIDER, PALM) and the weight of compactness (CIDER). rule: a cosine to a
# thousandth of the rate, or to what is said, or the released rule. wd: weight decay. pixels: see PIXELS. low: smallest
# share of an image that a crop takes.
TABLES = {  # by the protocols that their recipes name
    "cider": """
recipe                              set         encoder  epochs batch lr   warm rule    wd   loss        seed pixels low
cider-cifar10                       cifar10     resnet18 500    512   .5   10   cosine  1e-4 cider:.95:2 4    cider  .2
cider-cifar10-as-released           cifar10     resnet18 500    512   .5   10   cider   1e-4 cider:.95:2 4    cider  .2
cider-cifar100                      cifar100    resnet34 500    512   .5   10   cosine  1e-4 cider:.5:1  7    cider  .2
cider-cifar100-as-released          cifar100    resnet34 500    512   .5   10   cider   1e-4 cider:.5:1  7    cider  .2
cider-imagenet100                   imagenet100 resnet34 10     512   .01  1    cosine  1e-4 cider:.95:2 4    to224  .4
cider-imagenet100-as-released       imagenet100 resnet34 20     512   .005 10   cider   1e-4 cider:.95:2 4    to224  .4
supcon-cifar10                      cifar10     resnet18 500    512   .5   10   cosine  1e-4 supcon      4    cider  .2
supcon-cifar100                     cifar100    resnet34 500    512   .5   10   cosine  1e-4 supcon      7    cider  .2
supcon-imagenet100                  imagenet100 resnet34 10     512   .01  1    cosine  1e-4 supcon      4    to224  .4
palm-cifar100                       cifar100    resnet34 500    512   .5   10   cosine  1e-6 palm:.999   1    c100   .2
""",
    "openood": """
recipe                              set         encoder  epochs batch lr   warm rule    wd   loss        seed pixels low
cider-openood-cifar10               cifar10     resnet18 100    512   .5   10   cosine  1e-4 cider:.95:2 0    c10    .2
cider-openood-cifar100              cifar100    resnet18 100    512   .5   10   cosine  1e-4 cider:.5:2  0    c100   .2
cider-openood-imagenet200           imagenet200 resnet18 10     512   .01  1    cosine  1e-4 cider:.95:2 0    to256  .4
cider-openood-imagenet1k            imagenet1k  resnet50 10     512   .001 1    cosine  1e-4 cider:.95:2 0    to256  .4
cross-entropy-cifar10               cifar10     resnet18 100    128   .1   0    to1e-6  5e-4 CE          0    c10    pad
cross-entropy-cifar100              cifar100    resnet18 100    128   .1   0    to1e-6  5e-4 CE          0    c100   pad
cross-entropy-imagenet200           imagenet200 resnet18 90     256   .1   0    to1e-6  5e-4 CE          0    to256  .08
palm-openood-cifar10                cifar10     resnet18 100    16    .1   0    cosine  1e-4 palm:.9     0    c10    .2
reweightood-cifar10                 cifar10     resnet18 100    512   .1   10   cosine  1e-4 reweightood 0    c10    .2
reweightood-cifar10-as-released     cifar10     resnet18 100    512   .1   10   openood 1e-4 reweightood 0    c10    .2
reweightood-cifar100                cifar100    resnet18 100    512   .1   10   cosine  1e-4 reweightood 0    c100   .2
reweightood-cifar100-as-released    cifar100    resnet18 100    512   .1   10   openood 1e-4 reweightood 0    c100   .2
reweightood-imagenet200             imagenet200 resnet18 90     1024  .1   10   cosine  1e-4 reweightood 0    to256  .4
reweightood-imagenet200-as-released imagenet200 resnet18 90     1024  .1   10   openood 1e-4 reweightood 0    to256  .4
reweightood-imagenet1k              imagenet1k  resnet50 30     1024  .001 10   cosine  1e-4 reweightood 0    to256  .4
reweightood-imagenet1k-as-released  imagenet1k  resnet50 30     1024  .001 10   openood 1e-4 reweightood 0    to256  .4
""",
}  # fmt: skip
SMALL = {  # made here, for two cores: no reference has them
    "cider-cifar10-small",
    "cider-cifar10-small-as-released",
    "cider-opened-cifar10-small",
    "cross-entropy-cifar10-small",
    "fixed-prototypes-cifar10-small",
    "palm-cifar10-small",
    "reweightood-cifar10-small",
    "supcon-cifar10-small",
    "supcon-head",
}
CIFAR_PLACES = {
    10: ("CIFAR10", "cifar-10-batches-py", "cifar-10-batches-bin"),
    100: ("CIFAR100", "cifar-100-python", "cifar-100-binary"),
}
PIXELS: dict[str, dict[str, Any]] = {
    "cider": {"size": 32, "mean": (0.491, 0.482, 0.447), "std": (0.247, 0.244, 0.262)},
    "c10": {"size": 32, "mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)},
    "c100": {"size": 32, "mean": (0.5071, 0.4867, 0.4408), "std": (0.2675, 0.2565, 0.2761)},
    "to224": {"size": 224, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
    "to256": {"size": 224, "short_side": 256, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
}
WEIGHTS = {  # what the encoder starts from; only layer4 and the head are trained then
    ("imagenet100", "cider"): "weights/resnet34-imagenet1k-v1.safetensors",
    ("imagenet100", "supcon"): "weights/resnet34-imagenet1k-v1.safetensors",
    ("imagenet200", "cider"): "weights/resnet18-imagenet200.ckpt",
    ("imagenet1k", "cider"): "weights/resnet50-imagenet1k-v1.safetensors",
    ("imagenet1k", "reweightood"): "weights/resnet50-imagenet1k-v1.safetensors",
}
OTHERS = {  # valid where the one altered is
    "resnet18": "resnet34",
    "resnet34": "resnet18",
    "resnet50": "resnet18",
    "cifar": "imagenet",
    "imagenet": "cifar",
    "mlp": "linear",
    "train": "test",
    "32-true": "bf16-mixed",
    "bf16-mixed": "32-true",
    "layer4": "layer3",
    "cider-as-released": "openood-as-released",
    "openood-as-released": "cosine",
}

# Steps an epoch; the first rate, that of the last step of epoch 0, the highest, and the number of negative ones.
RELEASED_RATES = {
    "cider-cifar10-as-released": (98, -0.04885, 0.00049, 0.4994, 97),
    "cider-cifar100-as-released": (98, -0.04885, 0.00049, 0.4994, 97),
    "cider-imagenet100-as-released": (251, 0.00085, 0.001, 0.0025, 0),
    "reweightood-cifar10-as-released": (98, -0.00856, 0.001, 0.0976, 87),
    "reweightood-cifar100-as-released": (98, -0.00856, 0.001, 0.0976, 87),
    "reweightood-imagenet200-as-released": (253, -0.00856, 0.001, 0.0970, 226),
    "reweightood-imagenet1k-as-released": (1252, 0.001025, 0.001, 0.001025, 0),
}


def rows() -> Iterator[dict[str, str]]:
    for protocols, table in TABLES.items():
        columns, *lines = table.strip().splitlines()
        for line in lines:
            yield dict(zip(columns.split(), line.split(), strict=True)) | {"protocols": protocols}


LARGE = {row["recipe"]: row for row in rows()}


def expected(row: dict[str, str]) -> dict[str, Any]:
    """The whole recipe of a row, as a recipe's YAML would be read."""
    idset, classifier = row["set"], row["loss"] == "CE"
    weights = WEIGHTS.get((idset, row["loss"].partition(":")[0]))
    schedule: dict[str, Any] = {"lr": float(row["lr"]), "warmup_epochs": float(row["warm"])}
    if row["rule"] == "to1e-6":
        schedule["lowest"] = 1e-6
    elif row["rule"] != "cosine":
        schedule["rule"] = f"{row['rule']}-as-released"
    return {
        "name": row["recipe"],
        "data": source(idset),
        "preprocess": PIXELS[row["pixels"]],
        "views": views(row["low"], colour=not classifier),
        "model": {
            "encoder": row["encoder"],
            "width": 64,
            "stem": "cifar" if idset.startswith("cifar") else "imagenet",
            "shortcut": "projection",
            "head": None if classifier else "mlp",
            "dim": 128,
            "classifier": classifier,
        },
        **({"fine_tuning": {"weights": weights, "train": ["layer4", "head"]}} if weights else {}),
        "loss": [loss(*row["loss"].split(":"))],
        "optimiser": {"momentum": 0.9, "nesterov": True, "weight_decay": float(row["wd"])},
        "schedule": schedule,
        "training": {
            "epochs": int(row["epochs"]),
            "batch": int(row["batch"]),
            "precision": "bf16-mixed" if row["recipe"] == "palm-cifar100" else "32-true",  # float16 there
        },
        "seed": int(row["seed"]),
        "protocol": f"{row['protocols']}/{idset}",
    }


def source(idset: str) -> dict[str, Any]:
    lists = {"list": f"benchmark_imglist/{idset}/train_{idset}.txt", "root": (".", "images_largescale")}
    match idset:
        case "cifar10" | "cifar100":
            archives = CIFAR_PLACES[int(idset.removeprefix("cifar"))]
            folder = {"folder": f"{idset}/train"}
            lists["root"] = (".", "images_classic")
            places = [{"cifar": f"datasets/{name}", "split": "train"} for name in archives]
            return {"count": 50000, "one_of": [*places, folder, lists]}
        case "imagenet100":
            return {"one_of": [{"folder": f"datasets/{name}/train"} for name in ("ImageNet100", "ImageNet-100")]}
        case "imagenet1k":
            return {**lists, "list": "benchmark_imglist/imagenet/train_imagenet.txt", "count": 1281167}
    return lists


def views(low: str, colour: bool) -> dict[str, Any]:
    crop: dict[str, Any] = {"pad": 4} if low == "pad" else {"scale": (float(low), 1.0)}
    strength = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
    return {**crop, "flip": 0.5, **({"jitter": 0.8, **strength, "grey": 0.2} if colour else {})}


def loss(use: str, momentum: str = "", weight: str = "") -> dict[str, Any]:
    settings: dict[str, dict[str, Any]] = {
        "cider": {"temperature": 0.1, "base_temperatures": [0.07, 0.1]},
        "supcon": {"temperature": 0.1, "base_temperature": 0.07},
        "reweightood": {"temperature": 0.1, "within": [2, 1], "between": [5, 4]},
        "CE": {},
        "palm": {
            "prototypes_per_class": 6,
            "k": 5,
            "contrast_weight": 1,
            "temperature": 0.1,
            "epsilon": 0.05,
            "prototype_temperature": 0.5,
        },
    }
    found = settings[use]
    if momentum:
        found["momentum"] = float(momentum)
    if weight:
        found["compactness_weight"] = float(weight)
    return {"use": "cross_entropy" if use == "CE" else use, "with": found}


@cache
def tabled(name: str) -> Recipe:
    return parse(Recipe, expected(LARGE[name]), f"the table's {name}")


def complaints(recipe: Recipe, name: str) -> list[str]:
    """Keys in which a recipe is not what the table says."""
    ours, theirs = (
        flat(one.model_dump(by_alias=True, exclude={"scores", "published"}))  # see test_recipe_heads.py
        for one in (recipe, tabled(name))
    )
    return sorted(key for key in ours.keys() | theirs.keys() if ours.get(key, ...) != theirs.get(key, ...))


def flat(value: Any, key: str = "") -> dict[str, Any]:
    """Leaves by their path."""
    if isinstance(value, dict):
        return {path: leaf for part in value for path, leaf in flat(value[part], f"{key}.{part}").items()}
    if isinstance(value, list | tuple):
        return flat(dict(enumerate(value)), key)
    return {key.removeprefix("."): value}


def altered(content: Any) -> Iterator[tuple[str, Any]]:
    """The content with one leaf changed, for every leaf."""
    if isinstance(content, dict | list):
        for key in content if isinstance(content, dict) else range(len(content)):
            for where, leaf in altered(content[key]):
                changed = content.copy()
                changed[key] = leaf
                yield f"{key}.{where}", changed
    elif isinstance(content, bool):
        yield "", not content
    elif isinstance(content, str):
        yield "", OTHERS.get(content, f"{content}x")
    else:
        yield "", content / 2 if content != 0 else 1
        yield "", content + 1


def places(source: Source) -> list[dict[str, Any]]:
    if source.one_of is not None:
        return [place for part in source.one_of for place in places(part)]
    return [source.model_dump(exclude={"count"})]


def test_every_recipe_is_in_one_table_or_among_the_small_ones() -> None:
    named = [row["recipe"] for row in rows()]
    assert sorted([*named, *SMALL]) == sorted(FILES)


@pytest.mark.parametrize("name", LARGE)
def test_a_recipe_is_what_its_table_says(name: str) -> None:
    assert complaints(load_recipe(FILES[name]), name) == []


@pytest.mark.parametrize("name", LARGE)
def test_a_recipe_with_one_value_altered_is_not_what_its_table_says(name: str) -> None:
    content = yaml.safe_load(FILES[name].read_text(encoding="utf-8"))
    content = {key: value for key, value in content.items() if key not in ("scores", "published")}
    changed = list(altered(content))
    assert len(changed) > 30
    unnoticed = []
    for where, other in changed:
        try:
            recipe = parse(Recipe, other, where)
        except ConfigError:
            continue
        if not complaints(recipe, name):
            unnoticed.append(where)
    assert unnoticed == []


@pytest.mark.parametrize("name", FILES)
def test_a_recipes_losses_can_be_built(name: str) -> None:
    recipe = load_recipe(FILES[name])
    for term in recipe.loss:
        term.build(classes=10, dim=recipe.model.dim, feature_dim=512)


@pytest.mark.parametrize("name", [name for name in FILES if name != "supcon-head"])  # of features
def test_a_recipe_finds_its_images_wherever_the_protocols_of_its_set_look_for_them(name: str) -> None:
    recipe = load_recipe(FILES[name])
    protocols = [recipe.protocol or ""]
    if name in LARGE:
        protocols = [
            of for of in protocol_names() if of.partition("/")[2].removesuffix("-sample") == LARGE[name]["set"]
        ]
    assert recipe.protocol in protocols
    for protocol in protocols:
        for place in places(load_protocol(protocol).id.train):
            assert place in places(recipe.data), f"{protocol} looks at {place}"


def rates(recipe: Recipe, per_epoch: int) -> list[float]:
    steps = per_epoch * recipe.training.epochs
    return [recipe.schedule.at(step, steps, per_epoch) for step in range(steps)]


def check_released(found: list[float], stated: tuple[int, float, float, float, int]) -> None:
    per_epoch, first, end, peak, negative = stated
    assert found[0] == pytest.approx(first, abs=6e-6)  # as many digits as the table has
    assert found[per_epoch - 1] == pytest.approx(end, abs=6e-6)
    assert max(found) == pytest.approx(peak, abs=6e-5)
    assert sum(rate < 0 for rate in found) == negative


@pytest.mark.parametrize("name", RELEASED_RATES)
def test_the_rates_of_a_released_schedule_are_those_of_the_released_code(name: str) -> None:
    check_released(rates(load_recipe(FILES[name]), RELEASED_RATES[name][0]), RELEASED_RATES[name])


def test_every_released_schedule_is_looked_at() -> None:
    assert set(RELEASED_RATES) == {name for name in LARGE if name.endswith("-as-released")}


@pytest.mark.parametrize("name", [name for name in LARGE if not name.endswith("-as-released")])
def test_a_rate_is_never_negative_and_its_warm_up_is_as_long_as_the_recipe_says(name: str) -> None:
    recipe = load_recipe(FILES[name])
    assert min(rates(recipe, 50)) > 0
    assert recipe.schedule.shortened(50 * recipe.training.epochs, 50) == ""


def test_cross_entropys_rate_is_openoods() -> None:
    found = rates(load_recipe(FILES["cross-entropy-cifar10"]), 391)
    assert found[0] == 0.1
    assert found[len(found) // 2] == pytest.approx((0.1 + 1e-6) / 2)  # 39,100 steps: exactly half-way
    assert found[-1] == pytest.approx(1e-6, rel=1e-3)
