"""``python -m grpo_tta.pipeline.cli`` is ``grpo-tta``."""

import sys

from grpo_tta.pipeline.cli import main

sys.exit(main())
