"""What is said of a network's blocks, against networks whose answer is known."""

import pytest
import torch
from torch import nn

from gramian.analysis.inspection.report import inspect_model
from gramian.analysis.inspection.states import FIRST, blocks_of, inspect_states
from gramian.models.example_inputs import Inputs, example_inputs
from gramian.models.opening import Opened


class Net(nn.Module):
    """An embedding and three blocks: a linear one, one that adds nothing but noise to two features, and a ReLU."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 6)
        self.layers = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6), nn.Sequential(nn.Linear(6, 6), nn.ReLU())])
        with torch.no_grad():
            self.layers[1].weight.zero_()
            self.layers[1].weight[0, 0] = self.layers[1].weight[1, 1] = 1.0

    def forward(self, input_ids, attention_mask=None):
        x = self.embed(input_ids)
        for layer in self.layers:
            x = layer(x)
        return x


class Pictures(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU(), nn.Conv2d(4, 5, 3)))

    def forward(self, x):
        return self.blocks(x).mean((2, 3))


@pytest.fixture
def text():
    return [{"input_ids": torch.randint(0, 50, (2, 30))} for _ in range(3)]


def test_linear_blocks_score_one_and_a_relu_less(text):
    found = inspect_states(Net().train(), text, show_progress=False)
    assert [s.name for s in found] == ["layers.0", "layers.1", "layers.2"]
    assert all(s.samples == 6 * (30 - FIRST) for s in found)
    assert found[0].linearity == pytest.approx(1)
    assert found[1].linearity_inside == pytest.approx(1)
    assert found[2].linearity < 0.999
    # the second block keeps two directions
    assert found[1].effective_rank <= 2 + 1e-6
    assert found[0].effective_rank > 2.5
    assert found[1].top_share >= 0.5


def test_few_positions_tell_no_linearity_and_padding_does_not_count():
    ids = torch.randint(0, 50, (1, 18))
    assert inspect_states(Net(), [{"input_ids": ids}], show_progress=False)[0].linearity is None
    mask = torch.ones(2, 40, dtype=torch.bool)
    mask[1, 25:] = False
    batch = {"input_ids": torch.randint(0, 50, (2, 40)), "attention_mask": mask.long()}
    found = inspect_states(Net(), [batch], [mask], show_progress=False)
    assert found[0].samples == 65 - 2 * FIRST
    assert found[0].linearity == pytest.approx(1)


def test_the_mode_comes_back_and_no_hook_stays(text):
    net = Net().train()
    net.layers[0].eval()
    inspect_states(net, text, show_progress=False)
    assert net.training
    assert not net.layers[0].training
    assert not any(m._forward_hooks for m in net.modules())


def test_pictures_with_classes_say_how_far_they_collapse():
    net = Pictures()
    labels = torch.tensor([0, 1] * 6)
    far = torch.randn(2, 3, 1, 1)[labels] * 3
    tight = [{"x": far + 0.01 * torch.randn(12, 3, 10, 10)}]
    loose = [{"x": far + 10 * torch.randn(12, 3, 10, 10)}]
    a, b = (inspect_states(net, x, labels=[labels], show_progress=False)[-1] for x in (tight, loose))
    assert a.within_over_between < 0.01 < b.within_over_between
    assert a.linearity is None
    assert a.width == 5
    assert a.samples == 12 * 36
    with pytest.raises(ValueError, match="labels for"):
        inspect_states(net, tight, labels=[labels[:5]], show_progress=False)
    assert (
        inspect_states(net, tight, labels=[torch.zeros(12).long()], show_progress=False)[0].within_over_between is None
    )


def test_a_network_without_a_list_of_blocks_has_none_and_no_batch_is_refused():
    assert blocks_of(nn.Linear(3, 3)) == []
    assert inspect_states(nn.Linear(3, 3), [{"input": torch.ones(2, 3)}]) == []
    with pytest.raises(ValueError, match="no batch"):
        inspect_states(Net(), [])


def test_the_report_says_it_in_words(text, tmp_path):
    found = inspect_model(Opened("net", Net(), "unknown"), Inputs(text, [None] * 3, "drawn"), fisher=False)
    assert any("affine function" in line for line in found.findings)
    assert any("lowest effective rank: 2 of 6" in line for line in found.findings)
    from gramian.atlas.pages import inspection

    assert len(inspection.state_table(found)) == 3
    assert len(inspection.state_table(found)[0]) == len(inspection._state_columns(found))
    found.made = {"versions": {}, "machine": {"name": "", "cores": 1}, "measured": ""}
    page = inspection.write_inspection(found, tmp_path).read_text()
    assert "Every block" in page
    assert (tmp_path / "figures" / "states.svg").exists()


def test_a_folder_of_folders_brings_its_classes(tmp_path):
    import numpy
    from PIL import Image

    for kind in ("cats", "dogs"):
        (tmp_path / kind).mkdir()
        for i in range(2):
            pixels = numpy.random.default_rng(i).integers(0, 255, (40, 40, 3), dtype=numpy.uint8)
            Image.fromarray(pixels).save(tmp_path / kind / f"{i}.png")
    inputs = example_inputs(Opened("net", Pictures(), "images"), str(tmp_path))
    assert torch.cat(inputs.labels).tolist() == [0, 0, 1, 1]
    assert "2 classes" in inputs.note
