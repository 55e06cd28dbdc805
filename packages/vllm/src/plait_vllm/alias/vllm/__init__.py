"""Found by a process that a program under ``python -m plait_vllm`` spawned: installs the alias."""

import importlib
import sys

from plait_vllm.finder import install_alias

del sys.modules[__name__]
install_alias()
sys.modules[__name__] = importlib.import_module(__name__)
