"""train.py with FSDP on processors, which accelerate has for GPUs alone.

torchrun --nproc-per-node 2 -m tests.fsdp model_dir=out +trainer.fsdp=true ...
"""

from accelerate import PartialState
from accelerate.utils import DistributedType

import train

if __name__ == "__main__":
    begin = PartialState.__init__

    def begin_as_another(state, *arguments, **options):
        begin(state, *arguments, **options)
        if state.distributed_type == DistributedType.MULTI_CPU:
            # Of the kinds of processes that may become FSDP's this one asks the least of its devices.
            state.distributed_type = DistributedType.MULTI_NEURON

    PartialState.__init__ = begin_as_another
    train.main()
