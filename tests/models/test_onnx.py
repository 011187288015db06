"""ONNX files made here node by node, and the same arithmetic in torch."""

from __future__ import annotations

import copy
import hashlib
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from spherood.data import Preprocess
from spherood.data.tensors import normalised
from spherood.errors import CheckpointError, ConfigError, MissingExtraError, ShapeError
from spherood.models import infer, weights_hash
from spherood.models.onnx import from_onnx

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
TensorProto, helper, numpy_helper = onnx.TensorProto, onnx.helper, onnx.numpy_helper

GENERATOR = torch.Generator().manual_seed(0)
CONV, BIAS, LINEAR = (torch.randn(shape, generator=GENERATOR) for shape in ((5, 3, 3, 3), (5,), (4, 5)))
IMAGES = torch.randn(5, 3, 8, 8, generator=GENERATOR)
NODES = [
    helper.make_node("Conv", ["image", "w", "b"], ["map"], pads=[1, 1, 1, 1]),
    helper.make_node("Relu", ["map"], ["relu"]),
    helper.make_node("GlobalAveragePool", ["relu"], ["pooled"]),
    helper.make_node("Flatten", ["pooled"], ["flat"]),
    helper.make_node("Gemm", ["flat", "g"], ["logits"], transB=1),
]
Written = Callable[..., Path]


def in_torch(images: Tensor = IMAGES) -> tuple[Tensor, Tensor]:
    feature = F.conv2d(images, CONV, BIAS, padding=1).relu().mean(dim=(2, 3))
    return feature, feature @ LINEAR.T


def build(
    outputs: Sequence[str] = ("flat", "logits"),
    *more: Any,
    image: tuple[int, Sequence[int | str]] = (TensorProto.FLOAT, ("B", 3, "H", "W")),
    nodes: Sequence[Any] = NODES,
    inputs: Sequence[str] = ("image",),
    types: dict[str, int] | None = None,
) -> Any:
    """Conv, ReLU, pooling and a linear layer, then `more` nodes."""
    graph = helper.make_graph(
        [*nodes, *more],
        "graph",
        [helper.make_tensor_value_info(name, *image) for name in inputs],
        [helper.make_tensor_value_info(name, (types or {}).get(name, TensorProto.FLOAT), None) for name in outputs],
        [numpy_helper.from_array(x.numpy(), name) for x, name in ((CONV, "w"), (BIAS, "b"), (LINEAR, "g"))],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """``written(outputs, node...)``: the path of such a file."""

    def write(*given: Any, **kwargs: Any) -> Path:
        path = tmp_path / "their.onnx"
        path.write_bytes(build(*given, **kwargs).SerializeToString())
        return path

    return write


def fixed(*shape: int | str) -> tuple[int, Sequence[int | str]]:
    return TensorProto.FLOAT, shape


def constant(name: str, *shape: int) -> Any:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(torch.zeros(shape).numpy(), name))


def close(found: Tensor | None, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batch", ["B", 1, 2, 5, 8])
def test_feature_and_logits_are_those_of_torch_whatever_the_batch_size_of_the_graph(
    written: Written, batch: int | str
) -> None:
    encoder = from_onnx(written(image=fixed(batch, 3, 8, 8)), "flat", "logits")
    feature, logits = in_torch()
    found = encoder(IMAGES)
    close(found.feature, feature)
    close(found.logits, logits)
    assert (found.embedding, found.layers) == (None, None)
    close(encoder(IMAGES[:1]).feature, feature[:1])


def test_the_only_output_is_the_feature(written: Written) -> None:
    encoder = from_onnx(written(["flat"]))
    assert (encoder.feature, encoder.logits) == ("flat", None)
    found = encoder(IMAGES)
    close(found.feature, in_torch()[0])
    assert found.logits is None


def test_of_several_outputs_none_is_chosen(written: Written) -> None:
    path = written()
    message = f"{path}: has 2 outputs: 'flat' (B, 5), 'logits' (B, 4). Name the one that is the feature."
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        from_onnx(path)


def test_a_tensor_inside_the_graph_is_read_by_its_name_and_the_file_stays_as_it_is(written: Written) -> None:
    path = written(["logits"])
    before = path.read_bytes()
    encoder = from_onnx(path, "flat", "logits")
    close(encoder(IMAGES).feature, in_torch()[0])
    close(encoder(IMAGES).logits, in_torch()[1])
    assert encoder.content == path.read_bytes() == before
    both = from_onnx(written(["map"]), "flat", "logits")(IMAGES)
    close(both.logits, in_torch()[1])
    same = from_onnx(written(["map"]), "logits", "logits")(IMAGES)
    assert torch.equal(same.feature, same.logits)


def test_a_pooled_map_of_one_pixel_is_flattened(written: Written) -> None:
    for path in (written(["pooled"]), written(["logits"])):
        close(from_onnx(path, "pooled")(IMAGES).feature, in_torch()[0])


def test_a_map_asks_for_its_pooling_at_once_or_when_its_size_shows(written: Written) -> None:
    path = written()
    by_size = from_onnx(path, "map")
    by_size(IMAGES[:, :, :1, :1])  # of one pixel
    written(image=fixed("B", 3, 8, 8))
    for shape, refused in [
        ("(5, 5, 8, 8)", lambda: by_size(IMAGES)),
        ("(B, 5, 8, 8)", lambda: from_onnx(path, "map")),
        ("(B, 5, 8, 8)", lambda: from_onnx(path, "flat", "map")),
    ]:
        with pytest.raises(ConfigError) as told:
            refused()
        assert str(told.value) == (
            f"{path}: 'map' is {shape}, a map for each feature; expected (B, F) or (B, F, 1, 1). Name a tensor after "
            "the pooling, or add a GlobalAveragePool to the graph."
        )


@pytest.mark.parametrize(("axis", "shown"), [(2, "1, 8"), (3, "8, 1")])
def test_a_map_of_one_row_or_column_is_a_map(written: Written, axis: int, shown: str) -> None:
    path = written(["x"], helper.make_node("ReduceMax", ["map"], ["x"], axes=[axis]), image=fixed("B", 3, 8, 8))
    with pytest.raises(ConfigError, match=rf"^{path}: 'x' is \(B, 5, {shown}\), a map for each feature"):
        from_onnx(path)


def test_a_tensor_whose_number_of_axes_shows_when_it_runs_is_judged_then(written: Written) -> None:
    path = written(["x"], helper.make_node("Squeeze", ["pooled"], ["x"]))
    encoder = from_onnx(path)
    close(encoder(IMAGES).feature, in_torch()[0])
    with pytest.raises(ConfigError, match=rf"^{path}: 'x' is \(5,\), expected \(B, F\) or"):  # its batch of one is gone
        encoder(IMAGES[:1])


@pytest.mark.parametrize(
    ("node", "shown"),
    [
        (helper.make_node("Flatten", ["map"], ["x"], axis=0), None),
        (helper.make_node("ReduceMax", ["map"], ["x"], axes=[3], keepdims=0), "(B, 5, ?)"),
        (helper.make_node("ReduceMax", ["flat"], ["x"], axes=[1], keepdims=0), "(B,)"),
        (helper.make_node("ReduceMax", ["flat"], ["x"], keepdims=0), "()"),
    ],
)
def test_what_is_no_row_for_each_image_is_refused_with_its_shape(
    written: Written, node: Any, shown: str | None
) -> None:
    path = written(["flat"], node)
    with pytest.raises(ConfigError) as told:
        from_onnx(path, "x")(IMAGES)
    if shown is None:
        assert str(told.value) == (
            f"{path}: 'x' is (1, 1600) for 5 images, expected a row for each. Export the graph with a dynamic "
            "batch size."
        )
    else:
        assert str(told.value) == f"{path}: 'x' is {shown}, expected (B, F) or (B, F, 1, 1)."


def test_whole_numbers_are_no_feature(written: Written) -> None:
    path = written(
        ["flat", "best"], helper.make_node("ArgMax", ["logits"], ["best"]), types={"best": TensorProto.INT64}
    )
    with pytest.raises(ConfigError, match=f"^{path}: 'best' is tensor\\(int64\\), expected a tensor of floats\\.$"):
        from_onnx(path, "best")
    from_onnx(path, "flat")  # what is not read may be anything


def test_a_misspelt_name_is_answered_with_the_nearest_and_the_outputs(written: Written) -> None:
    path = written(("flat", "logits"), *(helper.make_node("Relu", ["map"], [f"stage{n}"]) for n in range(4)))
    outputs = "Outputs: 'flat' (B, 5), 'logits' (B, 4)."
    for given, near in [
        (("pooling",), "has no tensor 'pooling'. Nearest: 'pooled'. "),
        (("flat", "logit"), "has no tensor 'logit'. Nearest: 'logits'. "),
        (("stage9",), "has no tensor 'stage9'. Nearest: 'stage3', 'stage2', 'stage1'. "),
        (("zzz",), "has no tensor 'zzz'. "),
        (("w",), "has no tensor 'w'. "),  # weights are not computed from an image
    ]:
        with pytest.raises(ConfigError, match=f"^{re.escape(f'{path}: {near}{outputs}')}$"):
            from_onnx(path, *given)


def test_without_onnx_outputs_go_on_working_and_inner_tensors_say_what_is_missing(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    path = written()
    close(from_onnx(path, "flat")(IMAGES).feature, in_torch()[0])
    message = (
        f"{path}: has no output 'pooled'. Outputs: 'flat' (B, 5), 'logits' (B, 4). An inner tensor: needs onnx, "
        "which is not installed. Install it with: pip install 'spherood[onnx]'"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        from_onnx(path, "pooled")


def test_without_onnxruntime_its_install_is_named(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    path = written()
    with pytest.raises(MissingExtraError, match=rf"^{path}: needs onnxruntime, .* pip install 'spherood\[onnx\]'$"):
        from_onnx(path)


def test_the_room_is_imported_without_either() -> None:
    code = "import sys; sys.modules['onnx'] = sys.modules['onnxruntime'] = None; import spherood.models.onnx"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("axes", "size"), [((1, 3, 8, 8), 8), (("B", 3, 8, "W"), None), (("B", 3, "S", "S"), None), ((1, 3, 8, 3), None)]
)
def test_the_size_is_known_where_the_graph_fixes_a_square(
    written: Written, axes: Sequence[int | str], size: int | None
) -> None:
    assert from_onnx(written(image=fixed(*axes)), "flat").size == size


@pytest.mark.parametrize(
    ("images", "got"),
    [
        (IMAGES[:, :, :7, :7], "(5, 3, 7, 7)"),
        (IMAGES[:, :, :, :7], "(5, 3, 8, 7)"),
        (IMAGES[:, :2], "(5, 2, 8, 8)"),
        (IMAGES[0], "(3, 8, 8)"),
        (IMAGES[:0], "(0, 3, 8, 8)"),
        (torch.zeros(()), "()"),
    ],
)
def test_images_that_the_graph_does_not_take_are_told_before_it_runs(
    written: Written, images: Tensor, got: str
) -> None:
    path = written(image=fixed("B", 3, 8, 8))
    message = f"{path}: takes images (B, 3, 8, 8), got {got}. Set the size in the preprocess."
    with pytest.raises(ShapeError, match=f"^{re.escape(message)}$"):
        from_onnx(path, "flat")(images)


def test_a_graph_that_fails_while_it_runs_gives_its_reason_and_logs_nothing(
    written: Written, capfd: pytest.CaptureFixture[str]
) -> None:
    weights = helper.make_node("Add", ["map", "eight"], ["sum"])
    path = written(["x"], constant("eight", 8, 8), weights, helper.make_node("GlobalMaxPool", ["sum"], ["x"]))
    encoder = from_onnx(path)
    encoder(IMAGES)
    with pytest.raises(
        ShapeError, match=rf"^{path}: the graph fails on images \(1, 3, 6, 6\) \([^\n]+\)\. Does it take"
    ):
        encoder(IMAGES[:1, :, :6, :6])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (fixed("B", 8, 8, 3), "is (B, 8, 8, 3): NHWC, channels last; expected NCHW, images (B, 3, S, S). "),
        (fixed(1, "H", "W", 3), "is (1, H, W, 3): NHWC, channels last; expected NCHW, images (B, 3, S, S). "),
        (fixed("B", 1, 8, 8), "is (B, 1, 8, 8), expected images (B, 3, S, S)."),
        (fixed("B", 192), "is (B, 192), expected images (B, 3, S, S)."),
        (fixed("B", 3), "is (B, 3), expected images (B, 3, S, S)."),
        (
            (TensorProto.UINT8, ("B", 3, 8, 8)),
            "is tensor(uint8), expected tensor(float): normalised images. Export the ",
        ),
    ],
)
def test_an_input_that_is_not_normalised_images_channels_first_is_refused(
    written: Written, image: tuple[int, Sequence[int | str]], message: str
) -> None:
    nodes = [helper.make_node("Cast", ["image"], ["cast"], to=1), helper.make_node("Flatten", ["cast"], ["x"])]
    path = written(["x"], image=image, nodes=nodes)
    with pytest.raises(ConfigError) as told:
        from_onnx(path)
    assert str(told.value).startswith(f"{path}: input 'image' {message}")
    if "NHWC" in message:
        assert str(told.value).endswith("Put a Transpose before it; tf2onnx does with --inputs-as-nchw image")


def test_channels_of_an_unknown_number_are_tried(written: Written) -> None:
    close(from_onnx(written(image=fixed("B", "C", 8, 8)), "flat")(IMAGES).feature, in_torch()[0])


@pytest.mark.parametrize(
    ("inputs", "listed"),
    [(("image", "mask"), "2 inputs ('image' (B, 3, 8, 8), 'mask' (B, 3, 8, 8))"), ((), "0 inputs (none)")],
)
def test_another_number_of_inputs_is_refused(written: Written, inputs: Sequence[str], listed: str) -> None:
    nodes = NODES if inputs else [constant("flat", 1, 5)]
    path = written(["flat"], image=fixed("B", 3, 8, 8), inputs=inputs, nodes=nodes)
    message = f"{path}: has {listed}, expected one: images (B, 3, S, S)."
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        from_onnx(path)


def test_weights_that_are_listed_as_inputs_too_are_none(tmp_path: Path) -> None:
    model = build(["flat"])
    model.graph.input.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, (5,)))  # as old exporters do
    (tmp_path / "old.onnx").write_bytes(model.SerializeToString())
    close(from_onnx(tmp_path / "old.onnx")(IMAGES).feature, in_torch()[0])


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_other_precisions_come_out_in_float32(written: Written, kind: int) -> None:
    image = (kind if kind == TensorProto.FLOAT16 else TensorProto.FLOAT, ("B", 3, 8, 8))
    first = helper.make_node("Cast", ["image"], ["single"], to=TensorProto.FLOAT)
    conv = helper.make_node("Conv", ["single", "w", "b"], ["map"], pads=[1, 1, 1, 1])
    last = helper.make_node("Cast", ["flat"], ["x"], to=kind)
    encoder = from_onnx(written(["x"], last, image=image, nodes=[first, conv, *NODES[1:]], types={"x": kind}))
    for images in (IMAGES, IMAGES.half(), IMAGES.double()):
        found = encoder(images).feature
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, in_torch()[0], rtol=1e-2, atol=1e-3)


def test_pixels_go_through_it_as_through_any_network(written: Written) -> None:
    pixels = torch.randint(0, 256, (3, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    preprocess = Preprocess(size=8, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    found = infer(from_onnx(written(image=fixed(2, 3, 8, 8)), "flat", "logits"), pixels, preprocess)
    expected = in_torch(normalised(pixels, preprocess))
    close(found.feature, expected[0])
    close(found.logits, expected[1])


def test_the_file_and_the_names_tell_one_encoder_from_another(written: Written) -> None:
    path = written()
    encoder = from_onnx(path, "flat", "logits")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert str(encoder) == f"OnnxEncoder(sha256={sha256}, feature=flat, logits=logits)"
    again, other = from_onnx(path, "flat", "logits"), from_onnx(path, "logits")
    assert (str(again), weights_hash(again)) == (str(encoder), weights_hash(encoder))
    assert str(other) != str(encoder)
    assert weights_hash(from_onnx(written(["flat"]))) != weights_hash(encoder)


def test_copies_casts_and_modes_change_nothing(written: Written) -> None:
    encoder = from_onnx(written(), "flat", "logits")
    assert not encoder.training
    copied = copy.deepcopy(torch.nn.Sequential(encoder))
    assert copied[0].session is encoder.session
    assert copied[0].digest is not encoder.digest
    with torch.no_grad():
        copied[0].digest.zero_()
    assert "sha256=0000" in str(copied)
    assert "sha256=0000" not in str(encoder)
    for one in (encoder.half(), encoder.to("cpu", torch.float64), encoder.train(), encoder.eval(), copied):
        torch.testing.assert_close(one(IMAGES).logits, in_torch()[1])
    images = IMAGES.clone().requires_grad_()
    assert not encoder(images).feature.requires_grad


def test_it_runs_in_as_many_threads_as_torch(written: Written) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert from_onnx(written(["flat"])).session.get_session_options().intra_op_num_threads == 3
    finally:
        torch.set_num_threads(before)


def test_an_absent_file_and_a_folder_are_told(tmp_path: Path) -> None:
    for path in (tmp_path / "none.onnx", tmp_path):
        with pytest.raises(CheckpointError, match=f"^{path}: no such ONNX file. Check the path.$"):
            from_onnx(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 of another kind", build().SerializeToString()[:-40]])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "damaged.onnx"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as told:
        from_onnx(path)
    pattern = rf"{path}: onnxruntime cannot load it \([A-Z][^\n]+\w\)\. Is it a whole ONNX file\?"
    assert re.fullmatch(pattern, str(told.value))
    assert "[ONNXRuntimeError]" not in str(told.value)
    assert capfd.readouterr() == ("", "")


def test_onnxruntimes_own_format_is_not_onnx(written: Written, tmp_path: Path) -> None:
    path, options = tmp_path / "own.onnx", onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(str(written()), options, providers=["CPUExecutionProvider"])
    with pytest.raises(CheckpointError, match="Is it a whole ONNX file"):
        from_onnx(path, "flat")


def test_weights_in_a_file_of_their_own_are_refused_with_the_command_that_joins_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "apart.onnx"
    onnx.save_model(build(["flat"]), path, save_as_external_data=True, location="apart.bin", size_threshold=0)
    monkeypatch.chdir(tmp_path)  # where onnxruntime would find them
    with pytest.raises(CheckpointError) as told:
        from_onnx(path)
    message, command = str(told.value).split("Make it one: ")
    assert message == f"{path}: its weights lie in a file of their own, expected one file (which ONNX limits to 2 GB). "
    python, *rest = shlex.split(command)
    assert python == "python"
    subprocess.run([sys.executable, *rest], check=True)
    close(from_onnx(tmp_path / "apart.one.onnx")(IMAGES).feature, in_torch()[0])


def test_a_file_that_only_says_where_it_comes_from_is_no_file_apart(tmp_path: Path) -> None:
    model = build(["flat"])
    helper.set_model_props(model, {"location": "Heidelberg"})
    (tmp_path / "their.onnx").write_bytes(model.SerializeToString())
    close(from_onnx(tmp_path / "their.onnx")(IMAGES).feature, in_torch()[0])
