from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from vhsbench.harness.common.tasks import TAGS
from vhsbench.harness.sweep.kept_images import gallery_prompts, image_file


def test_a_report_is_built_without_torch():
    code = "import sys, vhsbench.harness.report.build; print('torch' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "False"


def test_the_gallery_takes_the_tasks_in_turn():
    prompts = [{"tag": tag} for tag in TAGS for _ in range(10)]
    assert [prompts[i]["tag"] for i in gallery_prompts(prompts, 12)] == [t for t in TAGS for _ in range(2)]
    assert gallery_prompts(prompts, 0) == []
    assert len(gallery_prompts(prompts[:3], 12)) == 3


def test_a_picture_has_one_place():
    assert image_file(Path("run"), "nano+lora-0.5", 7, 12) == Path("run/images/nano+lora-0.5/00007_0012.png")
