"""What is used of transformers, imported here alone.

The loader's thread and a command may want it at once. transformers puts another module in its own place as it is
imported, and a second thread would be given the first one, which has no models. Here it waits for this module instead.
"""

import transformers
from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor
from transformers.cache_utils import Cache, DynamicLayer

__all__ = ["Cache", "DynamicLayer", "LogitsProcessorList", "RepetitionPenaltyLogitsProcessor", "transformers"]
