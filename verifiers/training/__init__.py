"""The paper's two training stages (A.3): captioning alignment, then yes/no fine-tuning."""

from verifiers.training.clip import train_clip
from verifiers.training.stages import Examples, align, class_weights, finetune, yes_no_loss

__all__ = ["Examples", "align", "class_weights", "finetune", "train_clip", "yes_no_loss"]
