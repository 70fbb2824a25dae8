"""Every tensor on the net's device, by doubles of CUDA and MPS that need no GPU.

torch's FakeTensors know their device and shape alone, so that full-size work costs nothing; the tensors of
`labelled_device` have values too, for what autograd, the optimiser and the boxes compute.
"""

from __future__ import annotations

import contextlib
import dataclasses

import numpy as np
import pytest
import torch
from labelled_device import labelled
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode

import vggfeat
from vggfeat.datasets import Sample
from vggfeat.datasets.decoding import Decoded
from vggfeat.datasets.listing import from_paths
from vggfeat.inference.blocks import describe_blocks
from vggfeat.inference.dense import DenseNet
from vggfeat.inference.extractor import Extractor
from vggfeat.inference.localiser import Localiser
from vggfeat.inference.runner import Rescaled
from vggfeat.inference.scorer import Scorer
from vggfeat.inference.settings import DescriptorSettings
from vggfeat.nets.catalog import Preprocessing
from vggfeat.nets.networks import VGG, glorot_
from vggfeat.nets.weights import load_net
from vggfeat.stages import train as stages_train
from vggfeat.training.crops import Batch
from vggfeat.training.ranks import Ranks
from vggfeat.training.recipe import Recipe
from vggfeat.training.tasks import task_of
from vggfeat.training.trainer import Trainer

CUDA, MPS = torch.device("cuda:0"), torch.device("mps")
CLASSES = 6


def moved(self, device=None, memory_format=torch.preserve_format):
    """Module.to by new parameters: it cannot swap the contents of FakeTensors."""
    for module in self.modules():
        for name, value in module._parameters.items():
            form = memory_format if value.ndim == 4 else torch.preserve_format
            there = value.detach().to(device=device or value.device).clone(memory_format=form)
            module._parameters[name] = torch.nn.Parameter(there, requires_grad=value.requires_grad)
    return self


def as_numpy(self):
    """A FakeTensor's shape as an array of zeros; as with real tensors, only from the CPU."""
    assert self.device.type == "cpu"
    return np.zeros(tuple(self.shape), {torch.uint8: np.uint8}.get(self.dtype, np.float32))


@pytest.fixture
def cuda(monkeypatch):
    """Inside it, tensors are FakeTensors and cuda:0 is a device: mixing devices in one operation raises."""
    # What asks the driver, and FakeTensors cannot answer.
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self, *args: self)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (8 << 30, 8 << 30))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.nn.Module, "to", moved)
    monkeypatch.setattr(torch.Tensor, "numpy", as_numpy)
    benchmark = torch.backends.cudnn.benchmark
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        try:
            torch.ones(1, device=CUDA)[:1]
        except RuntimeError:
            pytest.skip("this torch asks the driver about FakeTensors too")
        yield mode
    torch.backends.cudnn.benchmark = benchmark


def narrow(precision: str = "fp32") -> VGG:
    net = VGG("A", width=0.125, num_classes=CLASSES).to(CUDA)
    net.precision = precision
    net.preprocessing = Preprocessing("BGR", 1.0, (100.0, 110.0, 120.0), (1.0, 2.0, 3.0), "bilinear")
    return net


def pictures(*sizes: tuple[int, int]) -> list[np.ndarray]:
    return [np.zeros((*size, 3), np.uint8) for size in sizes]


SAME, MIXED = [(224, 240)] * 3, [(224, 224), (240, 224), (230, 256)]


def test_the_double_knows_devices(cuda):
    with pytest.raises(Exception, match="devices,? cuda:0.*cpu|two different devices"):
        torch.ones(2, device=CUDA) + torch.ones(2)


@pytest.mark.parametrize("sizes", [SAME, MIXED], ids=["equal", "padded"])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("layers", [("fc7",), ("pool5", "conv3_1", "fc6", "scores"), ("conv2_1",)])
def test_the_dense_form_stays_on_its_device(cuda, sizes, flip, precision, layers):
    dense = DenseNet(narrow(precision), layers, most_padding=0.9)
    found = dense.pooled(pictures(*sizes), flip=flip)
    assert [(one.device, one.dtype, one.shape) for one in found] == [
        (CUDA, torch.float32, (3, dim)) for dim in dense.dims
    ]
    assert {one.device for one in dense.maps(pictures(*sizes), flip=flip)} == {CUDA}


@pytest.mark.parametrize("pool", ["max", "gem", "none"])
def test_every_pooling_stays_on_its_device(cuda, pool):
    sizes = [(224, 224)] * 2 if pool == "none" else MIXED
    found = DenseNet(narrow(), ("pool5",), pool=pool, most_padding=0.9).pooled(pictures(*sizes))
    assert {one.device for one in found} == {CUDA}


@pytest.mark.parametrize("view", ["dense", "crops", "both", "center"])
def test_posteriors_of_several_nets_stay_on_their_device(cuda, view):
    scorer = Scorer([narrow(), narrow()], [(256,), (256, 288)], [np.array([2, 0, 1]), np.arange(3)], view=view)
    shape = {256: (256, 300), 288: (288, 330)}
    rescaled = [
        Rescaled(None, (300, 256), {("image", "bilinear", Q): pictures(size)[0] for Q, size in shape.items()})
        for _ in range(2)
    ]
    out = scorer.run(rescaled)
    scorer.close()
    assert (out.device, out.shape) == (CUDA, (2, 3))


def batch(images: int, boxes: bool, features: tuple[int, ...] | None) -> Batch:
    return Batch(
        torch.zeros(images, 224, 224, 3, dtype=torch.uint8),
        torch.zeros(images, 3),
        torch.zeros(images, dtype=torch.int64),
        torch.ones(images),
        0,
        0,
        [],
        torch.zeros(images, 2, 4) if boxes else None,
        None if features is None else torch.zeros(images, *features),
    )


@pytest.fixture
def drawn_on(monkeypatch):
    """Dropout's masks without a generator, which needs a real device; returns the devices that were asked for."""
    asked = []

    def generator(device):
        asked.append(torch.device(device))
        return torch._C.Generator()  # the CPU's

    def bernoulli(self, p, *, generator):
        return self.logical_not()

    monkeypatch.setattr(torch, "Generator", generator)
    monkeypatch.setattr(torch.Tensor, "bernoulli", bernoulli)
    return asked


@pytest.mark.parametrize("task", ["classify", "localise"])
@pytest.mark.parametrize("trainable", ["all", "fc8", "conv5_1"])
@pytest.mark.parametrize("computed", [False, True])
def test_an_update_and_a_validation_stay_on_their_device(cuda, drawn_on, monkeypatch, task, trainable, computed):
    if computed and trainable == "all":
        pytest.skip("nothing is frozen")
    losses = []
    monkeypatch.setattr(
        torch.Tensor, "backward", lambda self: losses.append(self)
    )  # autograd would start a thread for the real device
    recipe = Recipe(net="A", task=task)
    its_task = task_of(recipe, CLASSES)
    net = VGG("A", width=0.125, num_classes=its_task.outputs)
    net.preprocessing = narrow().preprocessing
    sgd = dataclasses.replace(recipe.sgd, batch_size=4, trainable=trainable)
    trainer = Trainer(
        net, sgd, seed=0, precision="fp32", ranks=Ranks(0, 1, CUDA), micro_batch=2, task=its_task, computed=computed
    )
    features = trainer.form.frozen_shape() if computed else None
    given = batch(4, its_task.needs_boxes, features)
    assert trainer.update(given, 0.01).device == CUDA and drawn_on == [CUDA]
    assert {(loss.device, loss.requires_grad) for loss in losses} == {(CUDA, True)} and len(losses) == 2
    assert {parameter.device for parameter in net.parameters()} == {CUDA}
    assert trainer.validate([given]).device == torch.device("cpu")
    if trainable != "all":
        assert trainer.frozen(batch(4, False, None)).device == torch.device("cpu")
    assert trainer._fits(2)


def made_of(task, trainable, computed, device, precision="fp32"):
    """A trainer of a narrow net on a device, and a batch for it."""
    recipe = Recipe(net="A", task=task)
    its_task = task_of(recipe, CLASSES)
    net = glorot_(VGG("A", width=1 / 32, num_classes=its_task.outputs))
    net.preprocessing = Preprocessing("BGR", 1.0, (100.0, 110.0, 120.0), (1.0, 2.0, 3.0), "bilinear")
    sgd = dataclasses.replace(recipe.sgd, batch_size=4, trainable=trainable)
    ranks = Ranks(0, 1, device)
    trainer = Trainer(
        net, sgd, seed=0, precision=precision, ranks=ranks, micro_batch=2, task=its_task, computed=computed
    )
    given = batch(4, its_task.needs_boxes, trainer.form.frozen_shape() if computed else None)
    values = torch._C.Generator().manual_seed(0)
    for tensor in (given.shifts, given.features if computed else given.crops, given.boxes):
        if tensor is not None:
            tensor.copy_(torch.rand(tensor.shape, generator=values).mul_(255 if tensor is given.crops else 1))
    given.labels.copy_(torch.arange(4) % CLASSES)
    return trainer, given


@pytest.mark.parametrize("task", ["classify", "localise"])
@pytest.mark.parametrize(("trainable", "computed"), [("all", False), ("fc8", True), ("conv5_1", False)])
@pytest.mark.parametrize("device", [CUDA, MPS], ids=str)
def test_gradients_and_the_optimiser_stay_on_their_device_and_give_what_the_cpu_gives(
    monkeypatch, task, trainable, computed, device
):
    rates = (0.01, 0.001) if task == "classify" else (1e-5, 1e-6)  # boxes' losses are in pixels
    with labelled(monkeypatch) as mode:
        trainer, given = made_of(task, trainable, computed, device)
        for rate in rates:
            assert trainer.update(given, rate).device == device
        trained = [p for p in trainer.net.parameters() if p.requires_grad]
        assert {p.grad.device for p in trained} == {device}
        assert {trainer.optimizer.state[p]["momentum_buffer"].device for p in trained} == {device}
        trainer.load_optimizer(trainer.optimizer.state_dict())
        assert trainer.validate([given]).device == torch.device("cpu")
        if computed:
            crops = dataclasses.replace(given, crops=torch.zeros(4, 224, 224, 3, dtype=torch.uint8))
            assert trainer.frozen(crops).numpy().shape == tuple(given.features.shape)
        names = {name.split(".")[1] for name in mode.launched}
        fused = {"_fused_sgd_"} if device == CUDA else set()  # the trainer has no fused step for MPS
        assert names & {"_fused_sgd_"} == fused and (computed or "threshold_backward" in names)
        found = [p.detach().cpu().numpy() for p in trainer.net.parameters()]
        checkpoint = trainer.net.checkpoint()["state_dict"]
        assert {value.device.type for value in checkpoint.values()} == {"cpu"}
    plain, given = made_of(task, trainable, computed, torch.device("cpu"))
    for rate in rates:
        plain.update(given, rate)
    for ours, expected in zip(found, plain.net.parameters(), strict=True):
        assert np.allclose(ours, expected.detach().numpy(), rtol=1e-4, atol=1e-6)


def test_losses_are_scaled_for_fp16_on_their_device(monkeypatch):
    """Autocast is the CPU's here, and the scaler CUDA's."""
    with labelled(monkeypatch) as mode:
        trainer, given = made_of("classify", "fc8", True, CUDA, precision="fp16")
        for rate in (0.01, 0.001):
            assert trainer.update(given, rate).device == CUDA
        assert trainer.scaler.is_enabled() and trainer.scaler.get_scale() == 2.0**16
        names = {name.split(".")[1] for name in mode.launched}
        assert {"_amp_update_scale_", "_fused_sgd_"} <= names
        found = [p.detach().cpu().numpy() for p in trainer.net.parameters()]
    plain, given = made_of("classify", "fc8", True, torch.device("cpu"))
    for rate in (0.01, 0.001):
        plain.update(given, rate)
    for ours, expected in zip(found, plain.net.parameters(), strict=True):
        assert np.allclose(ours, expected.detach().numpy(), rtol=1e-2, atol=1e-4)


@pytest.fixture
def tree(tmp_path):
    """Two classes of ten pictures."""
    rng = np.random.default_rng(0)
    for number in range(20):
        path = tmp_path / "tree" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (230 + number, 240, 3), np.uint8)).save(path)
    return tmp_path / "tree"


@pytest.mark.parametrize("device", [CUDA, MPS], ids=str)
def test_frozen_outputs_and_a_whole_training_are_those_of_the_cpu(monkeypatch, tree, tmp_path, device):
    glorot_(VGG("A", width=1 / 32, num_classes=2)).save(tmp_path / "start.pt")
    recipe = {"net": "A", "width": 1 / 32, "data.dataset": "folder", "precision": "fp32", "schedule.epochs": 1}
    keys = recipe | {"sgd.trainable": "fc", "sgd.batch_size": 4, "init.checkpoint": str(tmp_path / "start.pt")}
    monkeypatch.setattr(stages_train, "resolve_device", torch.device)
    with labelled(monkeypatch):
        ours = vggfeat.train(keys, tree, device=str(device), output=tmp_path / "ours.pt")
    cpus = vggfeat.train(keys, tree, device="cpu", output=tmp_path / "cpus.pt")
    assert ours.errors.loss == pytest.approx(cpus.errors.loss, rel=1e-4)
    features = [(tmp_path / f"{name}.features.f16").stat().st_size for name in ("ours", "cpus")]
    assert features[0] == features[1] > 20 * 2 * 49 * 16, "two crops of each picture"
    weights = [load_net("A", result.best, device="cpu").state_dict() for result in (ours, cpus)]
    for name, value in weights[0].items():
        assert torch.allclose(value, weights[1][name], rtol=1e-4, atol=1e-6), name


@pytest.mark.parametrize(("device", "background"), [(CUDA, True), (MPS, False)], ids=str)
@pytest.mark.parametrize("pool", ["avg", "gem"])
def test_blocks_in_the_background_give_the_descriptors_of_the_cpu(monkeypatch, tree, device, background, pool):
    samples = from_paths(sorted(map(str, tree.rglob("*.png")))).samples
    steps = []

    def described(place):
        net = glorot_(VGG("A", width=1 / 32), seed=1).to(place)
        settings = DescriptorSettings(scales=(224, 256), layers=("conv2_1", "pool5:max", "fc7"), pool=pool)
        extractor = Extractor([net], settings, workers=1)
        run, gather = extractor.run, extractor.gather
        monkeypatch.setattr(extractor, "run", lambda rescaled: (steps.append("run"), run(rescaled))[1])
        monkeypatch.setattr(extractor, "gather", lambda *done: (steps.append("gather"), gather(*done))[1])
        found = [block.descriptors for _, block in describe_blocks(extractor, samples)]
        extractor.close()
        return np.concatenate(found)

    with labelled(monkeypatch):
        ours = described(device)
    assert steps == (["run", "run", "gather", "gather"] if background else ["run", "gather"] * 2)
    assert np.allclose(ours, described(torch.device("cpu")), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("device", [CUDA, MPS], ids=str)
@pytest.mark.parametrize("view", ["dense", "center"])
@pytest.mark.parametrize("classifies", [False, True])
def test_boxes_come_from_the_device_and_are_those_of_the_cpu(monkeypatch, view, classifies, device):
    names = tuple("abcdef")[:CLASSES]

    def net(outputs, place, **record):
        made = glorot_(VGG("A", width=1 / 32, num_classes=outputs, class_names=() if record else names))
        made.training_record = record
        return made.to(place)

    def located(place):
        record = {"recipe": {"task": "localise", "localise": {"head": "pcr"}}, "class_names": list(names)}
        localiser = Localiser(
            [net(4 * CLASSES, place, **record)],
            scales=(256, 288),
            view=view,
            guesses=None if classifies else lambda sample: (np.array([1, 0]), np.array([0.7, 0.3])),
            classifier=net(CLASSES, place) if classifies else None,
        )
        rng = np.random.default_rng(0)
        rescaled = [
            Rescaled(
                Sample(str(n), str(n)),
                (300, 256),
                {
                    ("image", "bilinear", Q): rng.integers(0, 256, (Q, round(Q * 300 / 256), 3), np.uint8)
                    for Q in (256, 288)
                },
            )
            for n in range(2)
        ]
        work = localiser.run(rescaled)
        assert {its.device for views in work.boxes for images in views for its in images} == {place}
        found = localiser.gather(Decoded(2, [0, 1], {}, frozenset()), work)
        localiser.close()
        return found.candidates

    with labelled(monkeypatch):
        ours = located(device)
    for one, other in zip(ours, located(torch.device("cpu")), strict=True):
        assert (one.classes == other.classes).all()
        assert np.allclose(one.boxes, other.boxes, atol=1e-2) and np.allclose(one.ratings, other.ratings, atol=1e-5)


def test_the_labelled_device_refuses_what_cuda_refuses(monkeypatch):
    with labelled(monkeypatch):
        there = torch.ones(2, 2, device=CUDA, requires_grad=True)
        assert (there * torch.tensor(2.0)).device == CUDA, "a number may come from the CPU"
        with pytest.raises(RuntimeError, match="tensors on cpu and cuda:0"):
            there + torch.ones(2, 2)
        with pytest.raises(TypeError, match="can't convert a CUDA tensor"):
            there.detach().numpy()
        (there * there).sum().backward()
        assert there.grad.device == CUDA and there.grad.cpu().tolist() == [[2.0, 2.0], [2.0, 2.0]]


@pytest.mark.parametrize(
    "made",
    [
        lambda: torch.zeros(2, dtype=torch.float64, device=MPS),
        lambda: torch.tensor([1.0], dtype=torch.float64, device=MPS),
        lambda: torch.ones(2).double().to(MPS),
        lambda: torch.ones(2).to(MPS).double(),
        lambda: torch.ones(2, device=MPS).to("cpu", torch.float64),
        lambda: torch.ones(2, device=MPS).sum(dtype=torch.float64),
    ],
)
def test_the_labelled_device_refuses_float64_as_mps_does(monkeypatch, made):
    with labelled(monkeypatch), pytest.raises(TypeError, match="MPS framework doesn't support float64"):
        made()


def test_the_labelled_device_leaves_float64_to_the_cpu(monkeypatch):
    with labelled(monkeypatch):
        assert (torch.ones(2, device=MPS).cpu().double() + torch.zeros(2, dtype=torch.float64)).sum() == 2.0
