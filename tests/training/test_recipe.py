from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from spherood.errors import ConfigError
from spherood.losses import CIDER
from spherood.schema import write_yaml
from spherood.training import load_recipe
from spherood.training.recipe import LossTerm

TEXT = """
name: digits
data: {sample: digits}
loss:
  - use: cider
    with: {temperature: 0.2}
training: {epochs: 3}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "digits.yaml").write_text(TEXT)
    return tmp_path / "digits.yaml"


def test_a_recipe_is_read_and_what_it_leaves_out_is_filled_in(path: Path) -> None:
    recipe = load_recipe(path)
    assert (recipe.name, recipe.data.sample, recipe.training.epochs) == ("digits", "digits", 3)
    assert recipe.loss == (LossTerm(use="cider", with_={"temperature": 0.2}),)
    assert (recipe.training.batch, recipe.schedule.lr, recipe.model.encoder) == (512, 0.5, "resnet18")


def test_changes_apply_one_after_the_other_and_make_keys_that_are_not_there(path: Path) -> None:
    recipe = load_recipe(
        path, ["training.epochs=20", "schedule.lr=1e-2", "model.head=mlp", "training.epochs=7", "seed=4"]
    )
    assert (recipe.training.epochs, recipe.schedule.lr, recipe.model.head, recipe.seed) == (7, 0.01, "mlp", 4)
    assert load_recipe(path, ["views.scale=[0.2, 1.0]"]).views.scale == (0.2, 1.0)
    assert load_recipe(path, ["protocol=a=b"]).protocol == "a=b"  # only the first = parts key and value


def test_a_change_reaches_the_settings_of_a_loss_by_its_name(path: Path) -> None:
    changes = ["loss.cider.temperature=0.5", "loss.cider.times=2", "loss.cider.begin=1", "training.epochs=1"]
    with pytest.raises(ConfigError, match="no loss covers epoch 0"):
        load_recipe(path, changes)
    (term,) = load_recipe(path, [*changes[:2], "loss.cider.compactness_weight=1"]).loss
    assert (term.times, term.begin) == (2, 0)
    assert (term.with_["temperature"], term.with_["compactness_weight"]) == (0.5, 1)
    twice = "loss=[{use: cider}, {use: cider}]"
    with pytest.raises(ConfigError, match=r"there are several losses 'cider' in this recipe\. Change the file\."):
        load_recipe(path, [twice, "loss.cider.times=2"])


def test_a_written_recipe_reads_back_as_the_same(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path, ["data.sample=null", "data.list=train.txt"])
    (tmp_path / "again.yaml").write_text(write_yaml(recipe))
    assert load_recipe(tmp_path / "again.yaml") == recipe


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("training.epoch=3", "digits.yaml: training: there is no key 'epoch' here. Did you mean 'epochs'?"),
        ("trainin.epochs=3", "digits.yaml: (top level): there is no key 'trainin' here. Did you mean 'training'?"),
        ("data.fodler=x", "digits.yaml: data: there is no key 'fodler' here. Did you mean 'folder'?"),
        ("training.epochs=many", "digits.yaml: training.epochs: Input should be a valid integer"),
        ("training.epochs=0", "digits.yaml: training.epochs: Input should be greater than or equal to 1"),
        ("training.precision=16", "digits.yaml: training.precision: Input should be '32-true' or 'bf16-mixed'"),
        ("model.encoder=resnet21", "digits.yaml: model.encoder: there is no 'resnet21'. Did you mean 'resnet20'?"),
        ("loss=[]", "digits.yaml: loss: Tuple should have at least 1 item"),
        ("loss=[{use: cider, wiht: {}}]", "digits.yaml: loss.0: there is no key 'wiht' here. Did you mean 'with'?"),
        ("name=../runs", "digits.yaml: name: String should match pattern"),
        ("training.epochs", "--set training.epochs: expected key=value, for example training.epochs=20."),
        ("=3", "--set =3: expected key=value"),
        ("training.epochs.x=3", "--set training.epochs.x=3: 'epochs' holds no keys of its own."),
        (
            "loss.0.times=2",
            "--set loss.0.times=2: there is no loss '0' in this recipe. Known: cider. Write it as loss.",
        ),
        ("loss.sider.times=2", "there is no loss 'sider' in this recipe. Did you mean 'cider'? Write it as loss.NAME"),
        ("loss.cider.temprature=2", "losses: 'cider' has no setting 'temprature'. Did you mean 'temperature'?"),
        ("loss.cider=2", "there is no loss 'cider' in this recipe."),
        ("training.epochs=[", "--set training.epochs=[: cannot read the value '['. Write it as in YAML."),
    ],
)
def test_a_change_that_makes_no_sense_is_told_with_its_key(path: Path, change: str, message: str) -> None:
    with pytest.raises(ConfigError) as told:
        load_recipe(path, [change])
    assert message in str(told.value)


def test_a_file_that_is_no_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"No recipe at .*none\.yaml\. Check the path"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- a\n- b\n")
    with pytest.raises(ConfigError, match=r"list\.yaml: a recipe is a mapping of keys to values"):
        load_recipe(tmp_path / "list.yaml")
    (tmp_path / "bare.yaml").write_text("name: bare\ndata: {sample: digits}\n")
    with pytest.raises(ConfigError, match=r"bare\.yaml: loss: Field required"):
        load_recipe(tmp_path / "bare.yaml")


def test_a_loss_gets_the_classes_and_dim_it_asks_for_and_its_settings() -> None:
    loss = LossTerm(use="cider", with_={"temperature": 0.3}).build(classes=7, dim=5, feature_dim=512)
    assert isinstance(loss, CIDER)
    assert loss.prototypes.shape == (7, 5)
    assert loss.temperature == 0.3
    LossTerm(use="supcon").build(classes=7, dim=5, feature_dim=512)  # asks for neither


def test_a_setting_of_the_recipe_wins_over_what_is_filled_in() -> None:
    assert LossTerm(use="cider", with_={"dim": 9}).build(classes=7, dim=5, feature_dim=512).prototypes.shape == (7, 9)  # type: ignore[operator, union-attr]


def test_a_users_own_loss_is_found_by_its_import_path(mylab: ModuleType) -> None:
    loss = LossTerm(use="mylab.losses:Squares", with_={"power": 3}).build(classes=7, dim=5, feature_dim=512)
    assert type(loss) is mylab.Squares
    assert (loss.classes, loss.dim, loss.power) == (7, 512, 3)  # it reads the feature, so that is its dim


@pytest.mark.parametrize(
    ("term", "message"),
    [
        (LossTerm(use="sider"), "losses: there is no 'sider'. Did you mean 'cider'?"),
        (LossTerm(use="cider", with_={"temprature": 1}), "losses: 'cider' has no setting 'temprature'. Did you mean"),
        (LossTerm(use="cider", with_={"temperature": -1}), "CIDER: temperatures must be > 0, got -1"),
        (LossTerm(use="nolab.losses:Mine"), "losses: cannot import 'nolab.losses:Mine'"),
        (LossTerm(use="builtins:dict"), "loss: 'builtins:dict' is no torch.nn.Module"),
        (LossTerm(use="math:pi"), "loss: 'math:pi' is no torch.nn.Module"),
    ],
)
def test_a_loss_that_cannot_be_made_is_told(term: LossTerm, message: str) -> None:
    with pytest.raises(ConfigError) as told:
        term.build(classes=3, dim=4, feature_dim=512)
    assert str(told.value).startswith(message)
