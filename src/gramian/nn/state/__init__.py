"""State space layers: sequences (batch, length, channels) in and out, with a state that can be carried."""

from gramian.nn.state.convolution import ShortConvolution
from gramian.nn.state.delta_net import DeltaNet
from gramian.nn.state.gla import GatedLinearAttention, GLABlock
from gramian.nn.state.mamba import Mamba
from gramian.nn.state.mixing import Mixing
from gramian.nn.state.s4 import S4
from gramian.nn.state.s4d import S4D
from gramian.nn.state.s5 import S5

__all__ = ["S4", "S4D", "S5", "DeltaNet", "GLABlock", "GatedLinearAttention", "Mamba", "Mixing", "ShortConvolution"]
