"""vhsbench: best-of-N for text-to-image generators under tiny compute budgets."""

from pathlib import Path

__version__ = "0.1.0"

# in a checkout the packages lie beside this folder; once installed they lie in it
_checkout = Path(__file__).resolve().parents[1]
if (_checkout / "pyproject.toml").is_file() and (_checkout / "harness" / "__init__.py").is_file():
    __path__.append(str(_checkout))
