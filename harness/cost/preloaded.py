"""What every measuring process needs, imported once by the server that they are forked from. It touches no device."""

import open_clip  # noqa: F401
import torch  # noqa: F401
from diffusers import FluxPipeline, PixArtAlphaPipeline, SanaSprintPipeline, StableDiffusion3Pipeline  # noqa: F401
from transformers import Gemma2Model, Qwen2ForCausalLM, T5EncoderModel  # noqa: F401

import generators.loading  # noqa: F401
import harness.cost.flops  # noqa: F401
import verifiers.loading  # noqa: F401
