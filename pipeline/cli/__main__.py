"""``python -m pipeline.cli`` is ``grpo-tta``."""

import sys

from pipeline.cli import main

sys.exit(main())
