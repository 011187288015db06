from __future__ import annotations

import torch
from torch import nn

from spherood.models import Model, ModelSettings, build_model, weights_hash

SMALL = ModelSettings(encoder="resnet8", width=4, head="mlp", dim=6, classifier=True)
IMAGES = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_outputs_are_feature_unit_embedding_and_logits() -> None:
    model = build_model(SMALL, classes=3).eval()
    feature, embedding, logits, _ = model(IMAGES)
    assert feature.shape == (5, 16)
    assert logits is not None
    assert embedding is not None
    torch.testing.assert_close(feature, model.encoder(IMAGES))
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(5))
    head = model.get_submodule("head")
    torch.testing.assert_close(embedding, head(feature) / head(feature).norm(dim=1, keepdim=True))
    torch.testing.assert_close(logits, model.get_submodule("classifier")(feature))
    assert logits.shape == (5, 3)


def test_layers_come_on_request_alone_and_change_nothing_else() -> None:
    model = build_model(SMALL, classes=3).eval()
    plain, layered = model(IMAGES), model.layered(IMAGES)
    assert plain.layers is None
    for one, other in zip(plain[:3], layered[:3], strict=True):
        assert torch.equal(one, other)
    assert layered.layers is not None
    assert [layer.shape for layer in layered.layers] == [(5, 4), (5, 8), (5, 16)]
    assert layered.layers[-1] is layered.feature


def test_an_encoder_without_stages_has_no_layers() -> None:
    model = Model(nn.Sequential(nn.Flatten(), nn.Linear(768, 4)), None, nn.Linear(4, 2))
    plain, layered = model(IMAGES), model.layered(IMAGES)
    assert layered.layers is None
    assert torch.equal(layered.feature, plain.feature)
    assert torch.equal(layered.logits, plain.logits)


def test_a_model_without_head_or_classifier_says_none() -> None:
    bare = build_model(ModelSettings(encoder="resnet8", width=4), classes=3).eval()(IMAGES)
    assert bare.embedding is None
    assert bare.logits is None


def test_the_head_is_one_layer_or_two_with_the_features_width_between() -> None:
    linear = build_model(SMALL.model_copy(update={"head": "linear"}), classes=3).get_submodule("head")
    assert {name: tuple(weight.shape) for name, weight in linear.state_dict().items()} == {
        "weight": (6, 16),
        "bias": (6,),
    }
    mlp = build_model(SMALL, classes=3).get_submodule("head")
    assert [type(layer) for layer in mlp.children()] == [nn.Linear, nn.ReLU, nn.Linear]
    assert [tuple(weight.shape) for weight in mlp.parameters()] == [(16, 16), (16,), (6, 16), (6,)]


def test_a_batch_of_one_gives_the_row_it_has_in_a_larger_batch() -> None:
    model = build_model(SMALL, classes=3).eval()
    alone, together = model(IMAGES[2:3]), model(IMAGES)
    for one, many in zip(alone[:3], together[:3], strict=True):
        torch.testing.assert_close(one, many[2:3], rtol=1e-5, atol=1e-6)
    assert model.train()(IMAGES[2:3]).embedding.shape == (1, 6)  # batch norm still sees 16 places


def test_the_same_seed_gives_the_same_weights_and_another_others() -> None:
    first = build_model(SMALL, classes=3, seed=1)
    assert weights_hash(build_model(SMALL, classes=3, seed=1)) == weights_hash(first)
    assert weights_hash(build_model(SMALL, classes=3, seed=2)) != weights_hash(first)


def test_building_leaves_torchs_own_generator_untouched() -> None:
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first = weights_hash(build_model(SMALL, classes=3))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(7)
    assert weights_hash(build_model(SMALL, classes=3)) == first  # nor does it depend on it


def test_the_hash_follows_every_single_weight_and_buffer() -> None:
    model = build_model(SMALL, classes=3)
    plain = weights_hash(model)
    seen = {plain}
    state = model.state_dict()
    for tensor in state.values():
        place = tensor.view(-1)[-1:]
        kept = place.clone()
        place.add_(1)
        seen.add(weights_hash(model))
        place.copy_(kept)
    assert len(seen) == len(state) + 1
    assert weights_hash(model) == plain


def test_the_hash_tells_names_shapes_and_types_apart() -> None:
    class Holder(nn.Module):
        def __init__(self, name: str, value: torch.Tensor) -> None:
            super().__init__()
            self.register_buffer(name, value)

    zeros = torch.zeros(2, 3)
    holders = [
        Holder("a", zeros),
        Holder("b", zeros),
        Holder("a", zeros.T.contiguous()),
        Holder("a", zeros.int()),
        Holder("a", torch.zeros(2, 3, dtype=torch.bfloat16)),
    ]
    assert len({weights_hash(holder) for holder in holders}) == 5


def test_the_hash_does_not_see_how_weights_lie_in_memory() -> None:
    model = build_model(SMALL, classes=3)
    plain = weights_hash(model)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert not model.get_submodule("encoder.layer1.0.conv1").weight.is_contiguous()  # type: ignore[operator, union-attr]
    assert weights_hash(model) == plain
