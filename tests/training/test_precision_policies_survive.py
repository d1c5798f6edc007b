"""Policies survive what happens to models: copies, files, compilers, wrappers, checkpointing, quantization."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

import bitdial as bd
from bitdial.training import WeightAverage
from bitdial.training.mixed_precision import apply_policies, remove_policies
from bitdial.training.step.policy_layers import is_covered
from tests.layers.nets import ResidualNet, images, rows
from tests.training.probing import Net, seen, tokens

F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16
STAGES = [("*", "bfloat16"), ("head", {0: "float32", 5: "float16"})]


# --- copies and files ---------------------------------------------------------------------------------------------


def test_a_copy_works_on_its_own_with_the_formats_of_when_it_was_made() -> None:
    model = Net()
    applied = apply_policies(model, STAGES)
    applied.set_step(5)
    twin = copy.deepcopy(model)
    applied.set_step(0)
    assert (twin(tokens()).dtype, model(tokens()).dtype) == (F16, F32)
    with torch.no_grad():
        model.head.weight.zero_()
    applied.remove()
    assert is_covered(twin.head)
    assert not is_covered(model.head)
    assert twin(tokens()).abs().sum() > 0
    assert seen(twin)["blocks.0.mlp.0"] == BF16


def test_the_weight_average_of_a_model_with_policies_is_one_too() -> None:
    model = Net()
    apply_policies(model, STAGES)
    average = WeightAverage(model)
    average.update(model)
    average.module(tokens())
    assert seen(average.module)["stem"] == BF16
    assert seen(average.module)["head"] == F32


def test_pickle_and_torch_save_keep_the_policies() -> None:
    model = Net()
    apply_policies(model, STAGES).set_step(5)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    expected = model(tokens())
    for back in (pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False)):
        assert torch.equal(back(tokens()), expected)
        assert isinstance(back, Net)
        remove_policies(back)
        assert type(back) is Net
        assert back(tokens()).dtype == F32


# --- compilers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)])
@pytest.mark.parametrize("compiled_first", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_one_graph_per_format_and_no_break(backend: str, compiled_first: bool) -> None:
    torch._dynamo.reset()
    graphs: list[Any] = []
    compiler = torch._dynamo.lookup_backend(backend)

    def counting(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return compiler(graph, inputs)

    model, plain = Net(), Net()
    plain.load_state_dict(model.state_dict())
    compiled = torch.compile(model, backend=counting, fullgraph=True)
    applied = apply_policies(compiled if compiled_first else model, STAGES)
    by_hand = apply_policies(plain, STAGES)
    for step in (0, 1, 2, 5, 6, 7, 0, 6):
        applied.set_step(step)
        by_hand.set_step(step)
        x = tokens(step).requires_grad_()
        compiled(x).float().sum().backward()
        y = tokens(step).requires_grad_()
        plain(y).float().sum().backward()
        assert torch.equal(x.grad, y.grad)  # type: ignore[arg-type]
    assert len(graphs) == 2
    assert compiled(tokens()).dtype == F16


def test_compiled_under_an_autocast_of_its_surroundings() -> None:
    torch._dynamo.reset()
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6))
    apply_policies(model, {"1": "float32", "2": "float16"})
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.autocast("cpu", BF16):
        assert torch.equal(compiled(rows()), model(rows()))
        assert compiled(rows()).dtype == F16
    assert not torch.is_autocast_enabled("cpu")


# --- distributed --------------------------------------------------------------------------------------------------


def test_distributed_data_parallel_trains_as_the_bare_model(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model, bare = Net(), Net()
        bare.load_state_dict(model.state_dict())
        wrapped = DistributedDataParallel(model)
        applied, _ = apply_policies(wrapped, STAGES), apply_policies(bare, STAGES)
        assert set(applied.dtypes()) >= {"", "stem", "blocks.0.attention", "head"}
        for net in (wrapped, bare):
            net(tokens()).sum().backward()
        assert seen(model)["stem"] == BF16
        assert all(torch.equal(a.grad, b.grad) for a, b in zip(model.parameters(), bare.parameters(), strict=True))  # type: ignore[arg-type]
    finally:
        torch.distributed.destroy_process_group()


def replica_of(module: nn.Module) -> nn.Module:
    """What DataParallel gives each thread: the same, with other parameters, which are no longer called so."""
    new = module._replicate_for_data_parallel()
    for name, child in module._modules.items():
        new._modules[name] = None if child is None else replica_of(child)
    for name, parameter in module._parameters.items():
        setattr(new, name, None if parameter is None else parameter.detach() * 2)
    return new


def test_replicas_of_data_parallel_compute_with_their_own_weights_each_in_its_thread() -> None:
    model = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False))
    apply_policies(model, {"*": "bfloat16", "1": "float16"})
    replicas, outputs = [replica_of(model) for _ in range(4)], dict[int, Tensor]()
    barrier = threading.Barrier(4)

    def work(index: int) -> None:
        barrier.wait()
        for _ in range(20):
            outputs[index] = replicas[index](rows())

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = model(rows()) * 4
    assert all(torch.equal(outputs[index], expected) for index in range(4))
    assert expected.dtype == F16


def test_policies_meet_a_model_inside_of_data_parallel_by_its_own_names() -> None:
    model = Net()
    applied = apply_policies(nn.DataParallel(model), {"head": "bfloat16"})
    assert applied.dtypes() == {"head": BF16}
    assert model(tokens()).dtype == BF16


# --- sharing, checkpointing, hooks, parametrizations --------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["first", "second"])
def test_a_layer_that_stands_in_two_places_is_found_under_either_name(pattern: str) -> None:
    model = nn.Module()
    model.first = model.second = nn.Linear(6, 6)  # type: ignore[assignment]
    applied = apply_policies(model, {pattern: "bfloat16"})
    assert model.second(rows()).dtype == BF16  # type: ignore[operator]
    assert applied.dtypes()[pattern] == BF16
    applied.remove()
    assert type(model.first) is nn.Linear


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputation_gives_the_same_gradients(reentrant: bool) -> None:
    class Recomputing(Net):
        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            for block in self.blocks:
                x = checkpoint(block, x, use_reentrant=reentrant)
            return self.head(x)

    model, plain = Recomputing(), Net()
    plain.load_state_dict(model.state_dict())
    rules = [("*", "bfloat16"), ("*.attention", "float32"), ("blocks.1.mlp.2", "float16")]
    for net in (model, plain):
        apply_policies(net, rules)
        with torch.autocast("cpu", F16):
            output = net(tokens())
        output.float().sum().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(model.parameters(), plain.parameters(), strict=True))  # type: ignore[arg-type]


def test_hooks_still_fire_and_can_still_be_removed() -> None:
    model, calls = nn.Sequential(nn.Linear(6, 6)), list[str]()
    handle = model[0].register_forward_hook(lambda *_: calls.append("before"))
    apply_policies(model, {"0": "bfloat16"})
    model[0].register_forward_hook(lambda module, args, output: calls.append(str(output.dtype)))
    model(rows())
    handle.remove()
    model(rows())
    assert calls == ["before", "torch.bfloat16", "torch.bfloat16"]


def test_a_parametrized_layer_follows_and_one_parametrized_later_is_left_without_policy_by_remove() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 6)), nn.Linear(6, 6))
    applied = apply_policies(model, {"*": "bfloat16"})
    assert model(rows()).dtype == BF16
    parametrizations.weight_norm(model[1])
    assert model(rows()).dtype == BF16
    applied.remove()
    assert model(rows()).dtype == F32
    assert not any(is_covered(module) for module in model.modules())


def test_the_signature_of_forward_stays_readable() -> None:
    model = Net()
    apply_policies(model, {"*": "bfloat16"})
    assert list(inspect.signature(model.forward).parameters) == ["x"]
    assert type(model).__name__ == "Net"


# --- quantized layers ---------------------------------------------------------------------------------------------


def test_quantized_layers_follow_policies_and_the_dial_at_once() -> None:
    model = bd.quantize(ResidualNet(), weights=4, activations=4, gradients=8)
    applied = apply_policies(model, [("conv1", "float32"), ("conv2", {0: "bfloat16", 5: "float32"})])
    outputs: dict[str, Any] = {}
    for name in ("conv1", "conv2", "stem"):
        model.get_submodule(name).register_forward_hook(lambda m, a, y, name=name: outputs.update({name: y.dtype}))
    with torch.autocast("cpu", F16):
        model(images()).float().sum().backward()
    assert outputs == {"conv1": F32, "conv2": BF16, "stem": F16}
    assert all(p.grad is not None and p.grad.dtype == F32 for p in model.parameters())
    bd.BitDial(model).set(2)
    applied.set_step(5)
    model(images())
    assert outputs == {"conv1": F32, "conv2": F32, "stem": F32}
    assert bd.BitDial(model).weights == [2.0, 2.0]
    assert model.conv1.range_low.dtype == F32


def test_a_quantized_layer_in_float32_computes_what_it_does_without_autocast() -> None:
    model = bd.quantize(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), 3, 3, skip=())
    expected = model(rows())
    apply_policies(model, {"*": "float32"})
    with torch.autocast("cpu", BF16):
        assert torch.equal(model(rows()), expected)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_quantized_layers_with_policies_compile_to_one_graph_for_all_widths(backend: str) -> None:
    torch._dynamo.reset()
    model = bd.quantize(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), 8, 8, skip=())
    dial = bd.BitDial(model)
    apply_policies(model, {"*": "bfloat16", "2": "float32"})
    graphs: list[Any] = []
    compiler = torch._dynamo.lookup_backend(backend)
    compiled = torch.compile(model, backend=lambda g, i: (graphs.append(g), compiler(g, i))[1], fullgraph=True)
    for bits in (8, 4, 2):
        dial.set(bits)
        output = compiled(rows())
        output.sum().backward()
        assert output.dtype == F32
    assert len(graphs) == 1


# --- torch's own attention, transformers --------------------------------------------------------------------------


def kinds_of_products(model: nn.Module, x: Tensor) -> tuple[set[torch.dtype], set[str]]:
    """Dtypes that matrix products give in a forward pass, and the names of fused attention kernels."""
    from torch.utils._python_dispatch import TorchDispatchMode

    products: set[torch.dtype] = set()
    fused: set[str] = set()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            name = func.name()
            if name in ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"):
                products.add(out.dtype)
            if "_transformer_encoder_layer" in name or "native_multi_head" in name:
                fused.add(name)
            return out

    with Watch():
        model(x)
    return products, fused


@pytest.mark.parametrize("training", [True, False])
def test_attention_computes_in_its_format_in_training_and_in_evaluation(training: bool) -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, x, value=x, need_weights=False)[0]

    model = Attends().train(training).requires_grad_(training)
    x = torch.randn(2, 5, 8)
    if not training:
        assert kinds_of_products(model, x)[1]  # without policies the fused kernel is taken
    apply_policies(model, {"attention": "bfloat16"})
    products, fused = kinds_of_products(model, x)
    assert (products, fused) == ({BF16}, set())


@pytest.mark.parametrize("training", [True, False])
def test_a_layer_inside_of_torchs_transformer_is_called_in_evaluation_too(training: bool) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).train(training).requires_grad_(training)
    flags = [(one.activation_relu_or_gelu, model.use_nested_tensor) for one in model.layers]
    applied = apply_policies(model, {"*": "float32", "*.linear1": "bfloat16"})
    products, fused = kinds_of_products(model, torch.randn(2, 5, 8))
    assert BF16 in products
    assert F32 in products
    assert fused <= {"aten::_native_multi_head_attention"}
    applied.remove()
    assert [(one.activation_relu_or_gelu, model.use_nested_tensor) for one in model.layers] == flags


def test_gpt2_keeps_its_attention_in_float32_and_saves_as_before(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra text is not installed")
    config = transformers.GPT2Config(n_layer=2, n_head=2, n_embd=16, vocab_size=32, n_positions=16)
    model = transformers.GPT2LMHeadModel(config)
    keys = list(model.state_dict())
    outputs: dict[str, Any] = {}
    apply_policies(model, [("*", "bfloat16"), ("*.attn", "float32")])
    for name in ("transformer.h.0.attn.c_attn", "transformer.h.0.mlp.c_fc", "transformer.h.1.attn.c_proj"):
        model.get_submodule(name).register_forward_hook(lambda m, a, y, name=name: outputs.update({name: y.dtype}))
    ids = torch.arange(8).reshape(1, 8)
    model(input_ids=ids, labels=ids).loss.backward()
    assert outputs == {
        "transformer.h.0.attn.c_attn": F32,
        "transformer.h.0.mlp.c_fc": BF16,
        "transformer.h.1.attn.c_proj": F32,
    }
    model.save_pretrained(tmp_path)
    back = transformers.GPT2LMHeadModel.from_pretrained(tmp_path)
    assert list(back.state_dict()) == keys
    assert back.config.architectures == ["GPT2LMHeadModel"]
    assert model.generate(ids, max_new_tokens=2, do_sample=False, pad_token_id=0).shape == (1, 10)
