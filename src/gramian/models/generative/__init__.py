"""Networks that make images."""

from gramian.models.generative.stylegan2 import StyleGAN2Generator

__all__ = ["StyleGAN2Generator"]
