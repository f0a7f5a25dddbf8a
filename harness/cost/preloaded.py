"""What every measuring process needs, imported once by the server that they are forked from. It touches no device."""

import os

# libraries ask at import whether there is a GPU: asked of CUDA itself, no forked process could use it
os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"

import open_clip  # noqa: F401
import torch  # noqa: F401
from diffusers import (
    FluxPipeline,  # noqa: F401
    PixArtAlphaPipeline,  # noqa: F401
    SanaSprintPipeline,  # noqa: F401
    StableDiffusion3Pipeline,  # noqa: F401
)
from transformers import Gemma2Model, Qwen2ForCausalLM, T5EncoderModel  # noqa: F401

import generators.loading  # noqa: F401
import harness.cost.flops  # noqa: F401
import verifiers.loading  # noqa: F401
