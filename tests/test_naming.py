from __future__ import annotations

from typing import Any

import pytest

from spherood.detectors import KNN, MSP, Mahalanobis
from spherood.errors import ConfigError
from spherood.losses import CIDER, CrossEntropy, SupCon
from spherood.naming import build, find, members, parse_spec


class Taker:
    """Takes whatever it is given, as classes of other people may."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings


def test_a_room_names_its_classes_by_file_and_hides_its_contract() -> None:
    losses = {"cider": CIDER, "cross_entropy": CrossEntropy, "supcon": SupCon}
    detectors = {"knn": KNN, "mahalanobis": Mahalanobis, "msp": MSP}
    assert losses.items() <= members("losses").items()
    assert detectors.items() <= members("detectors").items()
    assert {"terms", "detector"}.isdisjoint(members("losses").keys() | members("detectors").keys())


def test_an_import_path_names_the_class_of_anyone() -> None:
    assert find("detectors", "spherood.detectors.knn:KNN") is KNN
    assert build("losses", f"{__name__}:Taker", {"anything": 1}).settings == {"anything": 1}


@pytest.mark.parametrize(
    ("room", "name", "message"),
    [
        ("losses", "cidr", r"^losses: there is no 'cidr'\. Did you mean 'cider'\? Your own: package\.module:Class\.$"),
        ("detectors", "zz", r"^detectors: there is no 'zz'\. Known: .*combined, .*knn, .*msp"),
        ("detectors", "KNN", r"^detectors: there is no 'KNN'\. "),
        ("losses", "no_such_lab.losses:Mine", r"cannot import 'no_such_lab\.losses:Mine': No module named 'no_such_l"),
        ("losses", "spherood.losses:Mine", r"cannot import .* has no attribute 'Mine'\. Write it as package\.module"),
        ("losses", ":Mine", r"cannot import ':Mine': .* Write it as package\.module:Class"),
        ("losses", ".mine:Mine", r"cannot import '\.mine:Mine': .* Write it as package\.module:Class"),
    ],
)
def test_a_name_that_is_not_there_gets_the_nearest(room: str, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find(room, name)


def test_building_passes_the_settings_on() -> None:
    assert build("detectors", "knn", {"k": 7}).k == 7
    assert build("losses", "cider", {"classes": 3, "momentum": 0.5}).momentum == 0.5


@pytest.mark.parametrize(
    ("room", "name", "settings", "message"),
    [
        (
            "losses",
            "cider",
            {"temprature": 1},
            "losses: 'cider' has no setting 'temprature'. Did you mean 'temperature'",
        ),
        ("detectors", "knn", {"zzz": 1}, "detectors: 'knn' has no setting 'zzz'. Known: k, per_class, seed, storage."),
        ("detectors", "msp", {"zzz": 1}, "detectors: cannot make 'msp' from {'zzz': 1}: "),
        ("losses", "cross_entropy", {"args": 1}, "losses: cannot make 'cross_entropy' from {'args': 1}: "),
        ("losses", "cider", {"classes": 3, "temperature": "hot"}, "losses: cannot make 'cider' from {'classes': 3, "),
        ("losses", "cider", {}, "missing 1 required keyword-only argument: 'classes'. Check its settings."),
    ],
)
def test_a_setting_that_is_unknown_missing_or_of_another_type_is_told(
    room: str, name: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        build(room, name, settings)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("knn", ("knn", {})),
        ("knn:k=100", ("knn", {"k": 100})),
        ("knn:k=100:other=true", ("knn", {"k": 100, "other": True})),
        ("maha:shrinkage=0.1:covariance=total:x=null", ("maha", {"shrinkage": 0.1, "covariance": "total", "x": None})),
        ("cider:base_temperatures=[0.07, 0.1]", ("cider", {"base_temperatures": [0.07, 0.1]})),
        ("name:text=a=b", ("name", {"text": "a=b"})),
        ('layers:score="knn:k=3"', ("layers", {"score": "knn:k=3"})),
        ("layers:score='mylab.scores:Mine:k=3':x=1", ("layers", {"score": "mylab.scores:Mine:k=3", "x": 1})),
        ("combined:scores=['knn:k=3', \"vmf\"]", ("combined", {"scores": ["knn:k=3", "vmf"]})),
        ("name:text=it's:k=3", ("name", {"text": "it's", "k": 3})),
        ("mylab.scores:Mine", ("mylab.scores:Mine", {})),
        ("mylab.scores:Mine:k=3", ("mylab.scores:Mine", {"k": 3})),
    ],
)
def test_a_spec_is_a_name_and_settings_as_in_yaml(text: str, parsed: tuple[str, dict[str, Any]]) -> None:
    assert parse_spec(text) == parsed


@pytest.mark.parametrize("text", ["knn:k=1:j", "knn:=3", ":k=3", "mylab:Mine:k"])
def test_a_spec_out_of_form_is_told_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match=rf"^'{text}': expected name:setting=value, for example knn:k=100\.$"):
        parse_spec(text)


def test_a_value_that_yaml_cannot_read_is_told() -> None:
    with pytest.raises(ConfigError, match=r"cannot read the value '\[1' of k\. Write it as in YAML"):
        parse_spec("knn:k=[1")
