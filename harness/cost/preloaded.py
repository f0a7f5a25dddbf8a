"""What every measuring process needs, imported once by the server that they are forked from. It touches no device."""

# ruff: noqa: E402, F401

import os

from vhsbench.harness.common.processes import kill_with_parent

kill_with_parent()  # from now on: the imports take seconds

# libraries ask at import whether there is a GPU: asked of CUDA itself, no forked process could use it
os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"

import open_clip
import torch
from diffusers import (
    FluxPipeline,
    PixArtAlphaPipeline,
    SanaSprintPipeline,
    StableDiffusion3Pipeline,
)
from transformers import Gemma2Model, Qwen2ForCausalLM, T5EncoderModel

import vhsbench.generators.loading
import vhsbench.harness.cost.flops
import vhsbench.verifiers.loading
